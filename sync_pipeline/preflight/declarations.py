"""The entities' declarations: do query, adapter and sinks agree on columns?"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator

import psycopg2
import pyarrow as pa

from sync_pipeline.batch.adapt import adapt
from sync_pipeline.db.sql import Cursor, quote
from sync_pipeline.entities.files import read_entity_files
from sync_pipeline.entities.origin import Origin
from sync_pipeline.entity import Entity
from sync_pipeline.errors import AccessError, DeclarationError, LegacySchemaError, SettingError
from sync_pipeline.model.notices import Notice
from sync_pipeline.partitions import Monthly
from sync_pipeline.preflight import sources
from sync_pipeline.preflight.key_order import check_key_order
from sync_pipeline.preflight.relations import check_capture, shape_faults
from sync_pipeline.preflight.repeated_keys import check_repeated_keys
from sync_pipeline.sources.roots import roots_of
from sync_pipeline.sources.source import Subject
from sync_pipeline.sources.table import Table
from sync_pipeline.sources.watermark import stamped_since
from sync_pipeline.stores.stores import Stores, first_line

_NULLABLE = """
    SELECT format('ALTER TABLE %%s ALTER COLUMN %%I SET NOT NULL;', a.attrelid::regclass, a.attname)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.oid = %s AND a.attnum = %s AND c.relkind IN ('r', 'p') AND NOT a.attnotnull
"""


def check_entity(stores: Stores, entity: Entity) -> Iterator[Notice]:
    """Runs its queries without rows, and its adapter on none. Raises UnreachableError."""
    about = f"entity {entity.name}"
    try:
        origin = Origin.open(entity, stores)
    except LegacySchemaError as error:  # what our role may not read, look_at_grants names
        yield Notice("error", about, str(error).removeprefix(f"{about}: "), _grant(stores, error))
        return
    faults = [*_columns(entity, origin), *_sources(stores, entity, origin)]
    yield from (Notice("error", about, fault, remedy) for fault, remedy in faults)
    if not faults:
        yield Notice("ok", about, "query, adapter and sinks agree on columns")
        with origin.stores.legacy() as cursor:
            yield from check_capture(cursor, about, entity)
        for level, what, remedy in sources.remarks(_subject(stores, entity, origin), entity.capture):
            yield Notice(level, about, what, remedy)
        with origin.stores.legacy() as cursor:
            yield from check_key_order(cursor, about, origin)
            yield from _nullable(cursor, about, origin)
        yield from check_repeated_keys(about, origin, entity)


def _nullable(cursor: Cursor, about: str, origin: Origin) -> Iterator[Notice]:
    """Key columns that may hold a NULL: a row that does cannot be named, and stays behind."""
    cursor.execute(
        f"SELECT {', '.join(f'q.{quote(name)}' for name in origin.key.columns)} FROM ({origin.sql}) q LIMIT 0"
    )
    for column in cursor.description:
        cursor.execute(_NULLABLE, (column.table_oid or 0, column.table_column or 0))
        found = cursor.fetchone()
        if found and not re.search(rf"\b{re.escape(column.name)}\"?\s+is\s+not\s+null", origin.sql, re.IGNORECASE):
            what = f"key column {column.name} may hold NULL: such a row cannot be named, is not carried, and is drift"
            yield Notice("warning", about, what, f"{found[0]} or add {column.name} IS NOT NULL to the entity's query")


def check_entity_files(stores: Stores, *, whole: bool) -> Iterator[Notice]:
    """Name each file of SYNC_ENTITIES that declares no entity: an error where all entities are looked at."""
    try:
        files = read_entity_files(stores.settings.entities)
    except SettingError as error:
        yield Notice("error", "entity files", str(error), "set SYNC_ENTITIES to the package that holds them")
        return
    for fault in files.faults:
        remedy = "correct the file, or take it out of the package; the other entities go on meanwhile"
        yield Notice("error" if whole else "warning", "entity files", fault, remedy)


def _columns(entity: Entity, origin: Origin) -> Iterator[tuple[str, str]]:
    parts = entity.partitions
    if isinstance(parts, Monthly) and parts.column not in origin.schema.names:
        yield f"the query returns no column {parts.column!r}, by which Monthly cuts", "add it to the query"
    try:
        adapted, _ = adapt(entity, origin.key, origin.schema.empty_table())
    except DeclarationError as error:
        yield str(error).removeprefix(f"entity {entity.name}: "), "mend the entity's adapt"
        return
    for sink in entity.sinks:
        remedy = "return it from the entity's adapt, or take it out of the sink"
        yield from ((fault, remedy) for fault in sink.column_faults(adapted.table))


def _sources(stores: Stores, entity: Entity, origin: Origin) -> Iterator[tuple[str, str]]:
    """Each source's own query, asked for what changed after tomorrow."""
    tomorrow = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    with stores.legacy() as cursor:
        yield from shape_faults(cursor, entity)
    for table in entity.tables:
        try:
            _try_table(entity, origin, table)
            next(stamped_since(Subject(entity.name, origin.root, (table,), origin.stores), tomorrow, 1), None)
        except (AccessError, psycopg2.Error) as error:
            yield f"the query of Table({table.name!r}) fails: {first_line(error)}", _grant(stores, error)
            return
        except DeclarationError as error:
            yield str(error).removeprefix(f"entity {entity.name}: "), "mend the entity's Table"
            return
    version = entity.version_column
    if version and (version not in origin.schema.names or not pa.types.is_integer(origin.schema.field(version).type)):
        yield f"Outbox(version={version!r}) names no whole number of the query", "add it to the query"
    try:
        yield from sources.faults(_subject(stores, entity, origin), entity.capture)
    except DeclarationError as error:
        yield str(error).removeprefix(f"entity {entity.name}: "), "mend the entity's Table"


def _try_table(entity: Entity, origin: Origin, table: Table) -> None:
    """Run the way from a table to its roots, without rows, whatever source catches its changes."""
    subject = Subject(entity.name, origin.root, (table,), origin.stores)
    with origin.stores.legacy() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NULL", (table.name,))
        if cursor.fetchone()[0]:
            raise DeclarationError(f"there is no table {table.name}")
        cursor.execute(f"SELECT {roots_of(subject, table)} FROM {table.name} {table.join} LIMIT 0")


def _subject(stores: Stores, entity: Entity, origin: Origin) -> Subject:
    return Subject(entity.name, origin.root, entity.tables, origin.stores)


def _grant(stores: Stores, error: BaseException) -> str:
    if "row-level security" in str(error):
        return (
            f"ALTER ROLE {_role(stores)} BYPASSRLS; or, where its policies show all that is meant to move,"
            ' Table(…, policies="complete")'
        )
    return "" if "permission denied for" in str(error) else "correct the entity's file"


def _role(stores: Stores) -> str:
    with stores.legacy() as cursor:
        cursor.execute("SELECT quote_ident(current_user)")
        return str(cursor.fetchone()[0])
