"""The target table as it stands now, and the statements that write it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from sync_pipeline.db.keys import Key
from sync_pipeline.db.sql import Cursor, literal, quote, stage
from sync_pipeline.model.faults import guarded
from sync_pipeline.sinks.table.declaration import TableDeclaration
from sync_pipeline.sinks.table.definitions import uncut
from sync_pipeline.sinks.table.trial import Step

# numbers staged rows as the plan does; columns of a table may bear any other name, but for those of staged tables
STAGED_NUMBER = "_sync_n"


@dataclass(frozen=True)
class TargetTable(TableDeclaration):
    """A table as it stands now, which a swap or ALTER TABLE may change at any time: the declared columns that it has.

    `types` are those of all its columns. `is_shadow`: a rebuild fills it and readers do not see it yet.
    """

    types: Mapping[str, str] = field(default_factory=dict)
    is_shadow: bool = False

    @classmethod
    def of(cls, table: TableDeclaration, types: Mapping[str, str], *, is_shadow: bool = False) -> TargetTable:
        """A declared table with the columns and types that the database has of it now."""
        there = {name: kind for name, kind in table.columns.items() if name in types}
        return cls(
            table.name, table.key, there, table.where, primary_key=table.primary_key, types=types, is_shadow=is_shadow
        )

    @property
    def form(self) -> str:
        """Tells its name, columns and types from those of any other."""
        return f"{zlib.crc32(repr((self.name, self.types)).encode()):08x}"

    def write(
        self,
        cursor: Cursor,
        entity: str,
        key: Key,
        rows: pa.Table,
        rejected: Sequence[int] = (),
        steps: Sequence[Step] = (),
    ) -> list[tuple[int, str]]:
        """Write staged rows (with `n` of the plan as `_sync_n`), and delete what the plan no longer wants.

        They are written in one statement, or in `steps` (by `n`). Only what the ledger let through
        (`pg_temp.applied_ENTITY`) is touched; beside the live table rows that have not changed are written as well, and
        those that it does not take (`rejected`, by `n`) are deleted.

        Returns the rows (`n`) that were not written, because the row of another key holds their `primary_key`, each
        with that key's text. Those rows stay locked until the transaction ends.
        """
        # a session keeps its stages: another form has another one, or values would be cut to types of the past
        staged = quote(f"stage_{entity}_{self.form}")
        plan, applied = (f"pg_temp.{quote(f'{part}_{entity}')}" for part in ("plan", "applied"))
        target = key.named(self.key)
        cursor.defer(
            f"CREATE TEMP TABLE IF NOT EXISTS {staged} ON COMMIT DELETE ROWS AS "
            f"{self.shape(f', NULL::integer AS {STAGED_NUMBER}')}"
        )
        stage(
            cursor,
            f"pg_temp.{staged}",
            f"{self.column_list}, {STAGED_NUMBER}",
            rows.select([*self.columns, STAGED_NUMBER]),
        )
        deleted = f"(p.held & 1 = 0{''.join(f' OR p.n = {each}' for each in rejected)})"
        changed = "true" if self.is_shadow else "p.action = 1"
        applied_rows = (
            f"(SELECT s.* FROM pg_temp.{staged} s JOIN {applied} a ON a.n = s.{STAGED_NUMBER}"
            f" JOIN {plan} p ON p.n = a.n WHERE {changed})"
        )
        planned = f"{plan} p JOIN {applied} a USING (n)"
        is_gone = f"{target.joins('t', key, 'p')} AND p.action = 1 AND {deleted}"
        is_free, stays = "false", "true"
        if self.outer_key:
            self._lock(cursor, key, planned)
            # a row that goes and comes under another key stays in its place, with what refers to it; steps are tried
            # with all that goes out of the way
            is_free = f"EXISTS (SELECT FROM {planned} WHERE {is_gone})"
            if guarded(144) and not steps:
                stays = f"NOT EXISTS (SELECT FROM {applied_rows} s WHERE {self._same_identity('s', 't')})"
        cursor.defer(
            f"DELETE FROM {self.quoted} t USING {planned} WHERE {is_gone} AND {stays};"
            f"{';'.join(self._statements(applied_rows, steps, is_free))}"
        )
        if not self.outer_key or not guarded(144):
            return []
        cursor.execute(
            f"SELECT s.{STAGED_NUMBER}, {target.text_expression('h')} FROM {applied_rows} s JOIN {self.quoted} h"
            f" ON {self._same_identity('h', 's')} WHERE {self._same_outer_key('h', 's')} IS FALSE"
        )
        return [(number, text) for number, text in cursor.fetchall()]

    def _lock(self, cursor: Cursor, key: Key, plan: str) -> None:
        """Lock the rows that a plan (SQL after FROM, as p) deletes or writes, in the order of this table's own key.

        The ledger's locks go by the entity's key. Two batches may hold different ones of these, and write one row here.
        """
        own, target = self.identity_of(key), self.identity_of(key.named(self.key))
        cursor.defer(
            f"SELECT FROM {self.quoted} t JOIN ({plan}) ON {target.joins('t', own, 'p')} WHERE p.action = 1"
            f" ORDER BY {target.plain('t')} FOR UPDATE OF t"
        )

    def _statements(self, applied_rows: str, steps: Sequence[Step], is_free: str) -> Iterator[str]:
        if not steps:
            yield self.upsert(f"{applied_rows} s", is_free)
        for step in steps:
            rows = (
                f"(SELECT * FROM {applied_rows} a WHERE {STAGED_NUMBER} = ANY('{{{','.join(map(str, step.rows))}}}'))"
            )
            if step.displace:
                yield self._displace(f"{rows} s")
            yield self.upsert(f"{rows} s", is_free)

    def revert(self, cursor: Cursor, images: str) -> int:
        """Write rows as their images have them, as far as it has the columns; `images` is SQL after FROM, with `image`.

        Returns how many were written. Raises DataError where a value does not fit its type.
        """
        values = ", ".join(
            f"(image ->> {literal(name)})::{uncut(self.types[name])} AS {quote(name)}" for name in self.columns
        )
        cursor.execute(self.upsert(f"(SELECT {values} FROM {images}) s"))
        return int(cursor.rowcount)


def image_of(tables: Sequence[TargetTable], aliases: Sequence[str]) -> str:
    """SQL of a row's image: columns' text forms by name, from which each type reads back the same value.

    Of a column that several tables have, it is the first one's.
    """
    columns = {
        name: f"{alias}.{quote(name)}::text"
        for table, alias in reversed(list(zip(tables, aliases, strict=True)))
        for name in table.columns
    }
    return f"json_object(ARRAY[{', '.join(map(literal, columns))}], ARRAY[{', '.join(columns.values())}])"
