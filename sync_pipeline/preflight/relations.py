"""Relations of the monolith that an entity's statements read: may our role read them, and how are their changes caught?

The server itself is asked. PREPARE resolves names and views without asking for rights on tables, and the locks of its
transaction tell what it found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psycopg2

from sync_pipeline.db.sql import Cursor
from sync_pipeline.entity import Entity
from sync_pipeline.errors import DeclarationError
from sync_pipeline.model.notices import Notice
from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.sweep_only import SweepOnly
from sync_pipeline.sources.table import Table
from sync_pipeline.sources.watermark import Watermark
from sync_pipeline.stores.stores import Stores

ABOUT = "legacy database"
_STATEMENT = "sync_pipeline_check"
# what the server has locked for the statement; what lies below a view is read by the right of the view's owner
_LOCKED = """
    WITH locked AS (
        SELECT c.oid, c.relkind::text, n.nspname, c.relname FROM pg_locks l
        JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast'))
    SELECT oid::bigint, relkind, format('%I.%I', nspname, relname), oid::regclass::text,
        has_table_privilege(oid, 'SELECT'),
        EXISTS (SELECT FROM pg_depend d JOIN pg_rewrite w ON w.oid = d.objid JOIN locked v ON v.oid = w.ev_class
            WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
              AND d.refobjid = locked.oid AND v.oid <> locked.oid),
        ARRAY(WITH RECURSIVE above AS (
            SELECT inhparent FROM pg_inherits WHERE inhrelid = locked.oid
            UNION SELECT i.inhparent FROM pg_inherits i JOIN above a ON i.inhrelid = a.inhparent)
            SELECT inhparent::bigint FROM above)
    FROM locked ORDER BY 3
"""
# schemas and their tables that our role may not look into, as far as a statement spells their names
_HIDDEN = """
    SELECT format('%%I', n.nspname), array_agg(format('%%I.%%I', n.nspname, c.relname) ORDER BY 1)
        FILTER (WHERE c.oid IS NOT NULL AND NOT has_table_privilege(c.oid, 'SELECT'))
    FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
      AND (position(format('%%I.%%I', n.nspname, c.relname) IN %(text)s) > 0
        OR position(format('%%s.%%s', n.nspname, c.relname) IN lower(%(text)s)) > 0)
    WHERE NOT has_schema_privilege(n.oid, 'USAGE')
      AND (position(format('%%I.', n.nspname) IN %(text)s) > 0 OR position(n.nspname || '.' IN lower(%(text)s)) > 0)
    GROUP BY 1 ORDER BY 1
"""


@dataclass(frozen=True)
class Relation:
    """A relation that a statement reads; `above` are the partitioned tables and parents that it belongs to."""

    oid: int
    kind: str
    name: str
    shown: str
    may_read: bool
    is_below_view: bool
    above: list[int]


def statements_of(entity: Entity) -> list[str]:
    """The entity's query and each way from a table to its roots."""
    return [f"SELECT * FROM ({entity.origin.sql}) q", *(f"SELECT FROM {t.name} {t.join}" for t in entity.tables)]


def check_grants(stores: Stores, entities: Iterable[Entity]) -> Iterator[Notice]:
    """Name all that our role may not read, with one statement that grants it. Raises UnreachableError."""
    schemas: set[str] = set()
    tables: dict[str, str] = {}
    with stores.legacy() as cursor:
        for statement in dict.fromkeys(each for entity in entities for each in statements_of(entity)):
            if not _is_refused(cursor, statement):
                continue
            more_schemas, more_tables = _lacking(cursor, statement)
            schemas |= more_schemas
            tables.update(more_tables)
        cursor.execute("SELECT quote_ident(current_user)")
        role = cursor.fetchone()[0]
    if not schemas and not tables:
        return
    grants = [f"GRANT USAGE ON SCHEMA {', '.join(sorted(schemas))} TO {role};"] if schemas else []
    grants += [f"GRANT SELECT ON {', '.join(sorted(tables))} TO {role};"] if tables else []
    names = [*(f"schema {name}" for name in sorted(schemas)), *sorted(tables.values())]
    yield Notice("error", ABOUT, f"{role} may not read {', '.join(names)}", " ".join(grants))


def check_capture(cursor: Cursor, about: str, entity: Entity) -> Iterator[Notice]:
    """Say of each table that the entity's query reads how its changes are caught. Raises DeclarationError."""
    declared = {_oid(cursor, table): table for table in reversed(entity.tables)}
    found = _read(cursor, statements_of(entity)[0])
    views = [declared[each.oid] for each in found if each.kind == "v" and each.oid in declared]
    for relation in found:
        if relation.kind != "v":
            own = [table for oid, table in declared.items() if oid in {relation.oid, *relation.above}]
            yield Notice("ok", about, f"{relation.shown}: {_caught(entity, relation, own, views)}")


def _caught(entity: Entity, relation: Relation, tables: list[Table], views: list[Table]) -> str:
    if not tables and relation.is_below_view and views:
        return f"through {views[0].name}, {_caught(entity, replace(relation, is_below_view=False), views, [])}"
    if not tables:
        return "by the sweep only (no Table of the entity names it)"
    if isinstance(entity.capture, SweepOnly) or relation.kind == "m":
        return "by the sweep only"
    if not isinstance(entity.capture, Watermark):
        return "by its events" if isinstance(entity.capture, Outbox) else "by the log"
    stamps = [stamp for table in tables for stamp in table.stamps]
    if not stamps:
        return "by the sweep only (its Table has no stamp)"
    late = ", and so is what commits late on its own server" if relation.kind == "f" else ""
    return f"by {', '.join(dict.fromkeys(stamps))}; rows that are deleted are found by the sweep{late}"


def shape_faults(cursor: Cursor, entity: Entity) -> Iterator[tuple[str, str]]:
    """(what, remedy): tables whose stamps tell nothing of a change."""
    for table in entity.tables:
        cursor.execute("SELECT relkind::text FROM pg_class WHERE oid = to_regclass(%s)", (table.name,))
        found = cursor.fetchone()
        if found and found[0] == "m" and table.stamps and isinstance(entity.capture, Watermark):
            yield (
                f"{table.name} is a materialized view: its rows appear when it is refreshed, with stamps from before,"
                " so that a poll passes them over",
                "leave `stamp` out of its Table; the sweep finds what a refresh brings",
            )


def _oid(cursor: Cursor, table: Table) -> int | None:
    cursor.execute("SELECT to_regclass(%s)::oid::bigint", (table.name,))
    found: int | None = cursor.fetchone()[0]
    return found


def _is_refused(cursor: Cursor, statement: str) -> bool:
    """Whether our role may not run a statement. One that fails otherwise is another check's business."""
    try:
        cursor.execute(f"EXPLAIN {statement}")
    except psycopg2.errors.InsufficientPrivilege as error:
        return "row-level security" not in str(error)
    except psycopg2.ProgrammingError:
        return False
    return False


def _lacking(cursor: Cursor, statement: str) -> tuple[set[str], dict[str, str]]:
    """Schemas and tables, with how to show them, that our role may not read, as far as the server tells before that."""
    cursor.execute(_HIDDEN, {"text": statement})
    hidden = cursor.fetchall()
    schemas = {schema for schema, _ in hidden}
    tables = {name: name for _, names in hidden for name in names or ()}
    try:
        found = _read(cursor, statement)
    except DeclarationError:
        return schemas, tables
    lacking = {each.name: each.shown for each in found if not each.may_read and not each.is_below_view}
    return schemas, tables | lacking


def _read(cursor: Cursor, statement: str) -> list[Relation]:
    """All relations that a statement reads. Raises DeclarationError where it cannot be resolved."""
    with _prepared(cursor, statement):
        cursor.execute(_LOCKED)
        return [Relation(*row) for row in cursor.fetchall()]


@contextmanager
def _prepared(cursor: Cursor, statement: str) -> Iterator[None]:
    cursor.execute("BEGIN")
    is_prepared = False
    try:
        try:
            cursor.execute(f"PREPARE {_STATEMENT} AS {statement}")
            is_prepared = True
        except psycopg2.ProgrammingError as error:
            raise DeclarationError(str(error).strip().splitlines()[0]) from error
        yield
    finally:
        cursor.roll_back()
        if is_prepared:  # it outlives its transaction
            cursor.execute(f"DEALLOCATE {_STATEMENT}")
