"""The independent ledger: what writers committed, noted in their own transactions; the engine never reads it.

It is the table `demo.edit_log` of the monolith's database: content, kind of change, a version that rises for each
content, and whether it is gone.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.oracle import KINDS
from tests.world import World

NOTE = """
    INSERT INTO demo.edit_log (content_id, kind, version, deleted)
    SELECT id, %s, version, deleted_at IS NOT NULL FROM content WHERE id = ANY(%s)"""
_LAST = "SELECT DISTINCT ON (content_id) content_id, version, deleted, kind FROM demo.edit_log ORDER BY 1, id DESC"
_RISES = """
    SELECT content_id, before, version FROM (
        SELECT content_id, version, lag(version) OVER (PARTITION BY content_id ORDER BY id) AS before
        FROM demo.edit_log) l WHERE version <= before"""
_HELD = " UNION ALL ".join(f"SELECT id, version, '{kind}' FROM catalog.{kind}" for kind in KINDS)
_PARKED = "SELECT key FROM sync.due WHERE reason = 'rejected'"


class Entry(NamedTuple):
    """The last of one content."""

    content: int
    version: int
    deleted: bool
    kind: str


def note(cursor: Any, kind: str, contents: list[int]) -> None:
    """Note a change of these contents in the transaction that made it."""
    cursor.execute(NOTE, (kind, contents))


def commits(world: World) -> int:
    """How many changes of contents were committed so far."""
    ((count,),) = world.legacy("SELECT count(DISTINCT xid) FROM demo.edit_log")
    return int(count)


def violations(world: World) -> list[str]:
    """What the new side holds otherwise than the ledger says: lost, doubled, back, or gone back."""
    last = [Entry(*row) for row in world.legacy(_LAST)]
    held: dict[int, list[tuple[int, str]]] = {}
    for key, version, kind in world.target(_HELD):
        held.setdefault(key, []).append((version, kind))
    parked = {key for (key,) in world.target(_PARKED)}
    found = [f"ledger: {key} went from {before} to {after}" for key, before, after in world.legacy(_RISES)]
    return found + [said for entry in last for said in _wrong(entry, held.get(entry.content, []), parked)]


def _wrong(entry: Entry, held: list[tuple[int, str]], parked: set[str]) -> Iterator[str]:
    said = f"ledger: {entry.content} ({entry.kind} {entry.version})"
    if len(held) > 1:
        yield f"{said} is doubled: {held}"
    if entry.kind == "poison":
        if str(entry.content) not in parked:
            yield f"{said} is neither right nor parked"
    elif entry.deleted:
        yield from (f"{said} is back in {kind}" for _, kind in held)
    elif not held:
        yield f"{said} is lost"
    else:
        yield from (f"{said} is at {version} in {kind}" for version, kind in held if version != entry.version)
