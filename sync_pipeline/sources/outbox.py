"""The outbox source: events written in the monolith's own transactions, acknowledged once the new side holds them.

An event names a row, never its value. What is pending is asked for by its state, not by a position in the sequence of
ids, so an event of a transaction that commits late is not passed over. One follower reads an entity's events at a
time, by its lease at the new side: no lock is held in the monolith while the new side works. Nor does it wait for
one there: an event that a transaction of the monolith has locked is acknowledged later, after the others.
"""

from __future__ import annotations

import datetime as dt
import logging
import select
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import psycopg2
import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.db.sql import bind, copy_out
from sync_pipeline.errors import GapError, SettingError
from sync_pipeline.model.faults import guarded
from sync_pipeline.model.positions import SourcePosition, State
from sync_pipeline.sources.outbox_catalogue import Events, channel
from sync_pipeline.sources.outbox_claim import show_reader
from sync_pipeline.sources.outbox_columns import as_text
from sync_pipeline.sources.outbox_watch import Watch
from sync_pipeline.sources.roots import Tracked, pages, track_all
from sync_pipeline.sources.scans import Scans
from sync_pipeline.sources.source import EventVersions, Page, Source, Subject, mark_last, numbered
from sync_pipeline.sources.table import Table
from sync_pipeline.stores.sessions import Purpose
from sync_pipeline.stores.stores import first_line

log = logging.getLogger(__name__)

EVERYTHING = "*"  # as an aggregate's id: the table was emptied
TRIES = 5
_EVENTS = pa.schema(
    [
        ("id", pa.int64()),
        ("aggregate_type", pa.string()),
        ("aggregate_id", pa.string()),
        ("version", pa.int64()),
        ("emptied", pa.bool_()),
    ]
)
# those acknowledged long ago, from where the last ones were: how many, and when the last of them was acknowledged
_REMOVE = """
    WITH old AS (
        SELECT id FROM {table} WHERE {kind} = ANY(%(kinds)s)
            AND processed_at >= %(since)s AND processed_at < now() - %(keep)s * interval '1 s'
        ORDER BY processed_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED),
    removed AS (DELETE FROM {table} WHERE id IN (SELECT id FROM old) RETURNING processed_at)
    SELECT count(*), max(processed_at) FROM removed
"""
# an event that a transaction of the monolith has locked stays as it is, so that it holds up no other event
_ACKNOWLEDGE = """
    WITH pending AS (SELECT id FROM {table} WHERE id = ANY(%(ids)s) AND processed_at IS NULL),
    free AS (
        SELECT id FROM {table} WHERE id = ANY(%(ids)s) AND processed_at IS NULL FOR NO KEY UPDATE SKIP LOCKED),
    acknowledged AS (
        UPDATE {table} SET processed_at = now(), attempts = coalesce(attempts, 0) + 1, last_error = NULL
        WHERE id IN (SELECT id FROM free) RETURNING id)
    SELECT (SELECT count(*) FROM acknowledged),
           ARRAY(SELECT id FROM pending EXCEPT SELECT id FROM acknowledged)
"""
# the same without its guard: it waits for the lock
_ACKNOWLEDGE_LOCKED = _ACKNOWLEDGE.replace("FOR NO KEY UPDATE SKIP LOCKED", "FOR NO KEY UPDATE")
_REFUSE = """
    WITH free AS (SELECT id FROM {table} WHERE id = %(id)s FOR NO KEY UPDATE SKIP LOCKED),
    refused AS (
        UPDATE {table} SET attempts = coalesce(attempts, 0) + 1, last_error = %(reason)s::{reason_type}
        WHERE id IN (SELECT id FROM free) RETURNING 1)
    SELECT count(*) FROM refused
"""
# few enough that no lock on the monolith's rows lasts
_BATCH = 1_000
_CLEAN_SECONDS = 60.0
_WARN_SECONDS = 60.0
# so long a poll gives the newest events, and as long the backlog
_TURN_SECONDS = 1.0
_LISTENED_SECONDS = 1.0


