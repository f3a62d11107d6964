"""The watermark source: keys of rows whose stamp moved since the last look."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.faults import guarded
from sync_pipeline.sources.roots import roots_of
from sync_pipeline.sources.source import Page, Source, Standing, State, Subject
from sync_pipeline.sources.table import Table
from sync_pipeline.sources.window import BEGINNING, Window, look
from sync_pipeline.stores import bind, copy_out

_STAMP = "_stamp"
_ROW_VERSION = "_row"


@dataclass(frozen=True)
class Watermark:
    """Changes are caught by the timestamps that the monolith puts on its rows."""

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
        """The window of now: rows that are visible already are history's."""
        with self.subject.stores.legacy() as cursor:
            window, _ = look(cursor, None, self._lookback)
        return self._standing(window)

    def pull(self, rows: int) -> Iterator[Page]:
        """Rows above the bound of the window; row versions that the poll before has seen are left out."""
        bound = self._look()
        for n, table in enumerate(self.subject.tables):
            if not table.stamp:
                continue
            for page in pages(self.subject, table, bound, rows):
                keys = self._unseen(n, page)
                if keys.num_rows:
                    yield Page(keys, fanout=bool(table.join))

    def standing(self) -> Standing:
        """As the look saw it that the last pull began with."""
        assert self._seen is not None
        return self._standing(self._seen)

    def keep(self) -> None:
        """The next poll goes on from this one's window."""
        self.window = self._seen
        self._recent = {n: pa.concat_arrays(parts) for n, parts in self._next.items()}

    def _look(self) -> dt.datetime:
        """The bound from which to read."""
        with self.subject.stores.legacy() as cursor:
            self._seen, bound = look(cursor, self.window, self._lookback)
        if not guarded(1) and self.window:
            bound = self.window.seen_at
        self._next = {}
        return bound if bound == BEGINNING or not guarded(1) else bound - self._margin

    def _standing(self, window: Window) -> Standing:
        hides = f"{window.hidden} sessions hide their transactions: the sweep is required" if window.hidden else None
        oldest = min(window.holders.values(), default=None)
        return Standing(window.as_state(), window.low - self._margin, oldest, window.oldest, hides)

    def _unseen(self, n: int, page: pa.Table) -> pa.Table:
        versions = page.column(_ROW_VERSION).combine_chunks()
        self._next.setdefault(n, []).append(versions)
        if n in self._recent:
            page = page.filter(pc.invert(pc.is_in(versions, value_set=self._recent[n])))
        keys = page.select(list(self.subject.key.columns))
        return keys.group_by(keys.column_names).aggregate([]) if keys.num_rows else keys

    @property
    def _margin(self) -> dt.timedelta:
        return dt.timedelta(seconds=self.subject.stores.settings.margin_seconds)

    @property
    def _lookback(self) -> dt.timedelta:
        return dt.timedelta(seconds=self.subject.stores.settings.blind_lookback_seconds)


def stamped_since(subject: Subject, since: dt.datetime, rows: int) -> Iterator[pa.Table]:
    """Pages of keys of rows that bear a stamp of `since` or later, whoever has seen them."""
    for table in subject.tables:
        if table.stamp:
            for page in pages(subject, table, since, rows):
                yield page.select(list(subject.key.columns))


def pages(subject: Subject, table: Table, bound: dt.datetime, rows: int) -> Iterator[pa.Table]:
    """Keys of rows stamped at the bound or later, with stamp and row version.

    In order of (stamp, key), so that thousands of rows of one stamp page well.
    """
    position: tuple[str, list[str]] | None = None
    while True:
        page = _page(subject, table, bound, position, rows)
        if page.num_rows:
            yield page
        if page.num_rows < rows:
            return
        keys = page.select(list(subject.key.columns))
        position = page.column(_STAMP)[page.num_rows - 1].as_py(), subject.key.position(keys)


def _page(
    subject: Subject, table: Table, bound: dt.datetime, position: tuple[str, list[str]] | None, rows: int
) -> pa.Table:
    key = subject.key
    stamp = table.column(table.stamp)
    column = f"{stamp} AT TIME ZONE '{table.zone}'" if table.zone else stamp
    version = " || '/' || ".join(f"{table.name}.{part}" for part in ("tableoid", "ctid", "xmin"))
    inner = (
        f"SELECT {roots_of(subject, table)}, {column} AS {_STAMP}, {version} AS {_ROW_VERSION}"
        f" FROM {table.name} {table.join}"
    )
    if table.zone and bound != BEGINNING:
        # an index on the column itself serves too: no zone's clock is a day off
        inner += f" WHERE {stamp} >= '{(bound - dt.timedelta(days=1)).replace(tzinfo=None).isoformat()}'"
    schema = pa.schema([*key.schema, (_STAMP, pa.string()), (_ROW_VERSION, pa.string())])
    order = f"w.{_STAMP}, {key.ordered('w')}"
    with subject.stores.legacy() as cursor:
        after = "true"
        if position:
            literal = ", ".join(
                bind(cursor, value) + "::" + kind for value, kind in zip(position[1], key.types, strict=True)
            )
            after = f"({order}) > ({bind(cursor, position[0])}::timestamptz, {literal})"
        where = "true" if bound == BEGINNING else f"w.{_STAMP} >= {bind(cursor, bound)}"
        query = f"SELECT * FROM ({inner}) w WHERE {where} AND {after} ORDER BY {order} LIMIT {rows}"
        return copy_out(cursor, query, schema)
