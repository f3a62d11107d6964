"""The follower: keeps the live delta of several entities going, side by side, until told to stop.

Each entity has four threads: one polls, one sends the polls' documents, one does what is owed, one sweeps. What stops
an entity (a changed legacy table, a full disk) is remembered, tried again, and never stops the others. While any thread
moves, the follower's heart beats; it keeps the leases of all entities whose poll gets on. A follower that is killed, or
in which nothing moves any more, loses both within seconds.
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

from sync_pipeline.batch.order import Outcome, Report
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity
from sync_pipeline.errors import BrakeError, LeaseLostError, SyncError, UnreachableError
from sync_pipeline.ledger import queue_table
from sync_pipeline.ledger.cursor import Lease
from sync_pipeline.ledger.ledger import migrate
from sync_pipeline.run.background import in_background
from sync_pipeline.run.capture import open_cursor, resumed
from sync_pipeline.run.document_sender import DocumentSenders
from sync_pipeline.run.garbage import keep_collecting
from sync_pipeline.run.heartbeat import BEAT_SECONDS, beat, free_leases_of_the_gone, leave, quietly
from sync_pipeline.run.live import poll, work
from sync_pipeline.run.new_sinks import fill_new_sinks
from sync_pipeline.run.pace import Pace
from sync_pipeline.run.recover import recover
from sync_pipeline.run.sweep import go_on
from sync_pipeline.run.sweep_requests import sweep_is_due
from sync_pipeline.stores.stores import Stores, first_line
from sync_pipeline.stores.takeover import end_lost_sessions

log = logging.getLogger(__name__)

# a poll that takes longer hangs: its lease is left to run out, and the heartbeat names its entity
HANG_SECONDS = 180.0
_IDLE_WRITE_SECONDS = 1.0
_RETRY_SECONDS = 5.0
_LOOK_SECONDS = 0.5
# so often rows that wait for something else or were refused, and sinks that lack rows, are looked for in vain
_SET_ASIDE_SECONDS = 1.0
# a sweep that waits for a place looks again
_PLACE_SECONDS = 2.0
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
        self._moved: dict[str, float] = {}  # when each entity's poll moved last
        self._paces: dict[str, Pace] = {}
        self._any_moved = self._began = time.monotonic()
        self._hung: list[str] = []  # entities whose poll hung at the last beat

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set. Raises UnreachableError when the ledger cannot be reached at the start."""
        sys.setswitchinterval(_SWITCH_SECONDS)
        migrate(self.stores)
        self._beat()
        threads = [threading.Thread(target=self._keep, args=(entity,), daemon=True) for entity in self.entities]
        for thread in threads:
            thread.start()
        with in_background(partial(keep_collecting, self.stores), "upkeep"):
            while not stop.wait(BEAT_SECONDS):
                quietly(self._beat)
        self._stop.set()
        for halt in list(self._halts.values()):
            halt.set()
        self._beat_until_ended(threads)
        quietly(partial(leave, self.stores, self.name))

    def _beat_until_ended(self, threads: list[threading.Thread]) -> None:
        """Go on beating while threads finish what they do, because a worker that falls silent is killed."""
        while alive := [thread for thread in threads if thread.is_alive()]:
            alive[0].join(BEAT_SECONDS)
            if alive[0].is_alive():
                quietly(self._beat)

    def _keep(self, entity: Entity) -> None:
        """Keep one entity going: whatever stops it, it is opened again."""
        while not self._stop.is_set():
            halt = self._halts[entity.name] = threading.Event()
            if self._stop.is_set():
                return
            self._moved[entity.name] = time.monotonic()
            try:
                context = EntityContext.open(entity, self.stores)
                self.failures.pop(entity.name, None)
                self._side_by_side(context, halt)
            except UnreachableError as error:
                log.warning("store unreachable", extra={"entity": entity.name, "error": str(error)})
            except Exception as error:
                self.failures[entity.name] = error
                is_expected = isinstance(error, SyncError)  # says what to do by itself
                log.error(
                    "entity stopped",
                    extra={"entity": entity.name, "error": first_line(error)},
                    exc_info=not is_expected,
                )
            finally:
                self._moved.pop(entity.name, None)  # whatever is stopped, or has ended, does not hang
            self._stop.wait(0 if halt.is_set() else _RETRY_SECONDS)

    def _side_by_side(self, context: EntityContext, halt: threading.Event) -> None:
        """Poll, work and sweep until `halt`; the first error halts all three and is raised."""
        errors: list[Exception] = []

        def guard(act: Callable[[EntityContext, threading.Event], None]) -> None:
            try:
                act(context, halt)
            except Exception as error:
                errors.append(error)
                halt.set()
            finally:
                if act == self._poll_on:
                    self._moved.pop(context.entity.name, None)

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

    def _poll_on(self, context: EntityContext, halt: threading.Event) -> None:
        entity = context.entity.name
        open_cursor(context)
        while not halt.is_set():
            self._moved[entity] = time.monotonic()
            lease = Lease.take(context.stores, entity, self.name)
            if lease is None:
                free_leases_of_the_gone(context.stores)
                halt.wait(context.stores.settings.poll_seconds)
                continue
            self._leases[entity] = lease
            context.stores.epochs[entity] = lease.epoch
            try:
                if lease.after_loss:
                    end_lost_sessions(context.stores, entity, lease.epoch)
                with context.stores.target() as cursor:
                    queue_table.unclaim_entity(cursor, entity)
                self._poll_under(context, lease, halt)
            except LeaseLostError:
                log.warning("lease lost", extra={"entity": entity})
            except UnreachableError as error:
                log.warning("store unreachable", extra={"entity": entity, "error": str(error)})
                halt.wait(1)
            finally:
                del self._leases[entity]
                context.stores.epochs.pop(entity, None)
                quietly(partial(lease.give_back, context.stores))

    def _poll_under(self, context: EntityContext, lease: Lease, halt: threading.Event) -> None:
        entity = context.entity.name
        kept, pace = 0.0, self._pace(context)
        senders = DocumentSenders(context, self.report)
        with closing(resumed(context)) as source, senders.sending():
            while not halt.is_set():
                idle_write = time.monotonic() - kept >= _IDLE_WRITE_SECONDS
                came = poll(context, lease, source, self._moving, keep_idle=idle_write, senders=senders, halt=halt)
                pace.note(came)
                self._moved[entity] = time.monotonic()
                kept = self._moved[entity] if idle_write else kept
                source.wait(halt, pace.seconds())

    def _pace(self, context: EntityContext) -> Pace:
        """The pace of an entity, shared by its threads."""
        settings = context.stores.settings
        return self._paces.setdefault(context.entity.name, Pace(settings.poll_seconds, settings.idle_poll_seconds))

    def _moving(self, entity: str, outcome: Outcome) -> None:
        self._moved[entity] = time.monotonic()
        self.report(entity, outcome)

    def _work_on(self, context: EntityContext, halt: threading.Event) -> None:
        pace, checked_at, fills, asked_at = self._pace(context), 0.0, False, 0.0
        while not halt.is_set():
            self._any_moved = time.monotonic()
            set_aside = self._any_moved - checked_at >= _SET_ASIDE_SECONDS
            try:
                if fills or self._any_moved - asked_at >= _SET_ASIDE_SECONDS:
                    fills, asked_at = fill_new_sinks(context, halt), self._any_moved
                busy = work(context, self.report, set_aside=set_aside)
                checked_at = time.monotonic() if set_aside and not busy else checked_at
            except UnreachableError as error:
                log.warning("store unreachable", extra={"entity": context.entity.name, "error": str(error)})
                busy = False
            if not busy:
                pace.rest(halt)

    def _sweep_on(self, context: EntityContext, halt: threading.Event) -> None:
        pace = self._pace(context)
        while not halt.is_set():
            self._any_moved = time.monotonic()
            try:
                try:
                    ended = not sweep_is_due(context) or go_on(context, halt)
                finally:
                    recover(context, halt)  # it needs no monolith, and what stops a sweep may last for days
                halt.wait(max(_LOOK_SECONDS, pace.seconds()) if ended else _PLACE_SECONDS)
            except (UnreachableError, BrakeError) as error:
                log.warning("sweep stopped", extra={"entity": context.entity.name, "error": str(error)})
                halt.wait(min(_SWEEP_RETRY_SECONDS, context.stores.settings.sweep_seconds))

    def _beat(self) -> None:
        """Be seen, and hold the leases of all entities but those whose poll hangs.

        The lease of an entity that hangs runs out, so that another follower takes it, and the heartbeat names it. Only
        where nothing moves any more does the heart stop, because a new process is the only remedy then.
        """
        hanging = self.hanging()
        for entity, lease in list(self._leases.items()):
            if entity not in hanging:
                quietly(partial(lease.renew, self.stores))
        if new := sorted(set(hanging) - set(self._hung)):
            log.error("poll hangs", extra={"entity": ", ".join(new)})
        self._hung = hanging
        if hanging and self._stands_still():
            return
        beat(self.stores, self.name, time.monotonic() - self._began, hanging)

    def hanging(self) -> list[str]:
        """Entities whose poll has not moved for HANG_SECONDS."""
        now = time.monotonic()
        return sorted(entity for entity, at in self._moved.items() if now - at > HANG_SECONDS)

    def _stands_still(self) -> bool:
        """Whether no thread of any entity has moved for HANG_SECONDS."""
        return time.monotonic() - max([self._any_moved, *self._moved.values()]) > HANG_SECONDS
