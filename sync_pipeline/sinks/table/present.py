"""The tables that an entity's rows are written to, as they stand now: the live one, and one filled beside it."""

from __future__ import annotations

from collections.abc import Sequence

from sync_pipeline.db.sql import Cursor
from sync_pipeline.errors import DeclarationError
from sync_pipeline.sinks.table.declaration import TableDeclaration
from sync_pipeline.sinks.table.target_table import TargetTable

# n, columns and their types, the live table first
TARGET_TABLES = "sync.standing(%(entity)s, %(relations)s::text[])"
_REMEDY = "migrate the table, or rebuild it (sync-pipeline rebuild table), then sync again"
_Columns = tuple[Sequence[str], Sequence[str]]


def target_tables(cursor: Cursor, entity: str, table: TableDeclaration, *, shadow: bool = False) -> list[TargetTable]:
    """The live table; after it the one that is filled beside it, if there is one. Raises as standing_of does."""
    cursor.execute(
        f"SELECT columns, types FROM {TARGET_TABLES} ORDER BY n", {"relations": relations_of(table), "entity": entity}
    )
    return target_tables_of(table, cursor.fetchall(), shadow=shadow)


def relations_of(table: TableDeclaration) -> list[str]:
    """The names, quoted, that they have or would have."""
    return [table.quoted, table.shadow.quoted]


def target_tables_of(table: TableDeclaration, found: Sequence[_Columns], *, shadow: bool = False) -> list[TargetTable]:
    """Tables from what `STANDING` has found of them.

    Raises DeclarationError for a declared column that the live table does not have, where no other one is filled, nor
    is to be (`shadow`). Columns that refer to other entities' rows must be there in any case: who deletes those looks.
    """
    declared = zip((table, table.shadow), found, strict=False)
    tables = [
        TargetTable.of(each, dict(zip(*columns, strict=True)), is_shadow=n > 0)
        for n, (each, columns) in enumerate(declared)
    ]
    if not tables:
        raise DeclarationError(f"{table.name} is not there any more: sync again makes it, empty")
    missing = [name for name in table.columns if name not in tables[0].columns]
    referring = [name for reference in table.references for name in reference.columns if name in missing]
    if referring:
        raise DeclarationError(f"{table.name} has no column {referring[0]!r}, which refers to other rows: add it first")
    if missing and len(tables) == 1 and not shadow:
        raise DeclarationError(f"{table.name} has no column {missing[0]!r}: {_REMEDY}")
    return tables
