"""Steps of faults: each fault begins and ends in one. A failover that loses commits waits until none is under way."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Steps:
    """Many steps at a time, or one that is alone.

    What a fault has done to a server, as a column that it has added, must not be lost with a commit: the fault could
    not take it back.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._under_way = 0
        self._is_alone = False

    @contextmanager
    def step(self) -> Iterator[None]:
        """Take a step; it waits for one that is alone."""
        self._begin()
        try:
            yield
        finally:
            self._end()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """From within a step: wait until no other is under way, and keep others waiting until the end of the block."""
        self._end()
        with self._changed:
            self._changed.wait_for(lambda: self._under_way == 0 and not self._is_alone)
            self._is_alone = True
        try:
            yield
        finally:
            with self._changed:
                self._is_alone = False
                self._under_way += 1
                self._changed.notify_all()

    def _begin(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_alone)
            self._under_way += 1

    def _end(self) -> None:
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()