@dataclass(frozen=True)
class Outbox:
    """Changes are caught from a table of events that is written in the monolith's transactions.

    `table` has the columns id, aggregate_type, aggregate_id, processed_at, attempts and last_error at least. The
    entity's events are those whose aggregate_type is `aggregate` (its own name, if empty), with the root's key as
    aggregate_id; they are acknowledged by this entity alone.

    `version` names the column of the entity's query that counts the row's changes, where events tell it in a column
    `version`: one that the row does not show yet waits, one that is applied is dropped. Every change that such an
    event reports must raise it, those of child rows too; an event that tells none, as of a delete, is always applied.
    """

    table: str = "outbox"
    aggregate: str = ""
    version: str = ""
    name: str = field(default="outbox", init=False)

    def open(self, subject: Subject, state: State | None) -> OutboxSource:
        """The source; where it stands is in the outbox itself. Raises GapError when that is another one."""
        if state and any(state.get(name) != value for name, value in self.state(subject).items()):
            raise GapError(f"the outbox was {state.get('table')}, and is {self.table} now")
        return OutboxSource(subject, self, Watch(subject, self.events(subject), (state or {}).get("digest")))

    def state(self, subject: Subject) -> State:
        """Which events are read."""
        return vars(self.events(subject))

    def events(self, subject: Subject) -> Events:
        """Which events are the entity's."""
        return Events(self.table, self.aggregate or subject.entity)


