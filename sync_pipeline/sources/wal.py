"""The WAL source: changes as the monolith's write-ahead log tells them, through a logical slot.

The slot keeps the log until we say that the new side has committed, so nothing is lost while nobody follows; it is
watched, since a slot that nobody reads fills the monolith's disk.
"""

from __future__ import annotations

import datetime as dt
import logging
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg2
from psycopg2.extras import REPLICATION_LOGICAL, LogicalReplicationConnection

from sync_pipeline.db.sql import bind
from sync_pipeline.errors import DeclarationError, GapError, SettingError, UnreachableError
from sync_pipeline.model.faults import guarded
from sync_pipeline.model.positions import SourcePosition, State
from sync_pipeline.sources import publication
from sync_pipeline.sources.pgoutput import Begin, Change, Commit, Relation, Truncate, parse
from sync_pipeline.sources.publication_watch import DEFINITION, PublicationSnapshot
from sync_pipeline.sources.replica_identity import Member
from sync_pipeline.sources.roots import Tracked, pages, track_all
from sync_pipeline.sources.slots import FAILOVER_SINCE, create_slot, make_failover, slot_name
from sync_pipeline.sources.source import Page, Source, Subject, mark_last, numbered
from sync_pipeline.sources.wal_keys import Changed, KeyReader
from sync_pipeline.sources.wal_position import Log, check_position, read_log
from sync_pipeline.stores.replica import written_end
from sync_pipeline.stores.sessions import Purpose
from sync_pipeline.stores.stores import first_line

log = logging.getLogger(__name__)

# how long one poll may read before what it has is applied
_READ_SECONDS = 0.1
# a transaction is sent whole: who began it must go on
_STALL_SECONDS = 30.0
_MARK_SECONDS = 0.25
# a transaction of more pages is put behind what is committed after it, from then on
_LONG_PAGES = 2
_VISIBLE_SECONDS = 30.0
_LOOK_SECONDS = 0.002
# a slot that another session is making is waited for
_MADE_SECONDS = 10.0
_MADE_LOOK_SECONDS = 0.05
# so often partitions, heirs and identities are compared with the last look
WATCH_SECONDS = 30.0
_SLOT = """
    SELECT confirmed_flush_lsn - '0/0', wal_status, active_pid,
           pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn)::bigint,
           database = current_database(), coalesce((to_jsonb(s) ->> 'failover')::bool, false), database
    FROM pg_replication_slots s WHERE slot_name = %s
"""


@dataclass(frozen=True)
class _Slot:
    """The slot as the server shows it. `confirmed` is None while another session is making it."""

    confirmed: int | None
    status: str
    reader: int | None
    retained: int
    is_here: bool
    has_failover: bool
    database: str


@dataclass(frozen=True)
class Wal:
    """Changes are caught from the monolith's write-ahead log."""

    name: str = field(default="wal", init=False)

    def open(self, subject: Subject, state: State | None) -> WalSource:
        """The source, from where its last one stood. Raises GapError when the log no longer reaches back so far."""
        source = WalSource(subject, int(state["lsn"]) if state else 0, state.get("part") if state else None)
        if state:
            source.resume(state)
        return source


