"""The relational sink: rows of an entity in the new PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import psycopg2
import pyarrow as pa

from sync_pipeline.errors import DeclarationError
from sync_pipeline.keys import Key
from sync_pipeline.sql import Cursor, copy_in, ensure_schema, quote, stage
from sync_pipeline.stores import Stores

_CONSTRAINT = re.compile(
    r"\s+(?=(?:not\s+null|null|default|check|unique|primary|references|generated|collate|constraint)\b)", re.IGNORECASE
)


@dataclass(frozen=True, init=False)
class Reference:
    """Columns that hold the key of another entity's row, in the order of its key; a NULL refers to nothing.

    The row is written once the other one is, and the other one deleted once no row refers to it.
    """

    columns: tuple[str, ...]
    entity: str

    def __init__(self, columns: str | tuple[str, ...], entity: str) -> None:
        object.__setattr__(self, "columns", (columns,) if isinstance(columns, str) else columns)
        object.__setattr__(self, "entity", entity)


@dataclass(frozen=True)
class RelationalTable:
    """A table of the new side: `columns` maps each column to its PostgreSQL type and constraints.

    The table is made if it is not there. `where` names a boolean column of the adapted frame: only rows
    that have it true are written. `references` are to rows of other entities, or of this one.
    """

    name: str  # schema.table
    key: tuple[str, ...]
    columns: Mapping[str, str]
    where: str | None = None
    references: tuple[Reference, ...] = ()

    def __post_init__(self) -> None:
        if self.name.count(".") != 1:
            raise DeclarationError(f"RelationalTable({self.name!r}): say schema.table")
        referring = [column for reference in self.references for column in reference.columns]
        missing = [column for column in (*self.key, *referring) if column not in self.columns]
        if missing:
            raise DeclarationError(f"RelationalTable({self.name!r}): key column {missing[0]!r} is not in columns")

    def ensure(self, cursor: Cursor) -> None:
        """Make schema and table where they are not there. Raises DeclarationError for a column that differs."""
        schema, table = self.name.split(".")
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (self.quoted,))
        if not cursor.fetchone()[0]:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext('sync.table'))")
            columns = ", ".join(f"{quote(name)} {kind}" for name, kind in self.columns.items())
            keys = ", ".join(quote(name) for name in self.key)
            ensure_schema(cursor, schema)
            cursor.execute(f"CREATE TABLE IF NOT EXISTS {self.quoted} ({columns}, PRIMARY KEY ({keys}))")
            for referring in {reference.columns for reference in self.references}:
                name = quote("_".join([table, *referring])[:63])
                listed = ", ".join(map(quote, referring))
                cursor.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {self.quoted} ({listed})")
        cursor.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = %s",
            (schema, table),
        )
        found = {name for (name,) in cursor.fetchall()}
        missing = [name for name in self.columns if name not in found]
        if missing:
            raise DeclarationError(f"{self.name} has no column {missing[0]!r}: migrate the table, then sync again")

    @property
    def quoted(self) -> str:
        """The table's name, quoted."""
        return ".".join(quote(part) for part in self.name.split("."))

    def rows(self, adapted: pa.Table) -> pa.Table:
        """This sink's columns of adapted rows. Raises DeclarationError naming a column adapt does not return."""
        return select(adapted, list(self.columns), f"table {self.name}")

    def append(self, cursor: Cursor, rows: pa.Table) -> None:
        """First load: plain COPY. Raises UniqueViolation where the table has a key already."""
        copy_in(cursor, self.quoted, self._list(), rows)

    def write(self, cursor: Cursor, entity: str, key: Key, rows: pa.Table) -> None:
        """Write staged rows (with `n` of the plan), and delete what the plan no longer wants.

        Only what the ledger let through (`pg_temp.applied_ENTITY`) is touched.
        """
        staged, plan, applied = (f"pg_temp.{quote(f'{part}_{entity}')}" for part in ("stage", "plan", "applied"))
        target = key.named(self.key)
        cursor.defer(
            f"CREATE TEMP TABLE IF NOT EXISTS {quote(f'stage_{entity}')} (LIKE {self.quoted}, n integer)"
            " ON COMMIT DELETE ROWS"
        )
        stage(cursor, staged, f"{self._list()}, n", rows)
        applied_rows = (
            f"(SELECT s.* FROM {staged} s JOIN {applied} a USING (n) JOIN {plan} p USING (n) WHERE p.action = 1)"
        )
        cursor.defer(
            f"DELETE FROM {self.quoted} t USING {plan} p JOIN {applied} a USING (n)"
            f" WHERE {target.joins('t', key, 'p')} AND p.action = 1 AND p.held & 1 = 0;"
            f"{self._upsert(f'{applied_rows} s')}"
        )

    def image(self, alias: str) -> str:
        """SQL of a row's image: its columns' text forms by name, from which each type reads back the same value."""
        names = ", ".join(_literal(name) for name in self.columns)
        texts = ", ".join(f"{alias}.{quote(name)}::text" for name in self.columns)
        return f"json_object(ARRAY[{names}], ARRAY[{texts}])"

    def put_back(self, cursor: Cursor, images: str) -> None:
        """Write rows as their images have them; `images` is SQL after FROM, with a column `image`."""
        cursor.execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
            (self.quoted,),
        )
        kinds = dict(cursor.fetchall())
        values = ", ".join(f"(image ->> {_literal(name)})::{kinds[name]} AS {quote(name)}" for name in self.columns)
        cursor.execute(self._upsert(f"(SELECT {values} FROM {images}) s"))

    def refused(self, stores: Stores, rows: pa.Table) -> list[tuple[int, Exception]]:
        """Which rows (by number) the table does not take, and why: tried for real, then rolled back."""
        found: list[tuple[int, Exception]] = []
        with stores.target_at_once() as cursor:
            cursor.execute("BEGIN")
            try:
                self._probe(cursor, rows, 0, found)
                self._probe_again(cursor, rows, found)
            finally:
                cursor.roll_back()
        return found

    def _probe(self, cursor: Cursor, rows: pa.Table, first: int, found: list[tuple[int, Exception]]) -> None:
        """Halve until only bad rows are left; good ones stay, so that a clash between two rows shows as well."""
        cursor.execute("SAVEPOINT probe")
        try:
            cursor.execute(f"CREATE TEMP TABLE probe (LIKE {self.quoted}) ON COMMIT DROP")
            copy_in(cursor, "pg_temp.probe", self._list(), rows)
            cursor.execute(self._upsert("pg_temp.probe s"))
            cursor.execute("DROP TABLE pg_temp.probe")
        except (psycopg2.DataError, psycopg2.IntegrityError) as error:
            cursor.execute("ROLLBACK TO SAVEPOINT probe")
            if rows.num_rows == 1:
                found.append((first, error))
                return
            half = rows.num_rows // 2
            self._probe(cursor, rows.slice(0, half), first, found)
            self._probe(cursor, rows.slice(half), first + half, found)

    def _probe_again(self, cursor: Cursor, rows: pa.Table, found: list[tuple[int, Exception]]) -> None:
        """A row may have failed only because one that it refers to came after it."""
        early = [row for row in found if isinstance(row[1], psycopg2.errors.ForeignKeyViolation)]
        while early:
            left: list[tuple[int, Exception]] = []
            for n, _ in early:
                self._probe(cursor, rows.slice(n, 1), n, left)
            found[:] = [row for row in found if row not in early] + left
            early = left if len(left) < len(early) else []

    def _upsert(self, source: str) -> str:
        names = [quote(name) for name in self.columns]
        keys = [quote(name) for name in self.key]
        updates = ", ".join(f"{name} = excluded.{name}" for name in names if name not in keys)
        return (
            f"INSERT INTO {self.quoted} ({self._list()}) SELECT {', '.join(f's.{name}' for name in names)}"
            f" FROM {source} ON CONFLICT ({', '.join(keys)}) DO {f'UPDATE SET {updates}' if updates else 'NOTHING'}"
        )

    def _list(self) -> str:
        return ", ".join(quote(name) for name in self.columns)


def _literal(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def select(adapted: pa.Table, columns: list[str], sink: str) -> pa.Table:
    """Columns of adapted rows by name. Raises DeclarationError naming the first that is not there."""
    there = set(adapted.column_names)
    missing = [name for name in columns if name not in there]
    if missing:
        raise DeclarationError(f"adapt returns no column {missing[0]!r}, which {sink} declares")
    return adapted.select(columns)


def split_definition(definition: str) -> tuple[str, str]:
    """A declared column's type, and its constraints: "text[] not null" is "text[]" and "not null"."""
    kind, *constraints = _CONSTRAINT.split(definition, maxsplit=1)
    return kind.strip(), " ".join(constraints)
