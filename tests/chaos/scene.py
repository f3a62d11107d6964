"""What a fault may reach: the world, its workers, the ways between them, and a tally of what came to pass."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from random import Random
from typing import Any

import psycopg2

from tests.chaos.crew import Crew
from tests.chaos.network import Network
from tests.chaos.plan import Plan
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
    # what only one fault at a time may have its hands on
    alone: dict[str, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))

    @property
    def indices(self) -> list[str]:
        """Aliases of all entities that have one."""
        return [lane.entity.index.alias for lane in self.world.lanes.values() if lane.entity.index]

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

    def writer(self) -> "closing[Any]":
        """A connection of the monolith's own, as one of its programs has it."""
        return closing(psycopg2.connect(self.world.monolith.admin_url, options="-c lock_timeout=8s"))
