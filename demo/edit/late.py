"""Transactions that wrote and commit seconds later: what loses rows of a simple watermark."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from random import Random

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812

_SHARE = 0.01
_Held = tuple[float, int, Connection, Callable[[bool], None]]


class LateTurn:
    """Whose turn it is to commit late: one in a hundred, and somebody after `every` seconds without any."""

    def __init__(self, every: float) -> None:
        self._lock = threading.Lock()
        self._every = every
        self._last = time.monotonic() - every

    def mine(self, rng: Random) -> bool:
        """Whether this transaction is to be late."""
        with self._lock:
            now = time.monotonic()
            chosen = rng.random() < _SHARE or now - self._last > self._every
            self._last = now if chosen else self._last
        return chosen


class LateCommits:
    """Keeps open transactions and commits each at its time; on `finish` or `hurry`, the rest."""

    limit = 60  # of the server's 200 connections

    def __init__(self) -> None:
        self._heap: list[_Held] = []
        self._numbers = itertools.count()
        self._condition = threading.Condition()
        self._ending = False
        self._hurry = False
        self._thread = threading.Thread(target=self._run, name="late commits")

    def start(self) -> None:
        """Begin to commit."""
        self._thread.start()

    def full(self) -> bool:
        """Whether it takes no more."""
        return len(self._heap) >= self.limit

    def keep(self, connection: Connection, seconds: float, done: Callable[[bool], None]) -> None:
        """Commit in so many seconds, close, and tell whether it worked."""
        with self._condition:
            heapq.heappush(self._heap, (time.monotonic() + seconds, next(self._numbers), connection, done))
            self._condition.notify()

    def hurry(self) -> None:
        """Commit everything now."""
        with self._condition:
            self._hurry = True
            self._condition.notify()

    def finish(self) -> None:
        """Wait until all are committed."""
        with self._condition:
            self._ending = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while held := self._next():
            _, _, connection, done = held
            done(_commit(connection))

    def _next(self) -> _Held | None:
        with self._condition:
            while True:
                if self._heap and (self._hurry or self._heap[0][0] <= time.monotonic()):
                    return heapq.heappop(self._heap)
                if self._ending and not self._heap:
                    return None
                self._condition.wait(self._heap[0][0] - time.monotonic() if self._heap else None)


def _commit(connection: Connection) -> bool:
    try:
        connection.commit()
    except psycopg2.Error:
        return False
    finally:
        connection.close()
    return True
