"""The order of keys: does an index give the monolith's rows in the order in which they are paged?

History, sweep and reconciliation take rows page by page in the order of their keys, and both sides have to agree on
it. So keys of text go by byte (COLLATE "C"), and the index of a primary key under another collation does not help:
without one of its own each page reads and sorts the whole table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from sync_pipeline.db.plans import estimated_rows, nodes_of, sort_of
from sync_pipeline.db.sql import Cursor, quote
from sync_pipeline.entities.origin import Origin
from sync_pipeline.model.notices import Notice

# reading and sorting so many rows takes some milliseconds; and so many about a tenth of a second, for each page
WARNING_ROWS = 20_000
ERROR_ROWS = 500_000
_COLUMN = re.compile(r'^\(?(?:"((?:[^"]|"")+)"|(\w+))\.(?:"((?:[^"]|"")+)"|(\w+))\)?(?:::\w+\)?)?(?: COLLATE "C")?$')
_TABLE = """
    SELECT format('%%I.%%I', n.nspname, c.relname), c.relkind::text,
           (SELECT array_agg(quote_ident(a.attname) ORDER BY k.place)
            FROM unnest(%s::int[]) WITH ORDINALITY k(number, place)
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s
"""


def check_key_order(cursor: Cursor, about: str, origin: Origin) -> Iterator[Notice]:
    """Yields a notice where pages of the entity's query sort its rows, and how many those are."""
    rows = estimate(cursor, origin)
    if rows < WARNING_ROWS:
        return
    sort = _sort_of_a_page(cursor, origin)
    if sort is None:
        yield Notice("ok", about, f"an index gives its rows in the order of {_named(origin)}")
        return
    level = "error" if rows >= ERROR_ROWS else "warning"
    what = (
        f"no index gives its rows in the order of {_named(origin)}: each page of a backfill, a sweep and a"
        f" reconciliation reads and sorts some {rows:,} rows of the monolith"
    )
    yield Notice(level, about, what, _remedy(cursor, origin, sort))


def estimate(cursor: Cursor, origin: Origin) -> int:
    """Ask the planner how many rows the entity's query gives."""
    return estimated_rows(cursor, f"SELECT {origin.key.plain('q')} FROM ({origin.sql}) q")


def _sort_of_a_page(cursor: Cursor, origin: Origin) -> dict[str, Any] | None:
    query = f"SELECT {origin.key.plain('q')} FROM ({origin.sql}) q ORDER BY {origin.key.ordered('q')} LIMIT 1"
    return sort_of(cursor, query, len(origin.key.columns))


def _named(origin: Origin) -> str:
    return origin.key.ordered()


def _remedy(cursor: Cursor, origin: Origin, sort: dict[str, Any]) -> str:
    """The statement that makes the index, where query and plan tell the columns."""
    found = _by_description(cursor, origin) or _by_plan(sort)
    if found is None:
        return (
            f'make an index on what the query selects as {", ".join(origin.key.columns)}, text with COLLATE "C",'
            " or select columns of one table"
        )
    table, kind, columns = found
    collated = ", ".join(map("".join, zip(columns, origin.key.collations(), strict=True)))
    if kind == "p":
        return (
            f"CREATE INDEX ON ONLY {table} ({collated}); then CREATE INDEX CONCURRENTLY the same on each partition, and"
            " ALTER INDEX … ATTACH PARTITION"
        )
    return f"CREATE INDEX CONCURRENTLY ON {table} ({collated});"


def _by_description(cursor: Cursor, origin: Origin) -> tuple[str, str, list[str]] | None:
    """(table, its kind, columns) where the key's columns are plain columns of one table."""
    cursor.execute(f"SELECT {origin.key.plain('q')} FROM ({origin.sql}) q LIMIT 0")
    places = [(column.table_oid, column.table_column) for column in cursor.description]
    oids = {oid for oid, _ in places}
    if len(oids) != 1 or not all(oids):
        return None
    cursor.execute(_TABLE, ([number for _, number in places], oids.pop()))
    table, kind, columns = cursor.fetchone()
    return (table, kind, list(columns)) if kind in {"r", "p", "m"} else None


def _by_plan(sort: dict[str, Any]) -> tuple[str, str, list[str]] | None:
    """The same from the plan, which looks through views."""
    places = [_COLUMN.match(key) for key in sort["Sort Key"]]
    if not all(places):
        return None
    aliases = {(p[1] or p[2]).replace('""', '"') for p in places if p}
    tables = {
        (node["Schema"], node["Relation Name"])
        for node in nodes_of(sort)
        if node.get("Alias") in aliases and "Schema" in node
    }
    if len(aliases) != 1 or len(tables) != 1:
        return None
    schema, name = tables.pop()
    return f"{_ident(schema)}.{_ident(name)}", "r", [_ident((p[3] or p[4]).replace('""', '"')) for p in places if p]


def _ident(name: str) -> str:
    return name if re.fullmatch("[a-z_][a-z0-9_]*", name) else quote(name)
