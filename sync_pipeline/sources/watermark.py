"""The watermark source: keys of rows whose stamp moved since the last look."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.db.sql import Cursor
from sync_pipeline.errors import DeclarationError
from sync_pipeline.model.faults import guarded
from sync_pipeline.model.positions import SourcePosition, State
from sync_pipeline.sources.future import AHEAD, FutureStamps
from sync_pipeline.sources.source import Page, Source, Subject
from sync_pipeline.sources.spans import Span, instant, without_covered
from sync_pipeline.sources.stamped_rows import ROW_VERSION, STAMP, StampedRows, pages
from sync_pipeline.sources.stamps import Stamp, stamps_of
from sync_pipeline.sources.table import Table
from sync_pipeline.sources.window import BEGINNING, Mark, Window, earliest, observe

_NEVER = 2**63 - 1
_BEGIN_SECONDS = 10.0
_LOOK_SECONDS = 0.05
# so long a poll gives its own rows, and as long those that earlier polls have left
_TURN_SECONDS = 1.0
# row versions that are remembered from poll to poll, of each table: 1.6 MB
_MOST_VERSIONS = 200_000


@dataclass(frozen=True)
class Watermark:
    """Changes are caught by the timestamps or numbers that the monolith puts on its rows."""

    name: str = field(default="watermark", init=False)

    def open(self, subject: Subject, state: State | None) -> WatermarkSource:
        """The source, from where its last one stood."""
        if not state:
            return WatermarkSource(subject, None)
        spans = [Span.from_state(span) for span in state.get("spans", ())]
        future = FutureStamps.from_state(state.get("future", {}))
        return WatermarkSource(subject, Window.from_state(state), spans, future)


@dataclass(eq=False)
class _Reading:
    """A span that is being read: `pages` goes on where the last page ended, from poll to poll."""

    table: int  # the place of the stamp's table among the entity's
    stamp: Stamp
    span: Span
    pages: Iterator[StampedRows] | None = None
    is_head: bool = False  # of this poll
    is_done: bool = False

    def next(self, subject: Subject, rows: int) -> pa.Table | None:
        """Returns the next page, which may be empty, and moves the span's position behind it; None at the end."""
        if self.pages is None:
            self.pages = pages(subject, self.stamp, self.span, rows)
        page = next(self.pages, None)
        self.is_done = page is None
        if page is None:
            return None
        self.span = replace(self.span, position=page.position)
        return page.table

    def restart(self, span: Span) -> None:
        """Read another span instead."""
        self.span, self.pages = span, None


