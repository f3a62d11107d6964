"""The WAL source: changes as the monolith's write-ahead log tells them, through a logical slot.

The slot keeps the log until we say that the new side has committed, so nothing is lost while nobody follows; it is
watched, since a slot that nobody reads fills the monolith's disk.
"""

from __future__ import annotations

import datetime as dt
import select
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import psycopg2
from psycopg2.extras import REPLICATION_LOGICAL, LogicalReplicationConnection

from sync_pipeline.errors import DeclarationError, GapError, UnreachableError
from sync_pipeline.faults import guarded
from sync_pipeline.replica import written_end
from sync_pipeline.sources.pgoutput import Begin, Change, Commit, Relation, Truncate, parse
from sync_pipeline.sources.roots import Tracked, pages, track_all
from sync_pipeline.sources.source import Page, Source, Standing, State, Subject, mark_last, numbered
from sync_pipeline.sql import bind
from sync_pipeline.stores import first_line

# how long one poll may read before what it has is applied
_READ_SECONDS = 0.1
# a transaction is sent whole: who began it must go on
_STALL_SECONDS = 30.0
_MARK_SECONDS = 0.25
# a transaction of more pages is put behind what is committed after it, from then on
_LONG_PAGES = 2
_VISIBLE_SECONDS = 30.0
_LOOK_SECONDS = 0.002
_SLOT = """
    SELECT confirmed_flush_lsn - '0/0', wal_status, active_pid,
           pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn)::bigint
    FROM pg_replication_slots WHERE slot_name = %s
"""


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