@dataclass
class OutboxSource(Source):
    """Reads the pending events of an entity."""

    subject: Subject
    outbox: Outbox
    watch: Watch
    _pulled: list[pa.Array] = field(default_factory=list)
    _scans: Scans = field(default_factory=Scans)
    _through: dt.datetime | None = None
    _emptied_at: dt.datetime | None = None
    _clean_at: float = 0.0
    _cleaned: object = "-infinity"  # when the last event that was removed was acknowledged
    _acknowledged: int = 0  # events, of this poll
    _locked: set[int] = field(default_factory=set)  # applied events that transactions of the monolith have locked
    _warn_at: float = 0.0
    _backlog: tuple[int, int] | None = None  # ids: events up to the first are given, and those up to the second are old
    _listener: Any = None
    _announced: bool = False  # the last events that came were notified of
    _silent: bool = False  # the last wait ended without a notice

    def begin(self) -> SourcePosition:
        """Events are pending from the moment on that they are written."""
        self.watch.check()
        return SourcePosition(self._state)

    def pull(self, rows: int) -> Iterator[Page]:
        """Roots that pending events name; an event that names nothing is told so, and in the way of no other.

        A poll ends after a while. What it leaves is the backlog: later polls give the events first that came since, and
        then go on with it for as long.
        """
        self._pulled, self._emptied_at, self._acknowledged, self.watch.gap_at = [], None, 0, None
        self._examine()
        now = self.subject.stores.legacy_now()
        whole, position, newest = False, 0, 0
        if self._backlog is None:
            whole, position = self._scans.begin()
            events = self._first(whole, position, rows)
            newest = yield from self._give_newest(events, rows)
        else:
            position, newest = self._backlog
            newest, _ = yield from self._give(self._pending(newest, rows), newest, rows)
            events = self._pending(position, rows)
        position, is_all = yield from self._give(events, position, rows)
        self._backlog = None if is_all else (position, newest)
        self._through = now if whole and is_all else self._through

    def _give_newest(self, events: pa.Table, rows: int) -> Generator[Page, None, int]:
        """Where more is pending than two pages, give the newest of it before the oldest; returns the highest id."""
        if events.num_rows < rows:
            return 0
        newest = self._pending(0, rows, descending=True)
        ids = newest.column("id").to_pylist()
        if not ids or ids[-1] <= events.column("id")[rows - 1].as_py():
            return max(ids, default=0)
        highest, _ = yield from self._give(newest.take(pa.array(range(len(ids) - 1, -1, -1))), 0, rows)
        return highest

    def _give(self, events: pa.Table, position: int, rows: int) -> Generator[Page, None, tuple[int, bool]]:
        """Give pending events above a position for a while; returns the last one's id, and whether those were all."""
        limit = time.monotonic() + _TURN_SECONDS
        while events.num_rows:
            position = events.column("id")[events.num_rows - 1].as_py()
            self._scans.reached(position)
            self._announced = self._announced and not self._silent
            for kind in pc.unique(events.column("aggregate_type")).to_pylist():
                named = events.filter(pc.equal(events.column("aggregate_type"), kind))
                yield from self._roots(self._tracked(kind), named, rows)
            if events.num_rows < rows:
                break
            if time.monotonic() >= limit:
                return position, False
            events = self._pending(position, rows)
        return position, True

    def position(self) -> SourcePosition:
        """All that was committed before the last whole look is pulled."""
        gaps = [at for at in (self._emptied_at, self.watch.gap_at) if at]
        return SourcePosition(self._state, self._through, blind=self.watch.blind, gap_at=max(gaps, default=None))

    def acknowledge_page(self, page: Page) -> None:
        """Acknowledge the events that are reported with a page."""
        self._write_processed([] if page.events is None else page.events.to_pylist())

    def acknowledge(self) -> None:
        """Acknowledge the events that no page reports, and remove those that were acknowledged long ago."""
        locked, self._locked = sorted(self._locked), set()
        self._write_processed([*pa.concat_arrays(self._pulled).to_pylist(), *locked] if self._pulled else locked)
        self._pulled = []
        self._note_locked()
        if time.monotonic() >= self._clean_at:
            self._clean(2 * self._acknowledged)

    def _write_processed(self, ids: list[int]) -> None:
        self._acknowledged += len(ids)
        for first in range(0, len(ids), _BATCH):
            batch = ids[first : first + _BATCH]
            statement = (_ACKNOWLEDGE if guarded(120) else _ACKNOWLEDGE_LOCKED).format(table=self._table)
            acknowledged, locked = self.subject.stores.write_outbox(statement, {"ids": batch})
            self._locked.update(locked)
            if missing := len(batch) - acknowledged - len(locked):
                self._suspect(missing)

    def _note_locked(self) -> None:
        """Warn of events that transactions of the monolith have locked, once a minute."""
        if self._locked and time.monotonic() >= self._warn_at:
            self._warn_at = time.monotonic() + _WARN_SECONDS
            what = (
                f"{len(self._locked)} applied events of {self._table} are locked by transactions of the monolith, for"
                f" example event {min(self._locked)}: they are acknowledged when these transactions end"
            )
            log.warning("outbox events locked", extra={"entity": self.subject.entity, "error": what})

    def wait(self, halt: threading.Event, seconds: float) -> None:
        """Until the monolith notifies of an event; where it does so for each, polls are a second apart besides.

        Not at all, while there is a backlog.
        """
        if self._backlog is not None:
            return
        limit = time.monotonic() + (max(seconds, _LISTENED_SECONDS) if self._announced else seconds)
        self._silent = True
        try:
            listener = self._listening()
            while not halt.is_set() and (left := limit - time.monotonic()) > 0:
                if select.select([listener], [], [], min(left, 0.1))[0]:
                    listener.poll()
                    listener.notifies.clear()
                    self._announced, self._silent = True, False
                    return
        except (psycopg2.Error, OSError, ValueError):
            self.close()
            halt.wait(seconds)

    def close(self) -> None:
        """Listen no more."""
        if self._listener:
            with suppress(psycopg2.Error):
                self._listener.close()
        self._listener = None

    def _first(self, whole: bool, position: int, rows: int) -> pa.Table:
        began = time.monotonic()
        events = self._pending(position, rows)
        if whole:
            self._scans.took(time.monotonic() - began)
        return events

    def _pending(self, position: int, rows: int, *, descending: bool = False) -> pa.Table:
        columns = self.watch.columns
        kind = as_text(columns, "aggregate_type")
        version = "version" if self.outbox.version else "NULL"
        emptied = f"aggregate_id::text = '{EVERYTHING}'"
        if "event_type" in columns and columns["event_type"].readable:  # a key may read so, too
            emptied += " AND event_type ~* 'truncate'"
        order = "id DESC" if descending else "id"
        attempts = "coalesce(attempts, 0)" if guarded(65) else "attempts"
        with self.subject.stores.legacy(Purpose.POLL) as cursor:
            unlocked = f" AND id <> ALL({bind(cursor, sorted(self._locked))})" if self._locked else ""
            return copy_out(
                cursor,
                f"SELECT id, {kind}, aggregate_id::text, {version}, {emptied} FROM {self._table}"
                f" WHERE processed_at IS NULL AND {kind} = ANY({bind(cursor, self._kinds)}){unlocked}"
                f" AND {attempts} < {TRIES} AND id > {position} ORDER BY {order} LIMIT {rows}",
                _EVENTS,
            )

    @property
    def _table(self) -> str:
        """The outbox with its schema, as the triggers have it."""
        return self.watch.located

    @property
    def _state(self) -> State:
        return {**self.outbox.state(self.subject), "digest": self.watch.digest}

    def _examine(self) -> None:
        """Compare with what was, once a minute, and show that this ledger acknowledges the events."""
        self.watch.check()
        with suppress(psycopg2.Error, OSError):  # without such a session, polls are no closer than they are set
            self._listening()

    def _suspect(self, missing: int) -> None:
        """Say that events were acknowledged or removed by another reader, which may take others before we see them."""
        what = f"{missing} events of {self._table} were acknowledged or removed by another reader than this ledger"
        log.warning("outbox shared", extra={"entity": self.subject.entity, "error": what})
        self.watch.suspect(what)

    @cached_property
    def _kinds(self) -> list[str]:
        """The aggregate_types of the entity's events."""
        return sorted({self.outbox.events(self.subject).of(table) for table in self.subject.tables})

    @cached_property
    def _joined(self) -> dict[str, list[Tracked]]:
        """Joined tables, with each way to their roots, by the aggregate_type of events that name their rows."""
        found: dict[str, list[Tracked]] = {}
        with self.subject.stores.legacy() as cursor:
            for each in track_all(cursor, self.subject):
                if each.table.join:
                    found.setdefault(self.outbox.events(self.subject).of(each.table), []).append(each)
        return found

    def _tracked(self, kind: str) -> list[Tracked]:
        """Whose rows events of a kind name: the root's, or a joined table's."""
        key = self.subject.key
        return self._joined.get(kind) or [Tracked(Table(self.outbox.table, key.columns), 0, key, key.columns)]

    def _roots(self, tracked: list[Tracked], events: pa.Table, rows: int) -> Iterator[Page]:
        if pc.any(events.column("emptied")).as_py():
            self._emptied_at = self.subject.stores.legacy_now()
            self._pulled.append(events.filter(events.column("emptied")).column("id").combine_chunks())
            events = events.filter(pc.invert(events.column("emptied")))
        texts = pc.unique(events.column("aggregate_id")).to_pylist()
        wrong = self._refused(tracked[0], texts)
        refused = pc.is_in(events.column("aggregate_id"), value_set=pa.array([*wrong], pa.string()))
        self._report_event(events.filter(refused), wrong)
        named = events.filter(pc.invert(refused))
        self._pulled.append(named.column("id").combine_chunks())
        position = numbered("events", named.column("id").to_pylist())
        event_versions = self._event_versions(named) if self.outbox.version and not tracked[0].table.join else {}
        found = self._pages(tracked, [text for text in texts if text not in wrong], rows)
        for page, is_last in mark_last(found):
            own = self.subject.key.texts(page.keys).to_pylist() if event_versions else []
            events = None
            if is_last:
                events, self._pulled = pa.concat_arrays(self._pulled), []
            yield replace(
                page, event_versions={text: event_versions[text] for text in own}, position=position, events=events
            )

    def _pages(self, tracked: list[Tracked], texts: list[str], rows: int) -> Iterator[Page]:
        for each in tracked:
            yield from pages(self.subject, each, texts, rows)

    def _event_versions(self, named: pa.Table) -> dict[str, EventVersions]:
        """By root, what its events tell, one after the other."""
        texts = self.subject.key.texts(self.subject.key.parse(named.column("aggregate_id").to_pylist())).to_pylist()
        found: dict[str, EventVersions] = {}
        for text, version in zip(texts, named.column("version").to_pylist(), strict=True):
            found[text] = found.get(text, EventVersions()).then(version)
        return found

    def _refused(self, tracked: Tracked, texts: list[str]) -> dict[str, str]:
        """Ids that are no keys, with the reason; all at once where all are."""
        try:
            tracked.named.parse(texts)
        except SettingError as error:
            if len(texts) == 1:
                return {texts[0]: first_line(error)}
            half = len(texts) // 2
            return self._refused(tracked, texts[:half]) | self._refused(tracked, texts[half:])
        return {}

    def _report_event(self, events: pa.Table, wrong: dict[str, str]) -> None:
        """Leave the reason with an event that names nothing; after some tries it has failed and is left alone."""
        for event, text in zip(events.column("id").to_pylist(), events.column("aggregate_id").to_pylist(), strict=True):
            reason_type = self.watch.columns["last_error"].full_type
            statement = _REFUSE.format(table=self._table, reason_type=reason_type)
            self.subject.stores.write_outbox(statement, {"id": event, "reason": wrong[text]})

    def _clean(self, most: int) -> None:
        """Remove a batch, or `most`: some a poll, so that none is held up, and more than come, so that none is left."""
        left = max(most, _BATCH)
        while left > 0:
            removed = self._remove()
            if removed < _BATCH:
                self._clean_at = time.monotonic() + _CLEAN_SECONDS
                return
            left -= removed

    def _remove(self) -> int:
        """Go on from where the last ones were: what was removed is passed again while anybody can see it."""
        wanted = {
            "kinds": self._kinds,
            "since": self._cleaned,
            "keep": self.subject.stores.settings.outbox_keep_seconds,
            "limit": _BATCH,
        }
        kind = as_text(self.watch.columns, "aggregate_type")
        removed, last = self.subject.stores.write_outbox(_REMOVE.format(table=self._table, kind=kind), wanted)
        self._cleaned = last or self._cleaned
        return int(removed)

    def _listening(self) -> Any:
        if self._listener is None:
            self._listener = self.subject.stores.legacy_session()
            self._listener.autocommit = True
            with self._listener.cursor() as cursor:
                cursor.execute(f"LISTEN {channel(self.outbox.table)}")
                events = self.outbox.events(self.subject)
                show_reader(cursor, self._table, events.aggregate, self.subject.stores.ledger_id())
        return self._listener