@dataclass
class WatermarkSource(Source):
    """Reads an entity's stamped tables, poll by poll.

    Each poll gives its newest rows first and ends after a while. Spans that it has not finished are in its state, and
    share the time of later polls with the rows that are stamped then.
    """

    subject: Subject
    window: Window | None
    spans: list[Span] = field(default_factory=list)  # from the state
    future: FutureStamps = field(default_factory=FutureStamps)
    _readings: list[_Reading] = field(default_factory=list)
    _seen: Window | None = None
    _recent: dict[int, pa.Array] = field(default_factory=dict)
    _next: dict[int, list[pa.Array]] = field(default_factory=dict)

    def begin(self) -> SourcePosition:
        """The window of now: rows that are visible already are history's.

        Where numbers are drawn, transactions that are open now are waited for a while: later, the end of each would
        have all rows read.
        """
        limit = time.monotonic() + _BEGIN_SECONDS
        with self.subject.stores.legacy() as cursor:
            window, _ = self._observe(cursor, None)
            while window.unmarked and time.monotonic() < limit:
                time.sleep(_LOOK_SECONDS)  # PostgreSQL has no event for the end of another session's transaction
                window, _ = self._observe(cursor, window)
        return self._position(window)

    def pull(self, rows: int) -> Iterator[Page]:
        """Rows above the bound of the window, then those that earlier polls have left; each for a while.

        Row versions that the poll before has seen are left out.
        """
        heads = self._begin_poll(rows)
        older = self._readings[len(heads) :]
        limit = time.monotonic() + _TURN_SECONDS
        for reading in heads:
            yield from self._read(reading, rows, limit)
        limit = time.monotonic() + _TURN_SECONDS
        for reading in older:
            yield from self._read(reading, rows, limit)
            if time.monotonic() >= limit:
                break
        self._readings = [*(r for r in self._readings if r not in heads), *heads]
        self._readings = [reading for reading in self._readings if not reading.is_done]
        for reading in self._readings:
            reading.is_head = False

    def position(self) -> SourcePosition:
        """As the last look saw it, with what is left of the spans behind the pages given so far."""
        assert self._seen is not None
        return self._position(self._seen)

    def acknowledge(self) -> None:
        """The next poll goes on from this one's window."""
        self.window = self._seen
        self._recent = {n: pa.concat_arrays(parts).slice(0, _MOST_VERSIONS) for n, parts in self._next.items()}

    def wait(self, halt: threading.Event, seconds: float) -> None:
        """Not at all, while spans are left to be read."""
        if not self._readings:
            halt.wait(seconds)

    @cached_property
    def _stamps(self) -> list[tuple[int, Stamp]]:
        """Every stamp, with the place of its table among the entity's."""
        with self.subject.stores.legacy() as cursor:
            return [
                (n, stamp)
                for n, table in enumerate(self.subject.tables)
                for stamp in _stamps(cursor, self.subject, table)
            ]

    def _begin_poll(self, rows: int) -> list[_Reading]:
        """Look, and put this poll's spans before those that are left; they take the place of those they cover."""
        self._resume()
        before, self._next = self.window, {}
        floor = max(BEGINNING.at, before.low - self._margin) if before else BEGINNING.at
        with self.subject.stores.legacy() as cursor:
            self._seen, bound = self._observe(cursor, self.window)
            heads, bound = [], self._bound(bound)
            for n, stamp in self._stamps:
                cap = self.future.cap(cursor, stamp, self._seen.seen.at, rows)
                heads.append(_Reading(n, stamp, Span(stamp.name, bound, cap, floor=floor), is_head=True))
                if cap and not any(r.span.is_future and r.stamp == stamp for r in self._readings):
                    above = self.future.next_span(cursor, stamp, cap, self._seen.low - self._margin)
                    self._readings += [_Reading(n, stamp, above)] if above else []
        for head in heads:
            self._drop_covered(head)
        self._readings = [*heads, *self._readings]
        return heads

    def _resume(self) -> None:
        """Go on with the spans of the state. Of a stamp that is declared no more, all are looked at again."""
        by_name = {stamp.name: (n, stamp) for n, stamp in self._stamps}
        for span in self.spans:
            if span.stamp in by_name:
                self._readings.append(_Reading(*by_name[span.stamp], span))
            elif self.window:
                self.window = replace(self.window, seen=earliest(self.window.seen, span.bound))
        self.spans = []

    def _drop_covered(self, head: _Reading) -> None:
        older = [reading.span for reading in self._readings]
        head.span, rest = without_covered(head.span, older)
        kept = [reading for reading in self._readings if reading.span in rest]
        joined = [span for span in rest if span not in older]
        self._readings = [*(_Reading(head.table, head.stamp, span) for span in joined), *kept]

    def _read(self, reading: _Reading, rows: int, limit: float) -> Iterator[Page]:
        """Pages of one span, at least one, until it ends or the time is up."""
        while (page := reading.next(self.subject, rows)) is not None:
            if self._is_all_future(reading, page, rows):
                self._split(reading)
                continue
            keys = self._unseen(reading, page)
            if keys.num_rows:
                yield Page(keys, fanout=bool(reading.stamp.table.join), position=_since(reading.span.bound))
            if time.monotonic() >= limit:
                return
        self.future.finish(reading.span)

    def _is_all_future(self, reading: _Reading, page: pa.Table, rows: int) -> bool:
        if reading.span.cap or not reading.is_head or reading.stamp.sequence or page.num_rows < rows:
            return False
        assert self._seen
        return instant(page.column(STAMP)[page.num_rows - 1].as_py()) > self._seen.seen.at + AHEAD

    def _split(self, head: _Reading) -> None:
        """So many rows bear stamps of the future that they are read apart, and seldom."""
        assert self._seen
        cap = self._seen.seen.at + AHEAD
        with self.subject.stores.legacy() as cursor:
            above = self.future.begin(cursor, head.stamp, cap, self._seen.low - self._margin, head.span.floor)
        self._readings.append(_Reading(head.table, head.stamp, above))
        head.restart(replace(head.span, cap=cap, position=None))

    def _observe(self, cursor: Cursor, before: Window | None) -> tuple[Window, Mark]:
        lookback = dt.timedelta(seconds=self.subject.stores.settings.blind_lookback_seconds)
        sequences = sorted({stamp.sequence for _, stamp in self._stamps if stamp.sequence})
        return observe(cursor, before, lookback, sequences, self._margin)

    def _bound(self, bound: Mark) -> Mark:
        """From where to read."""
        if not guarded(1) and self.window:
            return self.window.seen
        return bound if bound.at == BEGINNING.at else replace(bound, at=bound.at - self._margin)

    def _position(self, window: Window) -> SourcePosition:
        hides = f"{window.hidden} sessions hide their transactions: the sweep is required" if window.hidden else None
        oldest = min((mark.at for mark in window.holders.values()), default=None)
        spans = [reading.span for reading in self._readings if not reading.is_done]
        state = window.as_state()
        if spans:
            state["spans"] = [span.as_state() for span in spans]
        if ahead := self.future.as_state():
            state["future"] = ahead
        through = min([window.low - self._margin, *self.future.floors(), *(span.floor for span in spans)])
        return SourcePosition(state, through if through > BEGINNING.at else None, oldest, window.oldest, hides)

    def _unseen(self, reading: _Reading, page: pa.Table) -> pa.Table:
        """Keys of row versions that neither the poll before nor another stamp of the table has shown.

        Versions are kept of the newest rows of a poll alone, for the next poll reads no others again as a rule.
        """
        n, versions = reading.table, page.column(ROW_VERSION).combine_chunks()
        parts = [*self._next.get(n, ()), *([self._recent[n]] if n in self._recent else [])]
        if parts:
            page = page.filter(pc.invert(pc.is_in(versions, value_set=pa.concat_arrays(parts))))
        if reading.is_head and sum(map(len, self._next.get(n, ()))) < _MOST_VERSIONS:
            self._next.setdefault(n, []).append(versions)
        keys = page.select(list(self.subject.key.columns))
        return keys.group_by(keys.column_names).aggregate([]) if keys.num_rows else keys

    @property
    def _margin(self) -> dt.timedelta:
        return dt.timedelta(seconds=self.subject.stores.settings.margin_seconds)


def stamped_since(subject: Subject, since: dt.datetime, rows: int) -> Iterator[pa.Table]:
    """Pages of keys of rows that bear a timestamp of `since` or later, whoever has seen them; numbers tell no time.

    Raises DeclarationError for a stamp that is none.
    """
    for table in subject.tables:
        with subject.stores.legacy() as cursor:
            stamps = _stamps(cursor, subject, table)
        for stamp in stamps:
            bound = Mark(since, {stamp.sequence: _NEVER} if stamp.sequence else {})
            for page in pages(subject, stamp, Span(stamp.name, bound), rows):
                yield page.table.select(list(subject.key.columns))


def _since(bound: Mark) -> str:
    if bound.at == BEGINNING.at:
        return "all stamps"
    return ", ".join(
        [f"stamps since {bound.at:%Y-%m-%d %H:%M:%S}Z", *(f"{n} since {at}" for n, at in bound.numbers.items())]
    )


def _stamps(cursor: Cursor, subject: Subject, table: Table) -> list[Stamp]:
    try:
        return stamps_of(cursor, table)
    except DeclarationError as error:
        raise DeclarationError(f"entity {subject.entity}: {error}") from error
