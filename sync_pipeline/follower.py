"""The follower: keeps the live delta of several entities going, side by side, until told to stop.

Each entity has four threads: one polls, one sends the polls' documents, one does what is owed, one sweeps. What stops
an entity (a changed legacy table, a full disk) is remembered, tried again, and never stops the others. While all of
them get on, the follower's heart beats and it keeps its leases; one that is killed or hangs loses both within seconds.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial

from sync_pipeline import due
from sync_pipeline.batch.order import Outcome, Report
from sync_pipeline.beside import beside
from sync_pipeline.capture import open_cursor, resumed
from sync_pipeline.entity import Entity
from sync_pipeline.errors import BrakeError, LeaseLostError, SyncError, UnreachableError
from sync_pipeline.garbage import collect
from sync_pipeline.heartbeat import BEAT_SECONDS, beat, free_leases_of_the_gone, leave, quietly
from sync_pipeline.lane import Lane
from sync_pipeline.ledger.cursor import Lease
from sync_pipeline.ledger.days import make_ahead
from sync_pipeline.ledger.ledger import migrate
from sync_pipeline.live import poll, work
from sync_pipeline.outgoing import Outgoing
from sync_pipeline.recover import recover
from sync_pipeline.stores import Stores, first_line
from sync_pipeline.sweep import sweep, sweep_is_due

log = logging.getLogger(__name__)

# a poll that takes longer hangs: its lease is left to run out
HANG_SECONDS = 180.0
_IDLE_WRITE_SECONDS = 1.0
_RETRY_SECONDS = 5.0
_LOOK_SECONDS = 0.5
_SWEEP_RETRY_SECONDS = 30.0
# so long a thread that comes back from a store may wait for one that computes; a batch comes back some forty times
_SWITCH_SECONDS = 0.0005


class Follower:
    """Follows entities; `failures` holds what stops an entity now, by name."""

    def __init__(
        self, entities: Iterable[Entity], stores: Stores, report: Report = lambda *_: None, name: str = ""
    ) -> None:
        self.entities = list(entities)
        self.stores = stores
        self.report = report
        self.name = name or f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        stores.worker = self.name
        self.failures: dict[str, Exception] = {}
        self._stop = threading.Event()
        self._halts: dict[str, threading.Event] = {}
        self._leases: dict[str, Lease] = {}
        self._moved: dict[str, float] = {}

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set. Raises UnreachableError when the ledger cannot be reached at the start."""
        sys.setswitchinterval(_SWITCH_SECONDS)
        migrate(self.stores)
        self._beat()
        threads = [threading.Thread(target=self._keep, args=(entity,), daemon=True) for entity in self.entities]
        for thread in threads:
            thread.start()
        while not stop.wait(BEAT_SECONDS):
            quietly(self._beat)
        self._stop.set()
        for halt in list(self._halts.values()):
            halt.set()
        for thread in threads:
            thread.join()
        quietly(partial(leave, self.stores, self.name))

    def _keep(self, entity: Entity) -> None:
        """Keep one entity going: whatever stops it, it is opened again."""
        while not self._stop.is_set():
            halt = self._halts[entity.name] = threading.Event()
            if self._stop.is_set():
                return
            try:
                lane = Lane.open(entity, self.stores)
                self.failures.pop(entity.name, None)
                self._side_by_side(lane, halt)
            except UnreachableError as error:
                log.warning("store unreachable", extra={"entity": entity.name, "error": str(error)})
            except Exception as error:
                self.failures[entity.name] = error
                told = isinstance(error, SyncError)  # says what to do by itself
                log.error(
                    "entity stopped", extra={"entity": entity.name, "error": first_line(error)}, exc_info=not told
                )
            self._stop.wait(0 if halt.is_set() else _RETRY_SECONDS)

    def _side_by_side(self, lane: Lane, halt: threading.Event) -> None:
        """Poll, work and sweep until `halt`; the first error halts all three and is raised."""
        errors: list[Exception] = []

        def guard(act: Callable[[Lane, threading.Event], None]) -> None:
            try:
                act(lane, halt)
            except Exception as error:
                errors.append(error)
                halt.set()

        threads = [
            threading.Thread(target=guard, args=(act,), daemon=True)
            for act in (self._poll_on, self._work_on, self._sweep_on)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            halt.clear()
            raise errors[0]

    def _poll_on(self, lane: Lane, halt: threading.Event) -> None:
        entity = lane.entity.name
        open_cursor(lane)
        while not halt.is_set():
            self._moved[entity] = time.monotonic()
            lease = Lease.take(lane.stores, entity, self.name)
            if lease is None:
                free_leases_of_the_gone(lane.stores)
                halt.wait(lane.stores.settings.poll_seconds)
                continue
            self._leases[entity] = lease
            try:
                with lane.stores.target() as cursor:
                    due.unclaim(cursor, entity)
                self._poll_under(lane, lease, halt)
            except LeaseLostError:
                log.warning("lease lost", extra={"entity": entity})
            except UnreachableError as error:
                log.warning("store unreachable", extra={"entity": entity, "error": str(error)})
                halt.wait(1)
            finally:
                del self._leases[entity]
                quietly(partial(lease.give_back, lane.stores))

    def _poll_under(self, lane: Lane, lease: Lease, halt: threading.Event) -> None:
        entity = lane.entity.name
        kept = 0.0
        outgoing = Outgoing(lane, self.report)
        with closing(resumed(lane)) as source, beside(outgoing.run, "documents"):
            while not halt.is_set():
                idle_write = time.monotonic() - kept >= _IDLE_WRITE_SECONDS
                poll(lane, lease, source, self._moving, keep_idle=idle_write, outgoing=outgoing)
                self._moved[entity] = time.monotonic()
                kept = self._moved[entity] if idle_write else kept
                source.wait(halt, lane.stores.settings.poll_seconds)

    def _moving(self, entity: str, outcome: Outcome) -> None:
        self._moved[entity] = time.monotonic()
        self.report(entity, outcome)

    def _work_on(self, lane: Lane, halt: threading.Event) -> None:
        while not halt.is_set():
            try:
                busy = work(lane, self.report)
            except UnreachableError as error:
                log.warning("store unreachable", extra={"entity": lane.entity.name, "error": str(error)})
                busy = False
            if not busy:
                halt.wait(lane.stores.settings.poll_seconds)

    def _sweep_on(self, lane: Lane, halt: threading.Event) -> None:
        while not halt.is_set():
            try:
                if sweep_is_due(lane):
                    sweep(lane)
                    collect(lane.stores)
                    make_ahead(lane.stores)
                recover(lane, halt)
                halt.wait(_LOOK_SECONDS)
            except (UnreachableError, BrakeError) as error:
                log.warning("sweep stopped", extra={"entity": lane.entity.name, "error": str(error)})
                halt.wait(min(_SWEEP_RETRY_SECONDS, lane.stores.settings.sweep_seconds))

    def _beat(self) -> None:
        """Be seen, and hold the leases, while every entity's poll gets on."""
        hangs = [entity for entity, at in self._moved.items() if time.monotonic() - at > HANG_SECONDS]
        for entity, lease in list(self._leases.items()):
            if entity not in hangs:
                quietly(partial(lease.renew, self.stores))
        if hangs:
            log.error("poll hangs", extra={"entity": ", ".join(hangs)})
            return
        beat(self.stores, self.name)
