"""Ctrl-C and SIGTERM as a request to end in order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from demo.errors import DemoError

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


@contextmanager
def ending_on_signal() -> Iterator[None]:
    """Make a signal an exception, so that what was started is stopped on the way out; further ones are ignored."""

    def end() -> None:
        for number in _WANTED:
            signal.signal(number, signal.SIG_IGN)
        raise DemoError("Interrupted; everything was stopped.")

    with on_signal(end):
        yield