class WalSource(Source):
    """Reads an entity's slot. `_end` is how far the log was read, at a transaction's end.

    `_given` is how far the pages reach that were given: a transaction's end and, of the one that follows, the position
    of its commit with the number of changes that were given. The server sends a transaction again until it is
    acknowledged as a whole, and always in the same order: so another process passes over as many.
    """

    def __init__(self, subject: Subject, end: int, part: list[int] | None = None) -> None:
        self.subject = subject
        self._slot = slot_name(subject)
        self._end = end
        self._given: tuple[int, list[int] | None] = (end, part)
        self._passed = part or [0, 0]
        self._through: dt.datetime | None = None
        self._mark: tuple[dt.datetime, int] | None = None
        self._marked = self._asked = self._watched = 0.0
        self._retained = 0
        self._connection: Any = None
        self._cursor: Any = None
        self._tracked: list[Tracked] = []
        self._keys: KeyReader | None = None
        self._log: Log | None = None
        self._snapshot: PublicationSnapshot | None = None
        self._gap_at: dt.datetime | None = None
        self._doubted = False
        self._holds = False  # a pull has read messages
        self._lost: UnreachableError | None = None

    def begin(self) -> SourcePosition:
        """Make the slot, unless it is there: what commits after its consistent point is in it.

        Raises DeclarationError, before a slot is made, where the publication would not tell of all changes.
        """
        self._refuse_faults()
        snapshot = self._read_snapshot()
        with self._connected() as replication:
            found = self._slot_now()
            if found is not None and found.status == "lost":
                self._drop()
                found = None
            if found is None:
                with suppress(psycopg2.errors.DuplicateObject):  # another session was quicker
                    create_slot(replication, self._slot)
            found = self._made()
            self._end = int(found.confirmed or 0)
            self._given = (self._end, None)
            if not found.has_failover and not found.reader:
                self._make_failover(replication)
            self._log, self._snapshot = read_log(replication), snapshot
            return SourcePosition(self._state())

    def resume(self, state: State) -> None:
        """Check that the slot still holds what comes after our position. Raises GapError, DeclarationError."""
        snapshot = self._read_snapshot()
        self._refuse_faults()
        with self._connected() as replication:
            with self.subject.stores.legacy() as cursor:
                self._log = check_position(replication, cursor, self._slot, state)
            found = self._slot_now()
            if found is None:
                raise GapError(f"slot {self._slot} is gone from the monolith")
            if found.reader:
                self._end_reader(found.reader)
                found = self._slot_now() or found  # until its end it may have acknowledged
            if found.status == "lost":
                raise GapError(f"slot {self._slot} has lost its log (max_slot_wal_keep_size)")
            if found.confirmed is None or found.confirmed > int(state["lsn"]):
                raise GapError(f"slot {self._slot} was moved on by somebody else")
            if not found.has_failover:
                self._make_failover(replication)
        if changed := snapshot.differs(_watched_of(state)):
            raise GapError(f"slot {self._slot}: {changed}")
        self._snapshot, self._watched = snapshot, time.monotonic()

    def pull(self, rows: int) -> Iterator[Page]:
        """Keys of whole transactions, one or many; those of a long one in several pages.

        A log that was open and is lost before it told anything is an idle one, and `acknowledge` raises: a server that
        goes down asks how far we are, and the driver answers with all that was read; so that must be noted.
        """
        follows, self._holds, self._doubted = self._cursor is not None, False, False
        try:
            yield from self._pages(rows)
        except UnreachableError as error:
            if self._holds or not follows:
                raise
            self._lost, self._given = error, (self._end, None)

    def _pages(self, rows: int) -> Iterator[Page]:
        with self._telling():
            self._start()
            self._set_mark()
            changed: Changed = {}
            xids: set[int] = set()
            part = [0, 0]
            for message in self._messages():
                self._holds = True
                if isinstance(message, Begin):
                    xids.add(message.xid)
                    part = [message.commit, 0]
                elif isinstance(message, Change):
                    part[1] += 1
                    if part[0] != self._passed[0] or part[1] > self._passed[1]:
                        self._reader.note(message, changed)
                elif isinstance(message, Truncate):
                    self._gap_at = self.subject.stores.legacy_now()
                if sum(map(len, changed.values())) >= rows:
                    yield from self._pages_of(changed, xids, rows, [*part])
                    changed = {}
            if not guarded(8):
                self.acknowledge()
            yield from self._pages_of(changed, xids, rows, None)
            self._given = (self._end, None)
            self._reach_mark()

    def position(self) -> SourcePosition:
        """How far the pages reach that were given, and until when that covers all commits."""
        return SourcePosition(self._state(), self._through, gap_at=self._gap_at, last=self._lost is not None)

    def _state(self) -> State:
        assert self._log is not None
        end, part = self._given
        return {
            "lsn": end,
            "slot": self._slot,
            "system": self._log.system,
            "timeline": self._log.timeline,
            "retained_bytes": self._retained,
            **({"part": part} if part else {}),
            **(self._snapshot.state() if self._snapshot else {}),
        }

    def acknowledge(self) -> None:
        """Tell the server what it may forget; now and then ask how far it has come, for an idle log moves on too."""
        if self._lost:
            raise self._lost
        asks = time.monotonic() - self._asked >= _MARK_SECONDS
        self._asked = time.monotonic() if asks else self._asked
        with self._telling():
            end = self._end  # the driver adds to it, by itself, what it has heard of a log that holds nothing of ours
            self._cursor.send_feedback(write_lsn=end, flush_lsn=end, apply_lsn=end, reply=asks, force=True)
        self._gap_at = None

    def wait(self, halt: threading.Event, seconds: float) -> None:
        """Until the log says something."""
        limit = time.monotonic() + seconds
        while self._cursor and not halt.is_set() and (left := limit - time.monotonic()) > 0:
            if select.select([self._cursor], [], [], min(left, 0.1))[0]:
                return

    def close(self) -> None:
        """End the connection; the slot stays."""
        if self._connection:
            with suppress(psycopg2.Error):
                self._connection.close()
        self._connection = self._cursor = None

    def _start(self) -> None:
        if self._cursor:
            return
        with self.subject.stores.legacy() as cursor:
            self._tracked = track_all(cursor, self.subject)
        if self._snapshot is None or time.monotonic() - self._watched > _MARK_SECONDS:
            self._watch()
        connection = self._connect()
        replication = connection.cursor()
        found = read_log(replication)
        if self._log not in {None, found} and guarded(58):
            connection.close()
            raise UnreachableError(f"SYNC_LEGACY_DB: another server answers ({found}): our position is checked again")
        self._connection, self._cursor, self._log = connection, replication, found
        self._keys = KeyReader(self._tracked, self._member, self._doubt)
        self._cursor.start_replication(
            slot_name=self._slot,
            slot_type=REPLICATION_LOGICAL,
            start_lsn=self._end,
            options={"proto_version": "1", "publication_names": self._slot},
            decode=False,
        )

    @property
    def _reader(self) -> KeyReader:
        assert self._keys is not None
        return self._keys

    def _member(self, oid: int) -> Member | None:
        """A table of the entity's trees; one that has come since the last look is looked up."""
        found = self._known(oid)
        if found is None and guarded(55):
            self._watch()
            found = self._known(oid)
        return found

    def _known(self, oid: int) -> Member | None:
        return self._snapshot.by_oid.get(oid) if self._snapshot else None

    def _read_snapshot(self) -> PublicationSnapshot:
        """Look at the publication and the tables. Raises SettingError where the publication is another ledger's."""
        with self.subject.stores.legacy() as cursor:
            snapshot = PublicationSnapshot.take(cursor, self._slot, self._tracked or track_all(cursor, self.subject))
        ledger = self.subject.stores.ledger_id()
        if snapshot.ledger not in {None, ledger}:
            raise SettingError(publication.other_ledger(self._slot, snapshot.ledger, ledger))
        return snapshot

    def _watch(self) -> None:
        """Compare with the last look. What has changed is swept; DeclarationError where it would lose changes."""
        self._watched = time.monotonic()
        before, snapshot = self._snapshot, self._read_snapshot()
        if before and (changed := snapshot.differs(_watched_of(before.state()))):
            names = ", ".join(snapshot.changed_members(before)[:5])
            self._note_gap(f"{changed}: {names}" if names else changed)
        self._snapshot = snapshot

    def _doubt(self, what: str) -> None:
        """The log lacks something. Once a poll is enough, because a sweep finds all of it."""
        if guarded(55) and not self._doubted:
            self._doubted = True
            self._note_gap(what)

    def _note_gap(self, what: str) -> None:
        """Stop where the catalogue is still wrong; else have the sweep find what the log did not tell."""
        self._refuse_faults(what)
        log.warning("gap", extra={"entity": self.subject.entity, "error": what})
        self._gap_at = self.subject.stores.legacy_now()

    def _refuse_faults(self, what: str = "") -> None:
        """Raise DeclarationError for all that would lose changes, with what to do."""
        with self.subject.stores.legacy() as cursor:
            found = [f"{fault} ({remedy})" for fault, remedy in publication.faults(cursor, self.subject)]
        if found:
            raise DeclarationError("\n".join([f"entity {self.subject.entity}: {what or 'source wal'}", *found]))

    def _messages(self) -> Iterator[Begin | Change | Truncate]:
        """Until the log has no more, or the time is up at a transaction's end."""
        limit = time.monotonic() + _READ_SECONDS
        open_transaction = False
        while True:
            sent = self._read(open_transaction)
            if sent is None:
                if not open_transaction:
                    return
                if not select.select([self._cursor], [], [], _STALL_SECONDS)[0]:
                    raise UnreachableError("SYNC_LEGACY_DB: the log stalls in mid-transaction")
                continue
            message = parse(sent.payload)
            if isinstance(message, Commit):
                self._end, open_transaction = message.end, False
                if time.monotonic() > limit:
                    return
            elif isinstance(message, Relation):
                self._reader.learn(message)
            elif message is not None:
                open_transaction = True
                yield message

    def _read(self, open_transaction: bool) -> Any:
        """The next message, if there is one; where all that was sent is read, the server's own position counts."""
        sent = None
        try:
            sent = self._cursor.read_message()
        finally:  # the driver may have answered before the connection was lost
            if sent is None and not open_transaction:
                self._end = max(self._end, self._cursor.wal_end)
        return sent

    def _roots(self, changed: Changed, xids: set[int], rows: int) -> Iterator[Page]:
        if not changed:
            return
        position = numbered("transactions", xids)
        if guarded(6):
            self._wait_visible(xids)
        for n, named in changed.items():
            # one page, though the last change may have named two keys: a page that is no last one moves no position
            found = pages(self.subject, self._tracked[n], named, max(rows, len(named)))
            yield from (replace(page, position=position) for page in found)

    def _pages_of(
        self, changed: dict[int, set[str]], xids: set[int], rows: int, part: list[int] | None
    ) -> Iterator[Page]:
        """The pages of changes that end in a transaction's `part`. A long transaction waits behind later commits."""
        is_long = part is not None and part[1] > _LONG_PAGES * rows
        end = self._end
        for page, is_last in mark_last(self._roots(changed, xids, rows)):
            if is_last:
                self._given = (end, part)
            yield replace(page, fanout=True) if is_long else page

    def _wait_visible(self, xids: set[int]) -> None:
        """A commit is in the log before a query sees it; read earlier, its rows would look unchanged."""
        limit = time.monotonic() + _VISIBLE_SECONDS
        with self.subject.stores.legacy() as cursor:
            while xids:
                cursor.execute("SELECT pg_current_snapshot()::text")
                xids.difference_update(_visible(xids, cursor.fetchone()[0]))
                if xids and time.monotonic() > limit:
                    raise UnreachableError(
                        f"SYNC_LEGACY_DB: {len(xids)} transactions are in the log and not visible after"
                        f" {_VISIBLE_SECONDS:.0f} s; does a synchronous standby lag?"
                    )
                if xids:
                    time.sleep(_LOOK_SECONDS)  # PostgreSQL has no event for a transaction that becomes visible

    def _set_mark(self) -> None:
        """The clock, and how far the log reaches: what was committed before the one is below the other."""
        if self._mark or time.monotonic() - self._marked < _MARK_SECONDS:
            return
        self._marked = time.monotonic()
        with self.subject.stores.legacy() as cursor:
            name = bind(cursor, self._slot)
            cursor.execute(
                "SELECT statement_timestamp(), pg_current_wal_insert_lsn() - '0/0',"
                " pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn)::bigint, p.definition, p.ledger"
                f" FROM pg_replication_slots LEFT JOIN ({DEFINITION}) p ON true WHERE slot_name = {name}",
                (self._slot,),
            )
            found = cursor.fetchone()
        if found is None:
            raise UnreachableError(f"SYNC_LEGACY_DB: slot {self._slot} is gone")
        now, end, retained, definition, ledger = found
        self._mark, self._retained = (now, int(end)), int(retained)
        self._watch_when_due(definition or "", ledger)

    def _watch_when_due(self, definition: str, ledger: str | None) -> None:
        """Look at all of it when the publication is another than at the last look, and now and then."""
        assert self._snapshot is not None
        is_another = guarded(57) and (definition, ledger) != (self._snapshot.definition, self._snapshot.ledger)
        is_time = guarded(56) and time.monotonic() - self._watched >= WATCH_SECONDS
        if is_another or is_time:
            self._watch()

    def _reach_mark(self) -> None:
        if self._mark is None:
            return
        now, position = self._mark
        if self._end >= written_end(position):
            self._through, self._mark = now, None

    def _slot_now(self) -> _Slot | None:
        """The slot, if it is there. Raises SettingError for one of another database."""
        with self.subject.stores.legacy() as cursor:
            cursor.execute(_SLOT, (self._slot,))
            row = cursor.fetchone()
        found = _Slot(*row) if row else None
        if found and not found.is_here:
            raise SettingError(f"slot {self._slot} is of database {found.database}: set another SYNC_SLOT_PREFIX")
        return found

    def _made(self) -> _Slot:
        """The slot; one that another session is making has no position before that session is done."""
        limit = time.monotonic() + _MADE_SECONDS
        while True:
            found = self._slot_now()
            if found is not None and found.confirmed is not None:
                return found
            if time.monotonic() > limit:
                raise UnreachableError(
                    f"SYNC_LEGACY_DB: slot {self._slot} is being made by another session: that waits for all"
                    " transactions that are open now"
                )
            time.sleep(_MADE_LOOK_SECONDS)  # PostgreSQL has no event for a slot that is complete

    def _make_failover(self, replication: Any) -> None:
        """Have standbys keep the slot; where the server refuses that, the slot is used as it is."""
        if replication.connection.server_version >= FAILOVER_SINCE:
            with suppress(psycopg2.Error):
                make_failover(replication, self._slot)

    def _drop(self) -> None:
        with self.subject.stores.legacy() as cursor:
            cursor.execute("SELECT pg_drop_replication_slot(%s)", (self._slot,))

    def _end_reader(self, pid: int) -> None:
        """Who still reads the slot held the lease before us, and hangs."""
        with self.subject.stores.legacy(Purpose.POLL) as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """A replication cursor of its own."""
        with self._telling():
            connection = self._connect()
            try:
                yield connection.cursor()
            finally:
                connection.close()

    def _connect(self) -> Any:
        return self.subject.stores.legacy_session(LogicalReplicationConnection)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except psycopg2.Error as error:
            # what has no code is the driver's own: a server that goes down ends the stream before the connection
            if error.pgcode and not isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
                raise
            self.close()
            raise UnreachableError(f"SYNC_LEGACY_DB: {first_line(error)}") from error


def _watched_of(state: State) -> State:
    """What of a state is compared with the catalogue."""
    return {
        name: state[name]
        for name, hazard in (("publication", 57), ("members", 56))
        if name in state and guarded(hazard)
    }


def _visible(xids: set[int], snapshot: str) -> set[int]:
    """Those of 32-bit `xids` that a snapshot (`xmin:xmax:running`) sees; it counts in 64 bits."""
    _, xmax, running = snapshot.split(":")
    unseen = {int(xid) % 2**32 for xid in running.split(",") if xid}
    return {xid for xid in xids if 0 < (int(xmax) - xid) % 2**32 < 2**31 and xid not in unseen}
