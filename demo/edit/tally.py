"""Counts what the editors did."""

from __future__ import annotations

import threading
from collections import Counter


class Tally:
    """Counters that many threads may add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.kinds: Counter[str] = Counter()
        self.rolled_back = 0
        self.failed = 0
        self.late = 0
        self.seconds = 0.0

    @property
    def committed(self) -> int:
        """All committed transactions."""
        return sum(self.kinds.values())

    @property
    def rate(self) -> float:
        """Committed transactions a second."""
        return self.committed / self.seconds if self.seconds else 0.0

    def commit(self, kind: str, late: bool = False) -> None:
        """Count a committed transaction."""
        with self._lock:
            self.kinds[kind] += 1
            self.late += late

    def roll_back(self) -> None:
        """Count a transaction that was meant to be rolled back."""
        with self._lock:
            self.rolled_back += 1

    def fail(self) -> None:
        """Count a transaction that did not work."""
        with self._lock:
            self.failed += 1

    def line(self) -> str:
        """The report."""
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.kinds.items()))
        return (
            f"committed {self.committed} in {self.seconds:.1f} s ({self.rate:.1f}/s; {self.late} of them late), "
            f"rolled back {self.rolled_back}, failed {self.failed}: {kinds or 'nothing'}"
        )
