"""What a fault may reach: the world, its workers, the ways between them, and a tally of what came to pass."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import psycopg2

from tests.chaos.crew import Crew
from tests.chaos.grounds import GROUNDS
from tests.chaos.network import Network
from tests.chaos.plan import Plan
from tests.chaos.steps import Steps
from tests.failover import Pair
from tests.observer import Observer, Setback
from tests.sinks import index_of
from tests.world import World, wait_for

_PATIENCE = 90
# contents that are there, and no poison; a fault may have given the column another name
_LASTS = "coalesce(row #>> '{attrs,duration}', row #>> '{attrs_once,duration}', '0')"
SOUND = f"deleted_at IS NULL AND (SELECT {_LASTS} FROM to_jsonb(content) AS row) ~ '^-?[0-9]+$'"
_SOME = f"SELECT id FROM content WHERE {SOUND} ORDER BY hashint8(id # %s) LIMIT %s"


@dataclass
class Scene:
    """One round's; faults share it."""

    plan: Plan
    world: World
    crew: Crew
    network: Network
    done: Counter[str] = field(default_factory=Counter)  # what a fault did, in more detail than its name
    cut_short: Counter[str] = field(default_factory=Counter)
    over: threading.Event = field(default_factory=threading.Event)
    steps: Steps = field(default_factory=Steps)
    observer: Observer | None = None
    # of each failover of the monolith: rows that it has lost changes of, and the versions that they have without
    losses: list[dict[int, int]] = field(default_factory=list)
    # what only one fault at a time may have its hands on
    alone: dict[str, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))

    @property
    def indices(self) -> list[str]:
        """Aliases of all entities that have one."""
        return [index_of(context.entity).alias for context in self.world.contexts.values() if index_of(context.entity)]

    def contents(self, dice: Random, count: int) -> list[int]:
        """Some that are there now, and that an adapter takes."""
        return [key for (key,) in self.world.legacy(_SOME, (dice.getrandbits(31), count))]

    def wait_until(self, condition: Callable[[], Any], seconds: float) -> None:
        """Wait for a condition, and no longer than so many seconds."""
        limit = time.monotonic() + seconds
        while not condition() and time.monotonic() < limit:
            self.over.wait(0.05)

    def heal(self, act: Callable[[], Any]) -> None:
        """Do what must be done, whatever server is away just now."""

        def healed() -> bool:
            try:
                act()
            except (psycopg2.OperationalError, psycopg2.InterfaceError, OSError):
                return False
            return True

        wait_for(healed, _PATIENCE)

    @contextmanager
    def undisturbed(self, name: str) -> Iterator[None]:
        """From within a step: nothing else has its hands on that, and no fault begins or ends until the block's end."""
        while True:
            with self.steps.alone():
                if self.alone[name].acquire(blocking=False):
                    try:
                        yield
                    finally:
                        self.alone[name].release()
                    return
            self.over.wait(0.05)

    def note_losses(self, pair: Pair) -> None:
        """Compare the monolith with its standby, which gets nothing more, when all sessions have ended."""
        look, name = GROUNDS[self.plan.ground].versions, self.plan.name
        here, there = look(pair.primary.url(name)), look(pair.standby.url(name))
        self.losses.append(
            {key: there.get(key, -1) for key in here.keys() | there.keys() if here.get(key) != there.get(key)}
        )

    def forget_rows(self) -> None:
        """The new side has lost commits: its rows are as they were before."""
        assert self.observer is not None
        self.observer.forget_rows()

    def is_of_lost_commit(self, setback: Setback) -> bool:
        """Whether a row went back, or came back, since a failover of the monolith has lost a change of it."""
        is_row, key = setback.where.startswith("row"), setback.key
        return is_row and any(key in lost and setback.before >= lost[key] for lost in self.losses)

    def writer(self) -> "closing[Any]":
        """A connection of the monolith's own, as one of its programs has it."""
        return closing(psycopg2.connect(self.world.monolith.admin_url, options="-c lock_timeout=8s"))