def slot_name(subject: Subject) -> str:
    """The name of slot and publication."""
    return f"{subject.stores.settings.slot_prefix}_{subject.entity}"


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
        self._marked = self._asked = 0.0
        self._retained = 0
        self._connection: Any = None
        self._cursor: Any = None
        self._tracked: list[Tracked] = []
        self._places: dict[int, list[tuple[int, list[int | bytes]]]] = {}
        self._padded: dict[int, frozenset[int]] = {}
        self._system = ""
        self._emptied_at: dt.datetime | None = None
        self._holds = False  # a pull has read messages
        self._lost: UnreachableError | None = None

    def begin(self) -> Standing:
        """Make the slot, unless it is there: what commits after its consistent point is in it."""
        with self._connected() as cursor:
            found = self._look()
            if found is not None and found[1] == "lost":
                self._drop()
                found = None
            if found is None:
                with suppress(psycopg2.errors.DuplicateObject):  # somebody else was quicker
                    cursor.create_replication_slot(self._slot, slot_type=REPLICATION_LOGICAL, output_plugin="pgoutput")
                found = self._look()
            if found is None or found[0] is None:
                raise UnreachableError(
                    f"SYNC_LEGACY_DB: slot {self._slot} is being made by another session: that waits for all"
                    " transactions that are open now"
                )
            self._end = int(found[0])
            return Standing({"lsn": self._end, "slot": self._slot, "system": _system(cursor)})

    def resume(self, state: State) -> None:
        """Check that the slot still holds what comes after our position. Raises GapError."""
        with self._connected() as cursor:
            is_another = _system(cursor) != state["system"]
        found = self._look()
        if found is None:
            raise GapError(f"slot {self._slot} is gone from the monolith")
        if is_another:
            raise GapError(f"slot {self._slot} is another server's")
        if found[2]:
            self._end_reader(found[2])
            found = self._look() or found  # until its end it may have acknowledged
        confirmed, status, _, _ = found
        if status == "lost":
            raise GapError(f"slot {self._slot} has lost its log (max_slot_wal_keep_size)")
        if confirmed is None or confirmed > int(state["lsn"]):
            raise GapError(f"slot {self._slot} was moved on by somebody else")

    def pull(self, rows: int) -> Iterator[Page]:
        """Keys of whole transactions, one or many; those of a long one in several pages.

        A log that was open and is lost before it told anything is an idle one, and `keep` raises: a server that goes
        down asks how far we are, and the driver answers with all that was read; so that must be noted.
        """
        follows, self._holds = self._cursor is not None, False
        try:
            yield from self._pages(rows)
        except UnreachableError as error:
            if self._holds or not follows:
                raise
            self._lost = error

    def _pages(self, rows: int) -> Iterator[Page]:
        with self._telling():
            self._start()
            self._set_mark()
            changed: dict[int, set[str]] = {}
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
                        self._note(message, changed)
                elif isinstance(message, Truncate):
                    self._emptied_at = self.subject.stores.legacy_now()
                if sum(map(len, changed.values())) >= rows:
                    yield from self._pages_of(changed, xids, rows, [*part])
                    changed = {}
            if not guarded(8):
                self.keep()
            yield from self._pages_of(changed, xids, rows, None)
            self._given = (self._end, None)
            self._reach_mark()

    def standing(self) -> Standing:
        """How far the pages reach that were given, and until when that covers all commits."""
        end, part = self._given
        state: State = {"lsn": end, "slot": self._slot, "system": self._system, "retained_bytes": self._retained}
        if part:
            state["part"] = part
        return Standing(state, self._through, gap_at=self._emptied_at, last=self._lost is not None)

    def keep(self) -> None:
        """Tell the server what it may forget; now and then ask how far it has come, for an idle log moves on too."""
        if self._lost:
            raise self._lost
        asks = time.monotonic() - self._asked >= _MARK_SECONDS
        self._asked = time.monotonic() if asks else self._asked
        with self._telling():
            end = self._end  # the driver adds to it, by itself, what it has heard of a log that holds nothing of ours
            self._cursor.send_feedback(write_lsn=end, flush_lsn=end, apply_lsn=end, reply=asks, force=True)
        self._emptied_at = None

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
        self._connection = self._connect()
        self._cursor = self._connection.cursor()
        self._system = _system(self._cursor)
        self._cursor.start_replication(
            slot_name=self._slot,
            slot_type=REPLICATION_LOGICAL,
            start_lsn=self._end,
            options={"proto_version": "1", "publication_names": self._slot},
            decode=False,
        )

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
                self._learn(message)
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

    def _learn(self, relation: Relation) -> None:
        """Where a table's messages hold what leads to a root, in one way or several. Raises DeclarationError."""
        ways = [(n, tracked) for n, tracked in enumerate(self._tracked) if tracked.oid == relation.oid]
        self._places[relation.oid] = [(n, self._placed(tracked, relation)) for n, tracked in ways]
        self._padded[relation.oid] = relation.padded

    def _placed(self, tracked: Tracked, relation: Relation) -> list[int | bytes]:
        """For each part of the key its place in a row, or the literal that stands for it."""
        lacks = [name for name in tracked.columns if name not in relation.columns or name not in relation.identity]
        if lacks:
            table = tracked.table.name
            raise DeclarationError(
                f"entity {self.subject.entity}: the log does not tell {', '.join(lacks)} of a deleted row of {table}:"
                f" ALTER TABLE {table} REPLICA IDENTITY FULL; and publish all its columns"
            )
        return [
            relation.columns.index(part) if isinstance(part, str) else str(part.value).encode()
            for part in tracked.parts
        ]

    def _note(self, change: Change, changed: dict[int, set[str]]) -> None:
        padded = self._padded.get(change.oid, frozenset())
        for n, places in self._places.get(change.oid, ()):
            noted = changed.setdefault(n, set())
            for row in change.rows:
                values = [_value(row, at, padded) if isinstance(at, int) else at for at in places]
                if all(value is not None for value in values):
                    noted.add(_text([value.decode() for value in values if value is not None]))

    def _roots(self, changed: dict[int, set[str]], xids: set[int], rows: int) -> Iterator[Page]:
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
                    time.sleep(_LOOK_SECONDS)

    def _set_mark(self) -> None:
        """The clock, and how far the log reaches: what was committed before the one is below the other."""
        if self._mark or time.monotonic() - self._marked < _MARK_SECONDS:
            return
        self._marked = time.monotonic()
        with self.subject.stores.legacy() as cursor:
            cursor.execute(
                "SELECT statement_timestamp(), pg_current_wal_insert_lsn() - '0/0',"
                " pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn)::bigint"
                f" FROM pg_replication_slots WHERE slot_name = {bind(cursor, self._slot)}"
            )
            found = cursor.fetchone()
        if found is None:
            raise UnreachableError(f"SYNC_LEGACY_DB: slot {self._slot} is gone")
        self._mark, self._retained = (found[0], int(found[1])), int(found[2])

    def _reach_mark(self) -> None:
        if self._mark is None:
            return
        now, position = self._mark
        if self._end >= written_end(position):
            self._through, self._mark = now, None

    def _look(self) -> tuple[int | None, str, int | None, int] | None:
        with self.subject.stores.legacy() as cursor:
            cursor.execute(_SLOT, (self._slot,))
            found: tuple[int | None, str, int | None, int] | None = cursor.fetchone()
        return found

    def _drop(self) -> None:
        with self.subject.stores.legacy() as cursor:
            cursor.execute("SELECT pg_drop_replication_slot(%s)", (self._slot,))

    def _end_reader(self, pid: int) -> None:
        """Who still reads the slot held the lease before us, and hangs."""
        with self.subject.stores.legacy() as cursor:
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


def _system(cursor: Any) -> str:
    cursor.execute("IDENTIFY_SYSTEM")
    return str(cursor.fetchone()[0])


def _visible(xids: set[int], snapshot: str) -> set[int]:
    """Those of 32-bit `xids` that a snapshot (`xmin:xmax:running`) sees; it counts in 64 bits."""
    _, xmax, running = snapshot.split(":")
    unseen = {int(xid) % 2**32 for xid in running.split(",") if xid}
    return {xid for xid in xids if 0 < (int(xmax) - xid) % 2**32 < 2**31 and xid not in unseen}


def _value(row: Sequence[bytes | None], at: int, padded: frozenset[int]) -> bytes | None:
    value = row[at]
    return value.rstrip(b" ") if value is not None and at in padded else value


def _text(values: list[str]) -> str:
    """As Key.texts writes it."""
    return values[0] if len(values) == 1 else orjson.dumps(values).decode()
