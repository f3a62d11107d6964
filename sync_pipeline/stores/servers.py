"""Watches which servers a process is connected to: before a connection is used, and every few seconds.

A connection leads to one server for as long as it lasts, unless a pooler stands between. So each new one is compared
with what the ledger has recorded, and each one again after some seconds, or once this process has noticed a change.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg2
import psycopg2.errors

from sync_pipeline.db.sql import Cursor
from sync_pipeline.errors import UnreachableError
from sync_pipeline.ledger import servers as ledger
from sync_pipeline.ledger.release import writer_settings
from sync_pipeline.ledger.servers import Change, Recorded, Server, Side
from sync_pipeline.model.faults import guarded

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
_KEY = "server looked at"
# a server that does not tell who it is cannot be watched: a managed one may be made so
_HIDDEN = (
    psycopg2.errors.InsufficientPrivilege,
    psycopg2.errors.FeatureNotSupported,
    psycopg2.errors.UndefinedFunction,
)

Target = Callable[[], AbstractContextManager[Cursor]]


class ServerWatch:
    """The servers of one process. `target` opens a transaction at the new side, `at_once` single statements."""

    def __init__(self, target: Target, at_once: Target) -> None:
        self._target = target
        self._at_once = at_once
        self._generation = 0
        self._lock = threading.Lock()
        self._read_above = 0
        self.monolith: Recorded | None = None
        self.accepts_all = False  # a person who accepts a server has to look at it
        self.recovers = False  # some entity is to be compared with what the new side's ledger has lost

    @property
    def timeline(self) -> int | None:
        """The monolith's timeline as this process knows it."""
        return self.monolith.timeline if self.monolith else None

    def check_again(self) -> None:
        """Have each connection compared before its next use."""
        with self._lock:
            self._generation += 1

    def check(self, side: Side, connection: Any, info: dict[Any, Any]) -> None:
        """Compare a pooled connection's server, unless that was done lately. `info` is kept with the connection.

        Raises OtherServerError, UnreachableError, psycopg2.Error.
        """
        generation, checked_at = info.get(_KEY, (-1, 0.0))
        if generation == self._generation and time.monotonic() - checked_at < LOOK_SECONDS:
            return
        if self.accepts_all or not guarded(109):
            return
        generation = self._generation
        connection.autocommit = True
        with connection.cursor() as cursor:
            try:
                known = self._check_monolith(cursor) if side is Side.MONOLITH else self._check_new_side(cursor)
            except _HIDDEN as error:
                log.warning("server not watched", extra={"side": side, "error": str(error).strip()})
                known = True
        if known:
            info[_KEY] = generation, time.monotonic()

    def check_read(self, cursor: Cursor, revision: int) -> None:
        """End the caller's transaction where a revision's batch has read from a server that the monolith has left.

        Raises UnreachableError; the ledger's own answer comes with the transaction's next statement.
        """
        if guarded(113) and revision <= self._read_above:
            raise UnreachableError("SYNC_LEGACY_DB: the monolith's server has changed since rows were read")
        ledger.check_read(cursor, revision, self.timeline)

    def accept(self, side: Side, server: Server, *, again: bool = False) -> bool:
        """Record a server that a person has accepted, as after a failover.

        Returns False where it is the recorded one, unless that is accepted `again`.
        """
        with self._target() as cursor:
            before = ledger.recorded(cursor, side)
            if before is None:
                ledger.record(cursor, side, server)
                return True
            if not again and ledger.change_of(before, server) in (Change.NONE, Change.RESTARTED):
                return False
            cause = f"the {_words(side)}: its server was accepted by a person"
            return ledger.note_change(cursor, side, before, server, cause)

    def _check_monolith(self, cursor: Cursor) -> bool:
        """Returns False where the ledger could not be asked, which is tried again at the next use."""
        try:
            with self._at_once() as own:
                before = ledger.recorded(own, Side.MONOLITH)  # before the server is asked
        except UnreachableError:
            if self.monolith is None:
                return False
            before = self.monolith
            self._compare(Side.MONOLITH, before, ledger.read_server(cursor))
            return False
        server = ledger.read_server(cursor)
        if before is None:
            before = self._record(Side.MONOLITH, server)
        if before is None:
            return True
        change = self._compare(Side.MONOLITH, before, server)
        if change is Change.LOST:
            self._note(Side.MONOLITH, before, server)
            return self._check_monolith(cursor)
        with self._target() as own:
            if ledger.is_set_back(before, server):
                log.warning("the monolith's clock was set back", extra={"to": str(server.now)})
                ledger.take_back_claims(own, server.now)
            _touch(own, Side.MONOLITH, server)
        self._believe(before)
        return True

    def _record(self, side: Side, server: Server) -> Recorded | None:
        """Record a server where there is a ledger that has none; None where there is no ledger yet."""
        if server.in_recovery:
            return None
        with self._target() as own:
            own.execute("SELECT to_regclass('sync.server') IS NOT NULL")
            if not own.fetchone()[0]:
                return None
            ledger.record(own, side, server)
            return ledger.recorded(own, side)

    def _believe(self, before: Recorded) -> None:
        """Batches that have read by what this process knew before must not commit: they read again."""
        if self.monolith is None or self.monolith.changed_at != before.changed_at:
            if self.monolith is not None:
                with self._at_once() as own:
                    own.execute("SELECT nextval('sync.revision')")
                    self._read_above = int(own.fetchone()[0])
                self.check_again()
            self.monolith = before

    def _compare(self, side: Side, before: Recorded, server: Server) -> Change:
        change = ledger.change_of(before, server)
        if change is Change.OTHER:
            raise ledger.other_server(side, before, server)
        return change

    def _note(self, side: Side, before: Recorded, server: Server) -> None:
        with self._target() as own:
            _note(own, side, before, server)
        self.check_again()

    def _check_new_side(self, cursor: Cursor) -> bool:
        """The ledger is in the database that is looked at, so it may know less than it did."""
        before = ledger.recorded(cursor, Side.NEW_SIDE)
        server = ledger.read_server(cursor)
        if server.in_recovery:
            return True
        if before is None:
            cursor.execute("SELECT to_regclass('sync.server') IS NOT NULL")
            if cursor.fetchone()[0]:
                ledger.record(cursor, Side.NEW_SIDE, server)
            return True
        change = self._compare(Side.NEW_SIDE, before, server)
        if change is Change.LOST:
            with _transaction(cursor):
                _note(cursor, Side.NEW_SIDE, before, server)
            self.check_again()
            return self._check_new_side(cursor)
        self.recovers = ledger.any_recovering(cursor)
        with _transaction(cursor):
            if ledger.is_set_back(before, server):
                log.warning("the new side's clock was set back", extra={"to": str(server.now)})
                ledger.take_back_times(cursor)
            _touch(cursor, Side.NEW_SIDE, server)
        return True


