"""Ctrl-C and SIGTERM as a request to end in order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_WANTED = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def on_signal(end: Callable[[], None]) -> Iterator[None]:
    """Call `end` on the first signal; meant for the main thread."""
    before = {number: signal.signal(number, lambda *_: end()) for number in _WANTED}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)
