"""From where to look for pending events.

An acknowledged event stays in the index of pending ones until no transaction can see it: while the monolith holds one
open (a dump takes hours), each look from the first event on passes all that was acknowledged since. Such looks are
made seldom then, and those between them begin some seconds back.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

# a look from the first event on that takes no longer is made at each poll, a longer one for a part of the time
_CHEAP_SECONDS = 0.01
_PART = 1 / 50
# looks that begin further on reach so far back, or twice as far: most transactions commit sooner
_BACK_SECONDS = 5.0


@dataclass
class Scans:
    """Whether the next look is a whole one, and after which id it begins if it is not.

    What commits later than a look reaches back waits for the next whole one; what is known as reported counts those
    alone.
    """

    _whole_at: float = 0.0
    _highest: int = 0
    _before: int = 0
    _floor: int = 0
    _moved_at: float = 0.0

    def begin(self) -> tuple[bool, int]:
        """Whether to look at all events, and after which id."""
        now = time.monotonic()
        if now - self._moved_at >= _BACK_SECONDS:
            self._floor, self._before, self._moved_at = self._before, self._highest, now
        return (True, 0) if now >= self._whole_at else (False, self._floor)

    def took(self, seconds: float) -> None:
        """So long the server looked for the first page of a whole look."""
        self._whole_at = time.monotonic() + (seconds / _PART if seconds > _CHEAP_SECONDS else 0.0)

    def reached(self, position: int) -> None:
        """An event of this id was pending."""
        self._highest = max(self._highest, position)
