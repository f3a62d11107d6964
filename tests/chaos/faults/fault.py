"""What a fault is: a context in which something is wrong; at its end it is healed."""

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

ALL = ("watermark", "outbox", "wal")
GROUNDS = ("demo", "awkward")
DEMO = ("demo",)
FAULTS: dict[str, "Fault"] = {}


@dataclass(frozen=True)
class Fault:
    """`strike` is called with the scene and the fault's own dice."""

    name: str
    strike: Callable[[Any, Random], AbstractContextManager[None]]
    weight: float
    sources: tuple[str, ...]  # with which it makes sense
    swept: tuple[str, ...]  # which do not claim what it changes: there the sweep must find it
    grounds: tuple[str, ...]
    ends_writers: bool  # whether it may end a writer's transaction that has overwritten a file
    needs_history: bool
    fails_over: str  # the side that it leads to a standby: the round has a server of its own there


def fault(
    weight: float = 1.0,
    sources: tuple[str, ...] = ALL,
    swept: tuple[str, ...] = (),
    *,
    grounds: tuple[str, ...] = GROUNDS,
    ends_writers: bool = False,
    needs_history: bool = False,
    fails_over: str = "",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a generator of one yield under its name."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        strike = contextmanager(function)
        name = function.__name__
        FAULTS[name] = Fault(name, strike, weight, sources, swept, grounds, ends_writers, needs_history, fails_over)
        return strike

    return register
