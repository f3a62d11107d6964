"""Work that goes on in a thread of its own until the end of a block."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def in_background(act: Callable[[threading.Event], None], name: str) -> Iterator[None]:
    """Run `act` until the block ends: then the event that it was given is set, and its return is awaited."""
    stop = threading.Event()
    thread = threading.Thread(target=act, args=(stop,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
