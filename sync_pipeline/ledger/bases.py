"""Bases: what the digests of a ledger's rows were made under, with the expression that made them.

A basis is superseded once the entity is opened under another one. It is empty once a whole sweep has met no row of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from psycopg2.extras import Json

from sync_pipeline.db.digest import DigestExpression
from sync_pipeline.db.sql import Cursor

_RENAME = """
    UPDATE sync.basis b SET digest_version = %(version)s WHERE entity = %(entity)s AND digest_version = %(former)s
        AND NOT EXISTS (SELECT FROM sync.basis o WHERE o.entity = b.entity AND o.entity_version = b.entity_version
            AND o.digest_version = %(version)s)
"""
_FIND = "SELECT id FROM sync.basis WHERE (entity, entity_version, digest_version) = (%s, %s, %s)"
_USE = """
    UPDATE sync.basis SET superseded_at = CASE WHEN id <> %(id)s THEN now() END,
        emptied_at = CASE WHEN id <> %(id)s THEN emptied_at END,
        expression = CASE WHEN id = %(id)s THEN coalesce(expression, %(sql)s) ELSE expression END,
        parts = CASE WHEN id = %(id)s THEN coalesce(parts, %(parts)s::jsonb) ELSE parts END
    WHERE entity = %(entity)s AND ((superseded_at IS NULL) <> (id = %(id)s)
        OR id = %(id)s AND expression IS NULL AND %(sql)s::text IS NOT NULL)
"""
# of the entity version in use: rows of another one are for a backfill
_FORMER = """
    SELECT f.id, f.digest_version, f.expression, f.parts FROM sync.basis f JOIN sync.basis b USING (entity,
        entity_version) WHERE b.entity = %(entity)s AND {} AND f.id <> b.id AND f.emptied_at IS NULL ORDER BY f.id
"""


@dataclass(frozen=True)
class FormerBasis:
    """A basis that rows of the ledger may still bear; its expression is None where the ledger does not have it."""

    id: int
    digest_version: str
    expression: DigestExpression | None


def rename(cursor: Cursor, entity: str, former: str, version: str) -> None:
    """Give a version its present name where the ledger bears it under another one."""
    cursor.execute(_RENAME, {"entity": entity, "former": former, "version": version})


def open_basis(
    cursor: Cursor, entity: str, entity_version: int, digest_version: str, expression: DigestExpression | None
) -> int:
    """Take a basis into use, and keep its expression. Returns its id."""
    values = (entity, entity_version, digest_version)
    cursor.execute(_FIND, values)
    found = cursor.fetchone()
    if not found:
        cursor.execute(
            "INSERT INTO sync.basis (entity, entity_version, digest_version) VALUES (%s, %s, %s)"
            " ON CONFLICT (entity, entity_version, digest_version) DO NOTHING",
            values,
        )
        cursor.execute(_FIND, values)
        found = cursor.fetchone()
    basis = int(found[0])
    sql, parts = (expression.sql, Json(dict(expression.parts))) if expression else (None, None)
    cursor.execute(_USE, {"entity": entity, "id": basis, "sql": sql, "parts": parts})
    return basis


def former_bases(cursor: Cursor, entity: str, basis: int) -> list[FormerBasis]:
    """Bases of the same entity version that rows may still bear, beside the one in use."""
    cursor.execute(_FORMER.format("b.id = %(basis)s"), {"entity": entity, "basis": basis})
    return [
        FormerBasis(number, version, DigestExpression(sql, parts) if sql and parts else None)
        for number, version, sql, parts in cursor.fetchall()
    ]


def count_former(cursor: Cursor, entity: str, table: str) -> int:
    """How many rows of an entity's ledger (`table`) bear a former digest. Counts only where there may be some."""
    cursor.execute(_FORMER.format("b.superseded_at IS NULL"), {"entity": entity})
    former = [number for number, *_ in cursor.fetchall()]
    if not former:
        return 0
    cursor.execute(f"SELECT count(*) FROM {table} WHERE digest IS NOT NULL AND basis = ANY(%s)", (former,))
    return int(cursor.fetchone()[0])


def note_rebuilt(cursor: Cursor, entity: str) -> None:
    """Note that rows may bear any basis again: the log does not tell of digests that were set without a write."""
    cursor.execute("UPDATE sync.basis SET emptied_at = NULL WHERE entity = %s AND emptied_at IS NOT NULL", (entity,))


def note_walked(cursor: Cursor, entity: str, basis: int, outdated: int) -> None:
    """Note that a whole sweep has met so many rows of other bases than this one."""
    cursor.execute(
        "UPDATE sync.basis SET emptied_at = CASE WHEN %(outdated)s = 0 THEN now() END WHERE entity = %(entity)s"
        " AND id <> %(basis)s AND (emptied_at IS NULL) = (%(outdated)s = 0)",
        {"entity": entity, "basis": basis, "outdated": outdated},
    )
