"""An outbox's columns: what the source reads and writes there, and what triggers can fill."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sync_pipeline.db.sql import Cursor, quote

_INTEGERS = ("smallint", "integer", "bigint")
_TEXTS = ("text", "character varying", "character", "citext", "name")
_INSTANTS = ("timestamp with time zone", "timestamp without time zone")
# what each column may be; nothing where any type can be read as text
_NEEDED: dict[str, tuple[str, ...]] = {
    "id": _INTEGERS,
    "aggregate_type": (),
    "aggregate_id": (),
    "processed_at": _INSTANTS,
    "attempts": _INTEGERS,
    "last_error": _TEXTS,
}
_ADDED = {"attempts": "integer NOT NULL DEFAULT 0", "last_error": "text", "processed_at": "timestamptz"}
WRITTEN = ("processed_at", "attempts", "last_error")
FILLED = ("aggregate_type", "aggregate_id", "event_type")
_COLUMNS = """
    SELECT attname, format_type(atttypid, atttypmod), format_type(atttypid, -1),
           (SELECT format('%%I.%%I', n.nspname, t.typname) FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
            WHERE t.oid = atttypid), attgenerated <> '',
           attidentity = 'a', attnotnull AND NOT atthasdef AND attidentity = '' AND NOT EXISTS (
               SELECT FROM pg_type t WHERE t.oid = atttypid AND t.typdefault IS NOT NULL),
           has_column_privilege(attrelid, attnum, 'SELECT')
    FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
# first columns and conditions of the indices that are there
_INDICES = """
    SELECT a.attname, coalesce(pg_get_expr(i.indpred, i.indrelid), ''), i.indisunique AND i.indnkeyatts = 1
    FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = to_regclass(%s) AND i.indisvalid
"""
_PENDING = "(processed_at IS NULL)"


@dataclass(frozen=True)
class Column:
    """A column of an outbox, as the catalogue has it."""

    full_type: str  # with its length
    type: str
    qualified: str  # with its schema
    generated: bool
    always: bool  # GENERATED ALWAYS AS IDENTITY
    required: bool  # NOT NULL, and nothing fills it
    readable: bool


Columns = dict[str, Column]


def columns_of(cursor: Cursor, table: str) -> Columns:
    """The columns of an outbox by name; none where it is not there."""
    cursor.execute(_COLUMNS, (table,))
    return {row[0]: Column(*row[1:]) for row in cursor.fetchall()}


def reading_faults(table: str, columns: Columns) -> Iterator[tuple[str, str]]:
    """(what, remedy) of columns with which the source cannot work."""
    for name, types in _NEEDED.items():
        column = columns.get(name)
        if column is None:
            kind = _ADDED.get(name)
            yield (
                f"{table} has no column {name}",
                f"ALTER TABLE {table} ADD COLUMN {name} {kind};" if kind else "name the right table in Outbox(table=…)",
            )
        elif types and column.type not in types:
            yield f"{table}.{name} is of type {column.type}", f"make it {types[0]}, or name another outbox"
        elif name in WRITTEN and (column.generated or column.always):
            yield f"{table}.{name} is generated, and cannot be written", f"make {name} a plain column"


def filling_faults(table: str, columns: Columns) -> Iterator[tuple[str, str]]:
    """(what, remedy) of columns with which a trigger of ours, and so the monolith's own write, would fail."""
    for name, column in columns.items():
        if name in FILLED and (column.generated or column.always):
            yield f"{table}.{name} is generated, and triggers must fill it", f"make {name} a plain column"
        elif name not in FILLED and column.required:
            yield (
                f"{table}.{name} is NOT NULL and has no default: a trigger's event, and with it the write, would fail",
                f"ALTER TABLE {table} ALTER COLUMN {quote(name)} SET DEFAULT …; or DROP NOT NULL",
            )


def index_remarks(cursor: Cursor, table: str) -> Iterator[tuple[str, str]]:
    """(what, remedy) of indices without which each look passes all events that were ever acknowledged."""
    cursor.execute(_INDICES, (table,))
    found = cursor.fetchall()
    if not any(first == "processed_at" or _PENDING in condition for first, condition, _ in found):
        yield (
            f"{table} has no index of pending events: each poll passes those that were acknowledged, too",
            f"CREATE INDEX CONCURRENTLY ON {table} (aggregate_type, id) WHERE processed_at IS NULL;",
        )
    if not any(first == "processed_at" for first, _, _ in found):
        yield (
            f"{table} has no index of acknowledged events: each removal reads the whole table",
            f"CREATE INDEX CONCURRENTLY ON {table} (processed_at) WHERE processed_at IS NOT NULL;",
        )
    if not any(first == "id" and unique and not condition for first, condition, unique in found):
        yield (
            f"{table}.id has no unique index of its own: two events of one id are acknowledged together",
            f"CREATE UNIQUE INDEX CONCURRENTLY ON {table} (id);",
        )


def filled_types(columns: Columns) -> dict[str, str]:
    """The types of the columns that triggers fill, with their schemas; those of the table that we make, if none."""
    if not columns:
        return dict.fromkeys(FILLED, "pg_catalog.text")
    return {name: columns[name].qualified for name in FILLED if name in columns}


def as_text(columns: Columns, name: str) -> str:
    """A column compared as text; one that is text already can use its index."""
    return name if columns[name].type in ("text", "character varying") else f"{name}::text"
