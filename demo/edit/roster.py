"""The contents that may be edited, and who is at them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from random import Random

_HOT = 50
_HOT_SHARE = 0.1
_TRIES = 50


class Roster:
    """Editable ids. A few are hot, so that editors meet; nobody picks what a long transaction holds."""

    def __init__(self, ids: Iterable[int]) -> None:
        self._lock = threading.Lock()
        self._ids = list(ids)
        self._place = {number: place for place, number in enumerate(self._ids)}
        self._users: Counter[int] = Counter()
        self._held: set[int] = set()

    def __len__(self) -> int:
        return len(self._ids)

    def pick(self, rng: Random, hold: bool = False) -> int | None:
        """An id to edit, or None; with `hold`, one that nobody is at, and nobody else gets."""
        with self._lock:
            for _ in range(_TRIES if self._ids else 0):
                reach = min(_HOT, len(self._ids)) if rng.random() < _HOT_SHARE and not hold else len(self._ids)
                number = self._ids[rng.randrange(reach)]
                if number not in self._held and not (hold and self._users[number]):
                    self._take(number, hold)
                    return number
        return None

    def release(self, number: int) -> None:
        """Done with it."""
        with self._lock:
            self._held.discard(number)
            self._users[number] -= 1
            if self._users[number] <= 0:
                del self._users[number]

    def add(self, number: int) -> None:
        """A new content is there."""
        with self._lock:
            if number not in self._place:
                self._place[number] = len(self._ids)
                self._ids.append(number)

    def remove(self, number: int) -> None:
        """A content is gone."""
        with self._lock:
            place = self._place.pop(number, None)
            last = self._ids.pop() if place is not None else None
            if place is not None and last is not None and last != number:
                self._ids[place] = last
                self._place[last] = place

    def _take(self, number: int, hold: bool) -> None:
        self._users[number] += 1
        if hold:
            self._held.add(number)
