"""Ownership: do the indices and prefixes that entities write to bear our ledger's mark, or another's?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress

from sync_pipeline.entity import Entity
from sync_pipeline.errors import UnreachableError
from sync_pipeline.ownership import MARK_OBJECT, Mark, index_marks, index_meta, prefix_marks, refusal
from sync_pipeline.preflight.notice import Notice
from sync_pipeline.stores import Stores

ABOUT = "ownership"


def look_at_ownership(stores: Stores, entities: Iterable[Entity]) -> Iterator[Notice]:
    """Compare each mark with our ledger's id; writes none. Raises UnreachableError when the ledger does not answer."""
    ours = stores.ledger_id()
    opened = _opened(stores) if ours else set()
    for entity in entities:
        for marks in _marks(stores, entity):
            yield from _notices(stores, entity, marks, ours, entity.name in opened)


def _marks(stores: Stores, entity: Entity) -> Iterator[list[Mark]]:
    """Those in the cluster, and those in the bucket; that one does not answer, another look says."""
    with suppress(UnreachableError):
        yield index_marks(stores, entity)
    if entity.media:
        with suppress(UnreachableError):
            yield prefix_marks(stores, entity.media.prefix)


def _opened(stores: Stores) -> set[str]:
    """Entities that were opened before, and whose marks should be there."""
    with stores.target() as cursor:
        cursor.execute("SELECT entity FROM sync.cursor")
        return {name for (name,) in cursor.fetchall()}


def _notices(stores: Stores, entity: Entity, marks: list[Mark], ours: str | None, opened: bool) -> Iterator[Notice]:
    for mark in marks:
        if mark.ledger not in (None, ours):
            yield Notice("error", ABOUT, *refusal(entity.name, mark, ours))
        elif mark.ledger:
            yield Notice("ok", ABOUT, f"{mark.what} bears the mark of our ledger {ours}")
    if opened and marks and marks[-1].ledger is None:
        yield _unmarked(stores, entity, marks[-1])


def _unmarked(stores: Stores, entity: Entity, mark: Mark) -> Notice:
    what = f"{mark.what} bears no mark, so that another deployment could write to it unnoticed"
    if mark.what.startswith("index "):
        meta = json.dumps({"_meta": index_meta(stores, entity)})
        remedy = f"allow manage on it and start again; or PUT {mark.what.removeprefix('index ')}/_mapping {meta}"
    else:
        key = f"{mark.what.removeprefix('prefix ')}{MARK_OBJECT}"
        remedy = f"allow s3:GetObject and s3:PutObject on {key}, and start again"
    return Notice("warning", ABOUT, what, remedy)
