"""Eight writers at once, until the end of a block."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from random import Random
from typing import Any

import psycopg2
from botocore.exceptions import BotoCoreError, ClientError

from tests.awkward.changes import WEIGHTS, Change, overwrite_file
from tests.awkward.desk import Desk
from tests.world import World

WRITERS = 8
_PAUSE_SECONDS = 0.2
_LATE_SECONDS = 2.0
_OPTIONS = "-c lock_timeout=3s -c deadlock_timeout=200ms"


class Writers:
    """Counts what was committed, by the change's name, and what was rolled back, late or deadlocked."""

    def __init__(self, world: World, seed: int, without: frozenset[Change] = frozenset()) -> None:
        self.world = world
        self.seed = seed
        self.weights = {change: weight for change, weight in WEIGHTS.items() if change not in without}
        self.tally: Counter[str] = Counter()
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()

    @contextmanager
    def at_work(self) -> Iterator["Writers"]:
        """Write until the end of the block; every open transaction has ended by then."""
        threads = [threading.Thread(target=self._write, args=(n,)) for n in range(WRITERS)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        if self.errors:
            raise self.errors[0]

    @property
    def committed(self) -> int:
        """How many transactions."""
        return sum(n for name, n in self.tally.items() if not name.startswith("("))

    def _write(self, number: int) -> None:
        rng = Random(self.seed * WRITERS + number)
        try:
            while not self._stop.is_set():
                with suppress(psycopg2.OperationalError):  # the server is away: again through another connection
                    self._write_through(rng)
                self._stop.wait(_PAUSE_SECONDS)
        except BaseException as error:
            self.errors.append(error)

    def _write_through(self, rng: Random) -> None:
        with closing(
            psycopg2.connect(self.world.monolith.admin_url, options=_OPTIONS, connect_timeout=5)
        ) as connection:
            while not self._stop.wait(_PAUSE_SECONDS * rng.random()):
                change = rng.choices([*self.weights], [*self.weights.values()])[0]
                try:
                    self._count(self._transaction(connection, change, rng))
                except (psycopg2.errors.DeadlockDetected, psycopg2.errors.LockNotAvailable):
                    connection.rollback()
                    self._count("(deadlock)")
                except (psycopg2.IntegrityError, BotoCoreError, ClientError):
                    connection.rollback()
                    self._count("(clash)")

    def _transaction(self, connection: Any, change: Change, rng: Random) -> str:
        """One change, at times behind a savepoint that is rolled back to, late, or not at all."""
        desk = Desk.of(self.world, connection.cursor(), rng)
        rolls_back = change is not overwrite_file  # bytes stay as they are, whatever becomes of the transaction
        if rolls_back and rng.random() < 0.1:
            desk.run("SAVEPOINT before")
            change(desk)
            desk.run("ROLLBACK TO SAVEPOINT before")
            desk.run("SAVEPOINT inside")
        change(desk)
        if rolls_back and rng.random() < 0.05:
            connection.rollback()
            return "(rolled back)"
        if rng.random() < 0.02:
            self._stop.wait(_LATE_SECONDS)
            self._count("(late)")
        connection.commit()
        return change.__name__

    def _count(self, name: str) -> None:
        with self._lock:
            self.tally[name] += 1
