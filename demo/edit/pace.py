"""Holds a rate: hands out tickets at fixed times, so that a late one is made up for."""

from __future__ import annotations

import threading
import time


class Pace:
    """`rate` tickets a second for `seconds` from the first one on; stops early when told to."""

    def __init__(self, rate: float, seconds: float, stop: threading.Event) -> None:
        self.rate = rate
        self.seconds = seconds
        self.stop = stop
        self._lock = threading.Lock()
        self._issued = 0
        self._start: float | None = None

    @property
    def tickets(self) -> int:
        """How many there are in all."""
        return round(self.rate * self.seconds)

    @property
    def elapsed(self) -> float:
        """Seconds since the first ticket."""
        return 0.0 if self._start is None else time.monotonic() - self._start

    def next(self) -> int | None:
        """Wait for the next ticket and return its number; None when there is none."""
        with self._lock:
            self._start = time.monotonic() if self._start is None else self._start
            number = self._issued
            self._issued += 1
        if number >= self.tickets or self.elapsed > self.seconds:
            return None
        if self.stop.wait(max(0.0, number / self.rate - self.elapsed)):
            return None
        return number
