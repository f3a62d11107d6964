"""The watermark source: keys of rows whose change column moved since the last look."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.faults import guarded
from sync_pipeline.keys import Key
from sync_pipeline.sources.window import BEGINNING, Window, look
from sync_pipeline.stores import Stores, bind, copy_out

_STAMP = "_stamp"
_ROW_VERSION = "_row"


@dataclass(frozen=True)
class Watermark:
    """A legacy table whose `column` says when a row changed.

    `key` gives the root's key: columns of the table, or of what `join` adds
    (`join="JOIN content c ON c.author_id = authors.id", key=("c.id",)`).
    `zone` is needed only for a column without time zone: the zone the monolith stamps in.
    """

    table: str
    column: str
    key: tuple[str, ...]
    join: str = ""
    zone: str | None = None


@dataclass
class Reader:
    """Reads an entity's watermark tables, poll by poll. Only a poll whose keys were all applied is `kept`."""

    stores: Stores
    key: Key
    tables: tuple[Watermark, ...]
    window: Window | None
    _recent: dict[str, pa.Array] = field(default_factory=dict)
    _next: dict[str, list[pa.Array]] = field(default_factory=dict)

    def look(self) -> tuple[Window, dt.datetime]:
        """The window now, and the bound from which `pull` must read."""
        settings = self.stores.settings
        with self.stores.legacy() as cursor:
            window, bound = look(cursor, self.window, dt.timedelta(seconds=settings.blind_lookback_seconds))
        if not guarded(1) and self.window:
            bound = self.window.seen_at
        self._next = {}
        if bound == BEGINNING:
            return window, bound
        return window, bound - dt.timedelta(seconds=settings.margin_seconds if guarded(1) else 0)

    def pull(self, bound: dt.datetime, rows: int) -> Iterator[pa.Table]:
        """Pages of keys that may have changed. Row versions that the poll before has seen are left out."""
        for table in self.tables:
            position: tuple[str, list[str]] | None = None
            while True:
                page = self._page(table, bound, position, rows)
                if page.num_rows == 0:
                    break
                at = page.num_rows - 1
                position = page.column(_STAMP)[at].as_py(), self.key.position(page.select(list(self.key.columns)))
                keys = self._unseen(table.table, page)
                if keys.num_rows:
                    yield keys
                if page.num_rows < rows:
                    break

    def keep(self, window: Window) -> None:
        """The poll's keys are applied or due: the next one goes on from here."""
        self.window = window
        self._recent = {table: pa.concat_arrays(parts) for table, parts in self._next.items()}

    def _unseen(self, table: str, page: pa.Table) -> pa.Table:
        versions = page.column(_ROW_VERSION).combine_chunks()
        self._next.setdefault(table, []).append(versions)
        if table in self._recent:
            page = page.filter(pc.invert(pc.is_in(versions, value_set=self._recent[table])))
        keys = page.select(list(self.key.columns))
        return keys.group_by(keys.column_names).aggregate([]) if keys.num_rows else keys

    def _page(
        self, table: Watermark, bound: dt.datetime, position: tuple[str, list[str]] | None, rows: int
    ) -> pa.Table:
        """The next page in order of (stamp, key), so that thousands of rows of one stamp page well."""
        stamp = f"{table.table}.{table.column}"
        column = f"{stamp} AT TIME ZONE '{table.zone}'" if table.zone else stamp
        names = [name if "." in name else f"{table.table}.{name}" for name in table.key]
        keys = ", ".join(f"{name} AS {own}" for name, own in zip(names, self.key.plain().split(", "), strict=True))
        inner = (
            f"SELECT {keys}, {column} AS {_STAMP}, {table.table}.tableoid || '/' || {table.table}.ctid || '/' ||"
            f" {table.table}.xmin AS {_ROW_VERSION} FROM {table.table} {table.join}"
        )
        if table.zone and bound != BEGINNING:
            # an index on the column itself serves too: no zone's clock is a day off
            inner += f" WHERE {stamp} >= '{(bound - dt.timedelta(days=1)).replace(tzinfo=None).isoformat()}'"
        schema = pa.schema([*self.key.schema, (_STAMP, pa.string()), (_ROW_VERSION, pa.string())])
        order = f"w.{_STAMP}, {self.key.ordered('w')}"
        with self.stores.legacy() as cursor:
            after = "true"
            if position:
                literal = ", ".join(
                    bind(cursor, value) + "::" + kind for value, kind in zip(position[1], self.key.types, strict=True)
                )
                after = f"({order}) > ({bind(cursor, position[0])}::timestamptz, {literal})"
            where = "true" if bound == BEGINNING else f"w.{_STAMP} >= {bind(cursor, bound)}"
            query = f"SELECT * FROM ({inner}) w WHERE {where} AND {after} ORDER BY {order} LIMIT {rows}"
            return copy_out(cursor, query, schema)
