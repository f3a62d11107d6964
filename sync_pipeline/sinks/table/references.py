"""The ledger of references: whose rows refer to whose, and the locks that keep both ends of one still."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sync_pipeline.db.sql import Cursor
from sync_pipeline.sinks.table.declaration import TableDeclaration
from sync_pipeline.sinks.table.present import TARGET_TABLES, relations_of, target_tables_of
from sync_pipeline.sinks.table.target_table import TargetTable

_LOCKS = 0x53594E52


@dataclass(frozen=True)
class Dependent:
    """A table whose rows refer to an entity's."""

    entity: str
    relation: str  # quoted
    key: list[str]
    columns: list[str]


def enter(
    cursor: Cursor, entity: str, table: TableDeclaration, parents: Iterable[str], *, exclusive: bool
) -> tuple[list[Dependent], list[TargetTable]]:
    """Lock an entity and its parents until the transaction ends.

    Gives who refers to it and the tables that its rows are written to, both as seen under the locks. Raises
    DeclarationError as standing_of does.
    """
    cursor.execute(
        f"{_locking(exclusive)}; SELECT entity, relation, key, columns FROM ("
        " SELECT 0 AS n, entity, relation, key, columns FROM sync.reference"
        " WHERE parent = %(entity)s AND to_regclass(relation) IS NOT NULL"
        f" UNION ALL SELECT n, NULL, NULL, columns, types FROM {TARGET_TABLES}) found ORDER BY n, entity",
        {"locked": sorted({entity, *parents}), "entity": entity, "relations": relations_of(table)},
    )
    found = cursor.fetchall()
    dependents = [Dependent(*row) for row in found if row[0] is not None]
    return dependents, target_tables_of(table, [(columns, types) for name, _, columns, types in found if name is None])


def still(cursor: Cursor, *entities: str) -> None:
    """Have no batch of these, nor of entities that refer to them, at work on its rows until the transaction ends."""
    cursor.execute(_locking(exclusive=True), {"locked": sorted(entities)})


def _locking(exclusive: bool) -> str:
    """Always in one order."""
    take = "pg_advisory_xact_lock" if exclusive else "pg_advisory_xact_lock_shared"
    return (
        f"SELECT {take}({_LOCKS}, h) FROM"
        " (SELECT DISTINCT hashtext(name) AS h FROM unnest(%(locked)s::text[]) AS name ORDER BY 1) locks"
    )


def register(cursor: Cursor, entity: str, table: TableDeclaration) -> None:
    """Let the parents know of a table's references, when they have changed."""
    declared = {(r.entity, table.quoted, table.key, r.columns) for r in table.references}
    cursor.execute("SELECT parent, relation, key, columns FROM sync.reference WHERE entity = %s", (entity,))
    known = {(parent, relation, tuple(key), tuple(columns)) for parent, relation, key, columns in cursor.fetchall()}
    if declared == known:
        return
    # whoever writes a parent now does not know yet that it is one
    still(cursor, *{entity, *(parent for parent, *_ in declared | known)})
    cursor.execute("DELETE FROM sync.reference WHERE entity = %s", (entity,))
    for parent, relation, key, columns in sorted(declared):
        cursor.execute(
            "INSERT INTO sync.reference (entity, parent, relation, key, columns) VALUES (%s, %s, %s, %s, %s)",
            (entity, parent, relation, list(key), list(columns)),
        )