def _touch(cursor: Cursor, side: Side, server: Server) -> None:
    """Record how far the server has come, where the ledger takes writes now."""
    cursor.execute("SELECT current_setting('transaction_read_only')::boolean")
    if not cursor.fetchone()[0]:
        ledger.touch(cursor, side, server)


def _note(cursor: Cursor, side: Side, before: Recorded, server: Server) -> None:
    cause = (
        f"its server went from timeline {before.timeline} to {server.timeline}"
        if server.timeline != before.timeline
        else "its server was set back, or restarted without all that it had shown"
    )
    if ledger.note_change(cursor, side, before, server, f"the {_words(side)}: {cause}"):
        log.error("server changed", extra={"side": side, "error": cause})


def _words(side: Side) -> str:
    return side.value.replace("-", " ")


@contextmanager
def _transaction(cursor: Any) -> Iterator[None]:
    """A transaction on a connection that is checked before its use; the ledger knows the release that writes it."""
    cursor.execute("BEGIN")
    for name, value in writer_settings().items():
        cursor.execute("SELECT set_config(%s, %s, true)", (name, value))
    try:
        yield
    except BaseException:
        cursor.execute("ROLLBACK")
        raise
    cursor.execute("COMMIT")


def replica_faults(primary: Server, replica: Server) -> str:
    """Return why a replica's rows cannot be taken for the primary's, or nothing where they can."""
    if primary.timeline == replica.timeline:
        return ""
    return (
        f"the replica is on timeline {replica.timeline}, the primary on {primary.timeline}: it has not received the"
        " primary's log since a failover, or follows another server"
    )
