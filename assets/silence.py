"""How long each worker has been silent, as one observer sees it.

The observer compares marks: a worker whose mark has changed since the last look has beaten its heart. Only time that
passed between two looks counts, by the observer's monotonic clock, and of a long pause only a part. So neither a step
of a clock nor a pause of the observer makes a worker look silent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# of the time between two looks at most so much counts as silence: a longer pause was the observer's own
LONGEST_PAUSE_SECONDS = 10.0


@dataclass(frozen=True)
class Silence:
    """What was seen at the last look (`at`, monotonic seconds): each worker's mark, and how long it has been so."""

    at: float | None = None
    marks: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_cursor(cls, text: str | None) -> Silence:
        """Read what `to_cursor` wrote; anything else, such as an older version's cursor, begins anew."""
        found: Any = json.loads(text or "{}")
        if not isinstance(found, dict) or "silent" not in found:
            return cls()
        silent = found["silent"]
        return cls(
            found["at"],
            {name: mark for name, (mark, _) in silent.items()},
            {name: seconds for name, (_, seconds) in silent.items()},
        )

    def to_cursor(self) -> str:
        """As text, for a sensor's cursor."""
        return json.dumps(
            {"at": self.at, "silent": {name: [self.marks[name], self.seconds[name]] for name in self.marks}}
        )

    def look(self, marks: Mapping[str, str], now: float) -> Silence:
        """Look at all workers' marks at a time of the observer's monotonic clock."""
        passed = 0.0 if self.at is None else min(max(now - self.at, 0.0), LONGEST_PAUSE_SECONDS)
        seconds = {
            name: self.seconds[name] + passed if self.marks.get(name) == mark else 0.0 for name, mark in marks.items()
        }
        return Silence(now, dict(marks), seconds)
