"""The watermark source: keys of rows whose stamp moved since the last look."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.errors import DeclarationError
from sync_pipeline.faults import guarded
from sync_pipeline.sessions import Purpose
from sync_pipeline.sources.roots import roots_of
from sync_pipeline.sources.source import Page, Source, Standing, State, Subject
from sync_pipeline.sources.stamps import Stamp, stamps_of
from sync_pipeline.sources.table import Table
from sync_pipeline.sources.window import BEGINNING, Mark, Window, look
from sync_pipeline.sql import Cursor, bind, copy_out

_STAMP = "_stamp"
_ROW_VERSION = "_row"
_NEVER = 2**63 - 1
_BEGIN_SECONDS = 10.0
_LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Watermark:
    """Changes are caught by the timestamps or numbers that the monolith puts on its rows."""

    name: str = field(default="watermark", init=False)

    def open(self, subject: Subject, state: State | None) -> WatermarkSource:
        """The source, from where its last one stood."""
        return WatermarkSource(subject, Window.from_state(state) if state else None)


@dataclass
class WatermarkSource(Source):
    """Reads an entity's stamped tables, poll by poll."""

    subject: Subject
    window: Window | None
    _seen: Window | None = None
    _recent: dict[int, pa.Array] = field(default_factory=dict)
    _next: dict[int, list[pa.Array]] = field(default_factory=dict)

    def begin(self) -> Standing:
        """The window of now: rows that are visible already are history's.

        Where numbers are drawn, transactions that are open now are waited for a while: later, the end of each would
        have all rows read.
        """
        limit = time.monotonic() + _BEGIN_SECONDS
        with self.subject.stores.legacy() as cursor:
            window, _ = self._look(cursor, None)
            while window.unmarked and time.monotonic() < limit:
                time.sleep(_LOOK_SECONDS)
                window, _ = self._look(cursor, window)
        return self._standing(window)

    def pull(self, rows: int) -> Iterator[Page]:
        """Rows above the bound of the window; row versions that the poll before has seen are left out."""
        bound = self._bound()
        for n, stamp in self._stamps:
            known = self._known(n)
            for page in pages(self.subject, stamp, bound, rows):
                keys = self._unseen(n, page, known)
                if keys.num_rows:
                    yield Page(keys, fanout=bool(stamp.table.join), position=_since(bound))

    def standing(self) -> Standing:
        """As the look saw it that the last pull began with."""
        assert self._seen is not None
        return self._standing(self._seen)

    def keep(self) -> None:
        """The next poll goes on from this one's window."""
        self.window = self._seen
        self._recent = {n: pa.concat_arrays(parts) for n, parts in self._next.items()}

    @cached_property
    def _stamps(self) -> list[tuple[int, Stamp]]:
        """Every stamp, with the place of its table among the entity's."""
        with self.subject.stores.legacy() as cursor:
            return [
                (n, stamp)
                for n, table in enumerate(self.subject.tables)
                for stamp in _stamps(cursor, self.subject, table)
            ]

    def _look(self, cursor: Cursor, before: Window | None) -> tuple[Window, Mark]:
        lookback = dt.timedelta(seconds=self.subject.stores.settings.blind_lookback_seconds)
        sequences = sorted({stamp.sequence for _, stamp in self._stamps if stamp.sequence})
        return look(cursor, before, lookback, sequences, self._margin)

    def _bound(self) -> Mark:
        """From where to read."""
        with self.subject.stores.legacy() as cursor:
            self._seen, bound = self._look(cursor, self.window)
        self._next = {}
        if not guarded(1) and self.window:
            return self.window.seen
        return bound if bound.at == BEGINNING.at else replace(bound, at=bound.at - self._margin)

    def _standing(self, window: Window) -> Standing:
        hides = f"{window.hidden} sessions hide their transactions: the sweep is required" if window.hidden else None
        oldest = min((mark.at for mark in window.holders.values()), default=None)
        return Standing(window.as_state(), window.low - self._margin, oldest, window.oldest, hides)

    def _known(self, n: int) -> pa.Array | None:
        """Row versions of a table that were seen by the poll before, or by another stamp of it."""
        parts = [*self._next.get(n, ()), *([self._recent[n]] if n in self._recent else [])]
        return pa.concat_arrays(parts) if parts else None

    def _unseen(self, n: int, page: pa.Table, known: pa.Array | None) -> pa.Table:
        versions = page.column(_ROW_VERSION).combine_chunks()
        self._next.setdefault(n, []).append(versions)
        if known is not None:
            page = page.filter(pc.invert(pc.is_in(versions, value_set=known)))
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
            for page in pages(subject, stamp, bound, rows):
                yield page.select(list(subject.key.columns))


