"""Claims: which entity has which table, alias or prefix, and whether all that lies there is ours.

Files are compared when they are loaded together. The ledger also sees entities that are loaded apart: those of another
code location on the same ledger, or one whose file is gone. A place that held something before its entity came may hold
what belongs to another, so `repair` deletes nothing there but what the ledger knows.
"""

from __future__ import annotations

from collections.abc import Callable

from sync_pipeline.db.sql import Cursor
from sync_pipeline.errors import OwnershipError
from sync_pipeline.model.faults import guarded
from sync_pipeline.model.places import Place

_INSERT = """
    INSERT INTO sync.claim (kind, name, entity, ours_alone) VALUES (%s, %s, %s, %s)
    ON CONFLICT (kind, name, entity) DO NOTHING
"""


def has_claim(cursor: Cursor, entity: str, place: Place) -> bool:
    """Whether the entity has claimed this place before."""
    cursor.execute("SELECT FROM sync.claim WHERE (kind, name, entity) = (%s, %s, %s)", (place.kind, place.name, entity))
    return bool(cursor.rowcount)


def claim(cursor: Cursor, entity: str, place: Place, is_empty: Callable[[], bool]) -> None:
    """Record that the entity has a place; `is_empty` is asked the first time.

    Raises OwnershipError where another entity of this ledger has it, unless they share it.
    """
    if has_claim(cursor, entity, place):
        return
    kind, name = place.kind, place.name
    cursor.execute("SELECT entity, ours_alone FROM sync.claim WHERE (kind, name) = (%s, %s) ORDER BY 1", (kind, name))
    others = dict(cursor.fetchall())
    if others and not place.shared and guarded(131):
        raise OwnershipError(_refusal(entity, place, min(others)))
    cursor.execute("DELETE FROM sync.claim WHERE (kind, name, entity) = (%s, '', %s)", (kind, entity))
    ours_alone = bool(cursor.rowcount) or (all(others.values()) if others else is_empty())
    cursor.execute(_INSERT, (kind, name, entity, ours_alone))


def take_over(cursor: Cursor, entity: str, place: Place) -> list[str]:
    """Record that the entity has a place to itself, with all that lies there; return whose it was, if not its own."""
    mine = {"kind": place.kind, "name": place.name, "entity": entity, "shared": place.shared}
    cursor.execute(
        "DELETE FROM sync.claim WHERE (kind, name) = (%(kind)s, %(name)s)"
        " AND CASE WHEN entity = %(entity)s THEN NOT ours_alone ELSE NOT %(shared)s END RETURNING entity",
        mine,
    )
    former = sorted(f"entity {other}" if other != entity else "not its own alone" for (other,) in cursor.fetchall())
    cursor.execute(_INSERT, (place.kind, place.name, entity, True))
    return former


def is_ours_alone(cursor: Cursor, entity: str, place: Place) -> bool:
    """Whether all that lies in a place is ours, so that what nothing accounts for there may be deleted."""
    if not guarded(132):
        return True
    cursor.execute(
        "SELECT ours_alone FROM sync.claim WHERE (kind, name, entity) = (%s, %s, %s)", (place.kind, place.name, entity)
    )
    found = cursor.fetchone()
    return bool(found and found[0])


def not_alone(cursor: Cursor) -> list[tuple[str, str]]:
    """Entities and their places that held something before they came."""
    cursor.execute("SELECT entity, kind, name FROM sync.claim WHERE NOT ours_alone ORDER BY 1, 2, 3")
    return [(entity, Place(kind, name).shown) for entity, kind, name in cursor.fetchall()]


def _refusal(entity: str, place: Place, other: str) -> str:
    return (
        f"entity {entity}: {place.shown} is entity {other}'s in this ledger: give {entity} another one; or, if {other}"
        f" is gone for good and {entity} takes its place with all that is there,"
        f" sync-pipeline ledger take-over {entity}"
    )
