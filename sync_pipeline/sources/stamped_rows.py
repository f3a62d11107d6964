"""Rows of a stamped table by their stamps, in pages.

An index on the stamp alone gives the rows of one stamp in no order, so each page reads all of them. A bulk update puts
one stamp on millions: n rows in pages of f are n² / 2f reads. Where that is more than the table has rows, the rest of
such a stamp is read in the order of the table's keys instead, rows of other stamps included, each once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.db.plans import estimated_rows, sort_of
from sync_pipeline.db.sql import Cursor, bind, copy_out
from sync_pipeline.sources.roots import roots_of
from sync_pipeline.sources.source import Subject
from sync_pipeline.sources.spans import Position, Span
from sync_pipeline.sources.stamps import Stamp
from sync_pipeline.sources.window import BEGINNING
from sync_pipeline.stores.sessions import Purpose

STAMP = "_stamp"
ROW_VERSION = "_row"
# rows that one query fetches at most
_FETCH_ROWS = 100_000
_FETCH_BYTES = 16 << 20


@dataclass(frozen=True)
class StampedRows:
    """A page: keys of roots with `_stamp` (string) and `_row` (int64, the row version), and where it ends."""

    table: pa.Table
    position: Position


@dataclass
class _Reader:
    """Reads the rows of a span, the newest stamp first, and of one stamp the highest key first."""

    subject: Subject
    stamp: Stamp
    span: Span
    rows: int  # of a page
    fetched: int  # of a query

    def pages(self) -> Iterator[StampedRows]:
        asked = None
        while True:
            found = self._fetch()
            yield from self._cut(found)
            if found.num_rows < self.fetched:
                return
            at, names = self._end_of(found)
            self.span = replace(self.span, position=(at, names))
            self._widen(found)
            if at != asked and found.column(STAMP)[0].as_py() == at:
                asked = at
                if self._goes_by_key():
                    yield from self._by_key(at, names)

    def _by_key(self, at: str, last: list[str]) -> Iterator[StampedRows]:
        """Read the rest of one stamp in the order of keys. Pages may be empty. The span's position moves with them."""
        while True:
            found = self._fetch_below(last)
            is_end = found.num_rows < self.fetched
            whole = found if is_end else self._without_last_key(found)
            if not is_end and not whole.num_rows:
                return  # one root has more rows than a query fetches: in the order of stamps it goes on
            last = self._end_of(whole)[1] if not is_end else []
            yield from self._cut(whole.filter(pc.equal(whole.column(STAMP), at)), (at, last))
            self.span = replace(self.span, position=(at, last))
            if is_end:
                return

    def _without_last_key(self, found: pa.Table) -> pa.Table:
        """Leave out the rows of the last key, because the next query may find more of them."""
        texts = self.subject.key.texts(found.select(list(self.subject.key.columns)))
        return found.filter(pc.not_equal(texts, texts[-1]))

    def _cut(self, found: pa.Table, end: Position | None = None) -> Iterator[StampedRows]:
        """Cut what a query has found into pages. The last one ends at `end`, and is empty if nothing was found."""
        for first in range(0, found.num_rows, self.rows):
            page = found.slice(first, self.rows)
            is_last = first + self.rows >= found.num_rows
            yield StampedRows(page, end if end and is_last else self._end_of(page))
        if end and not found.num_rows:
            yield StampedRows(found, end)

    def _end_of(self, page: pa.Table) -> Position:
        key = self.subject.key
        return page.column(STAMP)[page.num_rows - 1].as_py(), key.position(page.select(list(key.columns)))

    def _widen(self, found: pa.Table) -> None:
        """The next query asks for many pages at once, as far as memory allows."""
        width = max(1, found.nbytes // found.num_rows)
        self.fetched = max(self.rows, min(self.fetched * 8, _FETCH_ROWS, _FETCH_BYTES // width))

    def _goes_by_key(self) -> bool:
        """Ask whether an index gives the table's rows by key, and whether the rest of the stamp is large enough."""
        if self.span.xid is not None or self.span.position is None:
            return False
        key = self.subject.key
        with self.subject.stores.legacy_rows(Purpose.POLL) as cursor:
            whole = f"SELECT {key.plain('w')} FROM ({_stamped_rows(cursor, self.subject, self.stamp)}) w"
            fewest = math.isqrt(2 * _FETCH_ROWS * estimated_rows(cursor, whole)) + 1
            at = f"w.{STAMP} = {_value(cursor, self.stamp, self.span.position[0])}"
            cursor.execute(f"SELECT count(*) FROM (SELECT FROM {self._span_rows(cursor)} AND {at} LIMIT {fewest}) rest")
            if cursor.fetchone()[0] < fewest:
                return False
            ordered = f"{whole} ORDER BY {key.descending('w')} LIMIT 1"
            return sort_of(cursor, ordered, len(key.columns)) is None

    def _fetch(self) -> pa.Table:
        """The next rows of the span."""
        with self.subject.stores.legacy_rows(Purpose.POLL) as cursor:
            order = f"w.{STAMP} DESC, {self.subject.key.descending('w')}"
            return self._copy(cursor, f"SELECT * FROM {self._span_rows(cursor)} ORDER BY {order}")

    def _fetch_below(self, last: list[str]) -> pa.Table:
        """The next rows of the table in the order of their keys, whatever their stamps."""
        key = self.subject.key
        with self.subject.stores.legacy_rows(Purpose.POLL) as cursor:
            rows = f"({_stamped_rows(cursor, self.subject, self.stamp)}) w WHERE {key.is_known('w')}"
            below = f"({key.ordered('w')}) < ({key.literals(cursor, last)})"
            return self._copy(cursor, f"SELECT * FROM {rows} AND {below} ORDER BY {key.descending('w')}")

    def _copy(self, cursor: Cursor, query: str) -> pa.Table:
        schema = pa.schema([*self.subject.key.schema, (STAMP, pa.string()), (ROW_VERSION, pa.int64())])
        table = self.stamp.table
        return copy_out(cursor, f"{query} LIMIT {self.fetched}", schema, f"{table.name} {table.join}")

    def _span_rows(self, cursor: Cursor) -> str:
        """SQL after FROM: the rows of the span as w. More conditions may be added at its end."""
        rows = _stamped_rows(cursor, self.subject, self.stamp, self.span)
        conditions = [f"w.{STAMP} IS NOT NULL", self.subject.key.is_known("w")]
        conditions += _limits(cursor, self.subject, self.stamp, self.span)
        return f"({rows}) w WHERE {' AND '.join(conditions)}"


def pages(subject: Subject, stamp: Stamp, span: Span, rows: int) -> Iterator[StampedRows]:
    """Read the rows of a span in pages of `rows` at most, the newest stamp first; a page may be empty.

    Rows of one stamp come with the highest key first.
    """
    return _Reader(subject, stamp, span, rows, rows).pages()


def _stamped_rows(cursor: Cursor, subject: Subject, stamp: Stamp, span: Span | None = None) -> str:
    """Selects roots' keys, stamp and row version of a table, of all its rows or of at least those of a span."""
    table = stamp.table
    parts = [f"{table.name}.{part}" for part in ("tableoid", "ctid", "xmin")]
    if table.join:  # one of its rows leads to many roots, each of which is to be reported
        parts += [f"({root})::text" for root in table.roots(subject.key.types)]
    version = '({}) COLLATE "C"'.format(" || '/' || ".join(parts))
    conditions = _zone_limits(cursor, stamp, span) if stamp.zone and span else []
    if span and span.xid is not None:
        conditions.append(f"age({table.name}.xmin) <= age('{span.xid % 2**32}'::xid)")
    return (
        f"SELECT {roots_of(subject, table)}, {stamp.instant} AS {STAMP},"
        f" hashtextextended({version}, 0) AS {ROW_VERSION} FROM {table.name} {table.join}"
        + (f" WHERE {' AND '.join(conditions)}" if conditions else "")
    )


def _zone_limits(cursor: Cursor, stamp: Stamp, span: Span) -> list[str]:
    """Conditions on the column itself, which an index serves: no zone's clock is a day off."""
    top = bind(cursor, span.position[0] if span.position else span.cap) if span.position or span.cap else ""
    utc = "({}::timestamptz AT TIME ZONE 'UTC') {} interval '1 day'"
    conditions = [f"{stamp.column} <= {utc.format(top, '+')}"] if top else []
    if span.bound.at != BEGINNING.at:
        conditions.append(f"{stamp.column} >= {utc.format(bind(cursor, span.bound.at), '-')}")
    return conditions


def _limits(cursor: Cursor, subject: Subject, stamp: Stamp, span: Span) -> list[str]:
    """The conditions on a row w."""
    first = span.bound.numbers.get(stamp.sequence) if stamp.sequence else span.bound.at
    conditions = [] if first is None or first == BEGINNING.at else [f"w.{STAMP} >= {bind(cursor, first)}"]
    if span.cap:
        conditions.append(f"w.{STAMP} <= {bind(cursor, span.cap)}")
    if span.position:
        at, names = span.position
        key = subject.key
        last = _value(cursor, stamp, at)
        conditions.append(f"w.{STAMP} {'<=' if names else '<'} {last}")
        if names:
            conditions.append(f"(w.{STAMP}, {key.ordered('w')}) < ({last}, {key.literals(cursor, names)})")
    return conditions


def _value(cursor: Cursor, stamp: Stamp, text: str) -> str:
    return f"{bind(cursor, text)}::{'bigint' if stamp.sequence else 'timestamptz'}"
