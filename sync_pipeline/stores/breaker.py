"""A circuit breaker: a store that does not answer is left alone for a while, then asked once whether it does again."""

from __future__ import annotations

import logging
import random
import threading
import time
from types import TracebackType

from sync_pipeline.errors import IndexFaultError, UnreachableError

log = logging.getLogger(__name__)

_FAILURES = 3
_FIRST_SECONDS = 1.0
_LONGEST_SECONDS = 30.0


class Breaker:
    """Entered by whoever asks a store. Opens after three failures in a row, for 1, 2, 4 … 30 s, with jitter.

    The fault of one index is no failure: the store has answered.

    Entering an open one raises UnreachableError at once. When its time is over the first to come tries, and all others
    are turned away until that one is back.
    """

    def __init__(self, store: str) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._failures = 0
        self._until = 0.0
        self._last_message = ""

    @property
    def is_open(self) -> bool:
        """Whether it is useless to come now."""
        return time.monotonic() < self._until

    def __enter__(self) -> None:
        with self._lock:
            if self.is_open:
                raise UnreachableError(f"{self._last_message} (tried again in {self._until - time.monotonic():.0f} s)")
            if self._failures >= _FAILURES:
                self._until = time.monotonic() + _LONGEST_SECONDS  # others wait for this one's answer

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._lock:
            if isinstance(error, UnreachableError) and not isinstance(error, IndexFaultError):
                self._failed(error)
            else:
                self._answered()

    def _failed(self, error: UnreachableError) -> None:
        self._failures, self._last_message = self._failures + 1, str(error)
        if self._failures >= _FAILURES:
            doubled = _FIRST_SECONDS * 2.0 ** min(self._failures - _FAILURES, 10)
            seconds = min(_LONGEST_SECONDS, doubled) * random.uniform(0.75, 1.25)
            self._until = time.monotonic() + seconds
            log.warning(
                "store left alone", extra={"store": self._store, "seconds": round(seconds, 1), "error": str(error)}
            )

    def _answered(self) -> None:
        if self._failures >= _FAILURES:
            log.warning("store answers again", extra={"store": self._store})
        self._failures, self._until = 0, 0.0
