"""The relational sink: rows of an entity in the new PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import psycopg2
import pyarrow as pa

from sync_pipeline.db import sqlstate
from sync_pipeline.db.keys import Key
from sync_pipeline.db.sql import Cursor, copy_in, ensure_schema, quote
from sync_pipeline.errors import DeclarationError
from sync_pipeline.model.faults import guarded
from sync_pipeline.sinks.named import Named
from sync_pipeline.sinks.sink import select
from sync_pipeline.sinks.table.definitions import is_exact
from sync_pipeline.sinks.table.trial import Trial
from sync_pipeline.stores.stores import Stores

# 8 is a trigger's bit of DELETE
_DISPLACEABLE = """
    SELECT NOT EXISTS (SELECT FROM pg_constraint WHERE confrelid = %(table)s::regclass AND contype = 'f')
        AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = %(table)s::regclass AND NOT tgisinternal
            AND tgtype & 8 <> 0)
        AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = %(table)s::regclass AND attnum > 0
            AND NOT attisdropped AND attgenerated = '' AND attname <> ALL (%(columns)s))
"""
_NAME_BYTES = 63
_TABLE_BYTES = _NAME_BYTES - len("_former")
_OWN_NAMES = frozenset({"_digest", "_elsewise"})
_OWN_PREFIX = "_sync_"

# the entity's key, and keys of rows that are deleted
Deleted = tuple[Key, pa.Table]


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
class TableDeclaration(Named):
    """What a `RelationalTable` says: its fields are explained there."""

    kind: ClassVar[str] = "relational"
    name: str  # schema.table
    key: tuple[str, ...]
    columns: Mapping[str, str]
    where: str | None = None
    references: tuple[Reference, ...] = ()
    primary_key: tuple[str, ...] = ()
    label: str = ""

    def __post_init__(self) -> None:
        if self.name.count(".") != 1:
            raise DeclarationError(f"RelationalTable({self.name!r}): say schema.table")
        for name in (*self.name.split("."), *self.columns):
            if not name or len(name.encode()) > _NAME_BYTES:
                what = f"name {name!r} must have 1 to {_NAME_BYTES} bytes, which PostgreSQL keeps of a name"
                raise DeclarationError(f"RelationalTable({self.name!r}): {what}")
        table = self.name.split(".")[1]
        if len(table.encode()) > _TABLE_BYTES and not table.endswith(("_next", "_former")):
            what = f"name {table!r} must have 1 to {_TABLE_BYTES} bytes, because a rebuild adds _next or _former to it"
            raise DeclarationError(f"RelationalTable({self.name!r}): {what}")
        referring = [column for reference in self.references for column in reference.columns]
        missing = [column for column in (*self.key, *referring) if column not in self.columns]
        if missing:
            raise DeclarationError(f"RelationalTable({self.name!r}): key column {missing[0]!r} is not in columns")
        strange = [column for column in self.primary_key if column not in self.key]
        if strange:
            raise DeclarationError(
                f"RelationalTable({self.name!r}): primary_key names {strange[0]!r}, which is not in its key"
                f" ({', '.join(self.key)}): name columns of the key, or add it to the entity's key"
            )
        own = [column for column in self.columns if column in _OWN_NAMES or column.startswith(_OWN_PREFIX)]
        if own:
            raise DeclarationError(
                f"RelationalTable({self.name!r}): a column cannot be named {own[0]!r}: the engine uses the name itself"
            )

    def ensure(self, cursor: Cursor) -> None:
        """Make schema and table where they are not there."""
        schema, table = self.name.split(".")
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (self.quoted,))
        if not cursor.fetchone()[0]:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext('sync.table'))")
            columns = ", ".join(f"{quote(name)} {kind}" for name, kind in self.columns.items())
            keys = ", ".join(map(quote, self.identity))
            ensure_schema(cursor, schema)
            cursor.execute(f"CREATE TABLE IF NOT EXISTS {self.quoted} ({columns}, PRIMARY KEY ({keys}))")
            indexed = {reference.columns for reference in self.references}
            if self.outer_key:
                indexed.add(self.key)  # comparisons walk the table in the order of the entity's key
                required = ", ".join(f"ALTER COLUMN {quote(name)} SET NOT NULL" for name in self.outer_key)
                cursor.execute(f"ALTER TABLE {self.quoted} {required}")
            for referring in sorted(indexed):
                name = quote("_".join([table, *referring])[:63])
                listed = ", ".join(map(quote, referring))
                cursor.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {self.quoted} ({listed})")

    @property
    def quoted(self) -> str:
        """The table's name, quoted."""
        return ".".join(quote(part) for part in self.name.split("."))

    @property
    def identity(self) -> tuple[str, ...]:
        """The columns that identify a row in this table."""
        return self.primary_key or self.key

    def identity_of(self, key: Key) -> Key:
        """The part of the entity's key that identifies a row in this table."""
        return key.part([n for n, name in enumerate(self.key) if name in self.identity])

    @property
    def outer_key(self) -> tuple[str, ...]:
        """The columns of the entity's key that do not help to identify a row in this table."""
        return tuple(name for name in self.key if name not in self.identity)

    @property
    def shadow(self) -> TableDeclaration:
        """The table that is filled beside this one, in a rebuild."""
        return replace(self, name=f"{self.name}_next")

    @property
    def former(self) -> TableDeclaration:
        """The table that this one has followed, after a rebuild."""
        return replace(self, name=f"{self.name}_former")

    def rows(self, adapted: pa.Table) -> pa.Table:
        """This sink's columns of adapted rows. Raises DeclarationError naming a column adapt does not return."""
        return select(adapted, list(self.columns), f"table {self.name}")

    def append(self, cursor: Cursor, rows: pa.Table) -> None:
        """First load: plain COPY. Raises UniqueViolation where the table has a key already."""
        copy_in(cursor, self.quoted, self.column_list, rows)

    def try_rows(self, stores: Stores, rows: pa.Table, deleted: Deleted | None = None) -> Trial:
        """Try rows for real once the keys `deleted` have no rows any more, and roll back.

        Where the table takes them all, constraints that are deferred to a transaction's end are checked with each.
        Raises what is no row's fault, and what is the store's.
        """
        trial = self._tried(stores, rows, deleted, "BEGIN")
        if trial.refused or len(trial.steps) > 1 or any(step.displace for step in trial.steps):
            return trial
        return self._tried(stores, rows, deleted, "BEGIN; SET CONSTRAINTS ALL IMMEDIATE")

    def _tried(self, stores: Stores, rows: pa.Table, deleted: Deleted | None, begin: str) -> Trial:
        with stores.target_at_once() as cursor:
            cursor.execute(begin)
            try:
                cursor.execute(f"CREATE TEMP TABLE probe ON COMMIT DROP AS {self.shape()}")
                delete = partial(self._displace_probe, cursor) if self.can_displace(cursor) else None
                trial = Trial(cursor, rows, partial(self._write_probe, cursor), delete)
                if deleted:
                    self._delete_rows(cursor, *deleted)
                trial.run()
            finally:
                cursor.roll_back()
        return trial

    def _write_probe(self, cursor: Cursor, rows: pa.Table) -> None:
        cursor.execute("TRUNCATE pg_temp.probe")
        copy_in(cursor, "pg_temp.probe", self.column_list, rows)
        cursor.execute(self.upsert("pg_temp.probe s"))

    def _displace_probe(self, cursor: Cursor, rows: pa.Table) -> None:
        cursor.execute("TRUNCATE pg_temp.probe")
        copy_in(cursor, "pg_temp.probe", self.column_list, rows)
        cursor.execute(self._displace("pg_temp.probe s"))

    def _displace(self, source: str) -> str:
        """Deletes the rows that a statement of `_upsert` would update."""
        joined = " AND ".join(f"t.{quote(name)} = s.{quote(name)}" for name in self.key)
        return f"DELETE FROM {self.quoted} t USING {source} WHERE {joined}"

    def _delete_rows(self, cursor: Cursor, key: Key, deleted: pa.Table) -> None:
        """What goes in the same batch makes way; where it cannot go, that is found elsewhere."""
        if not deleted.num_rows:
            return
        cursor.execute("SAVEPOINT gone")
        try:
            cursor.execute(f"DELETE FROM {self.quoted} t WHERE {key.named(self.key).is_in(cursor, 't', deleted)}")
        except psycopg2.Error as error:
            if sqlstate.is_of_store(error):
                raise
            cursor.execute("ROLLBACK TO SAVEPOINT gone")

    def can_displace(self, cursor: Cursor) -> bool:
        """Whether deleting a row and inserting it anew comes to the same as updating it.

        It does not where rows refer to it, a trigger sees the delete, or it has columns that we do not write.
        """
        cursor.execute(_DISPLACEABLE, {"table": self.quoted, "columns": list(self.columns)})
        return bool(cursor.fetchone()[0])

    def upsert(self, source: str, is_free: str = "false") -> str:
        """A statement that writes rows.

        Where the table has a key of its own, it leaves the rows of other keys as they are, but for those that
        `is_free` (a condition on t) gives away: they take the new key in place.
        """
        names = [quote(name) for name in self.columns]
        keys = [quote(name) for name in self.identity]
        # PostgreSQL may call two texts of a key one value: the newer one is written
        written = [name for name, kind in self.columns.items() if name not in self.identity or not is_exact(kind)]
        updates = ", ".join(f"{name} = excluded.{name}" for name in map(quote, written))
        statement = (
            f"INSERT INTO {self.quoted} AS t ({self.column_list}) SELECT {', '.join(f's.{name}' for name in names)}"
            f" FROM {source}"
        )
        conflict = f"ON CONFLICT ({', '.join(keys)}) DO {f'UPDATE SET {updates}' if updates else 'NOTHING'}"
        if not self.outer_key:
            return f"{statement} {conflict}"
        # in one order, so that two batches that exchange ids never wait for each other
        statement = f"{statement} ORDER BY {', '.join(f's.{name}' for name in keys)} {conflict}"
        if not guarded(144):
            return statement
        # the row of another key is locked, but stays as it is; one without a key is no row of ours, and is taken over
        return f"{statement} WHERE {self._same_outer_key('t', 'excluded')} IS NOT FALSE OR {is_free}"

    def _same_identity(self, alias: str, other: str) -> str:
        return " AND ".join(f"{alias}.{name} = {other}.{name}" for name in map(quote, self.identity))

    def _same_outer_key(self, alias: str, other: str) -> str:
        pairs = (f"{alias}.{name} = {other}.{name}" for name in map(quote, self.outer_key))
        return f"({' AND '.join(pairs)})"

    def shape(self, more: str = "") -> str:
        """A query for a table made to stage rows: these columns with the types they have now, and no constraint."""
        return f"SELECT {self.column_list}{more} FROM {self.quoted} WITH NO DATA"

    @property
    def column_list(self) -> str:
        """Its columns, quoted, for a statement."""
        return ", ".join(quote(name) for name in self.columns)