def pages(subject: Subject, stamp: Stamp, bound: Mark, rows: int) -> Iterator[pa.Table]:
    """Keys of rows stamped at the bound or later, with stamp and row version.

    In order of (stamp, key), so that thousands of rows of one stamp page well.
    """
    position: tuple[str, list[str]] | None = None
    while True:
        page = _page(subject, stamp, bound, position, rows)
        if page.num_rows:
            yield page
        if page.num_rows < rows:
            return
        keys = page.select(list(subject.key.columns))
        position = page.column(_STAMP)[page.num_rows - 1].as_py(), subject.key.position(keys)


def _page(subject: Subject, stamp: Stamp, bound: Mark, position: tuple[str, list[str]] | None, rows: int) -> pa.Table:
    key, table = subject.key, stamp.table
    column = f"{stamp.column} AT TIME ZONE '{stamp.zone}'" if stamp.zone else stamp.column
    version = " || '/' || ".join(f"{table.name}.{part}" for part in ("tableoid", "ctid", "xmin"))
    inner = (
        f"SELECT {roots_of(subject, table)}, {column} AS {_STAMP}, {version} AS {_ROW_VERSION}"
        f" FROM {table.name} {table.join}"
    )
    if stamp.zone and bound.at != BEGINNING.at:
        # an index on the column itself serves too: no zone's clock is a day off
        inner += f" WHERE {stamp.column} >= '{(bound.at - dt.timedelta(days=1)).replace(tzinfo=None).isoformat()}'"
    schema = pa.schema([*key.schema, (_STAMP, pa.string()), (_ROW_VERSION, pa.string())])
    order = f"w.{_STAMP}, {key.ordered('w')}"
    with subject.stores.legacy_rows(Purpose.POLL) as cursor:
        after = "true"
        if position:
            literal = ", ".join(
                bind(cursor, value) + "::" + kind for value, kind in zip(position[1], key.types, strict=True)
            )
            after = f"({order}) > ({bind(cursor, position[0])}::{_kind(stamp)}, {literal})"
        query = f"SELECT * FROM ({inner}) w WHERE {_above(cursor, stamp, bound)} AND {after} ORDER BY {order}"
        return copy_out(cursor, f"{query} LIMIT {rows}", schema, f"{table.name} {table.join}")


def _since(bound: Mark) -> str:
    if bound.at == BEGINNING.at:
        return "all stamps"
    return ", ".join(
        [f"stamps since {bound.at:%Y-%m-%d %H:%M:%S}Z", *(f"{n} since {at}" for n, at in bound.numbers.items())]
    )


def _kind(stamp: Stamp) -> str:
    return "bigint" if stamp.sequence else "timestamptz"


def _above(cursor: Cursor, stamp: Stamp, bound: Mark) -> str:
    """The condition on a row w; what bears no stamp is the sweep's."""
    first = bound.numbers.get(stamp.sequence) if stamp.sequence else bound.at
    if first is None or first == BEGINNING.at:
        return f"w.{_STAMP} IS NOT NULL"
    return f"w.{_STAMP} >= {bind(cursor, first)}"


def _stamps(cursor: Cursor, subject: Subject, table: Table) -> list[Stamp]:
    try:
        return stamps_of(cursor, table)
    except DeclarationError as error:
        raise DeclarationError(f"entity {subject.entity}: {error}") from error
