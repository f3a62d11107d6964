"""How often an entity is looked at: at SYNC_POLL_SECONDS while something comes, less often once it is idle."""

from __future__ import annotations

import threading
import time

# an entity for which nothing has come for so long is idle; from then on it waits for this part of the time it has been
_AWAKE_SECONDS = 5.0
_PART = 1 / 20
_STEP_SECONDS = 0.2


class Pace:
    """The pace of one entity, shared by the thread that polls and the one that does what is due."""

    def __init__(self, poll_seconds: float, idle_seconds: float) -> None:
        self._shortest = poll_seconds
        self._longest = max(poll_seconds, idle_seconds)
        self._busy_at = time.monotonic()
        self._times = 0

    def note(self, came: bool) -> None:
        """Take account of a look: whether anything came."""
        if came:
            self._busy_at = time.monotonic()
            self._times += 1

    def seconds(self) -> float:
        """Returns how long to wait for the next look."""
        idle = time.monotonic() - self._busy_at
        return self._shortest if idle < _AWAKE_SECONDS else max(self._shortest, min(self._longest, idle * _PART))

    def rest(self, halt: threading.Event) -> None:
        """Wait for the next look, but not while something comes elsewhere, and not once `halt` is set."""
        limit, times = time.monotonic() + self.seconds(), self._times
        while (left := limit - time.monotonic()) > 0 and self._times == times and not halt.is_set():
            halt.wait(min(left, max(self._shortest, _STEP_SECONDS)))
