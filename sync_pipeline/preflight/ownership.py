"""Ownership: do the indices and prefixes that entities write to bear our ledger's mark, or another's?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress

import psycopg2

from sync_pipeline.entities.ownership import MARK_OBJECT, Mark, index_marks, index_meta, prefix_marks, refusal
from sync_pipeline.entity import Entity
from sync_pipeline.errors import UnreachableError
from sync_pipeline.ledger.claims import not_alone
from sync_pipeline.ledger.identity import read_ledger_id
from sync_pipeline.preflight.notice import Notice
from sync_pipeline.sinks.search.requests import reaching
from sync_pipeline.stores.stores import Stores

ABOUT = "ownership"
# a cluster without security knows no such question
_NO_SECURITY = {400, 404, 405, 500}


def check_ownership(stores: Stores, entities: Iterable[Entity]) -> Iterator[Notice]:
    """Compare each mark with our ledger's id; writes none. Raises UnreachableError when the ledger does not answer."""
    ours, opened = _ledger(stores)
    entities = list(entities)
    if opened:
        yield from _not_alone(stores, {entity.name for entity in entities})
    for entity in entities:
        started = entity.name in opened
        for marks in _marks(stores, entity):
            yield from _notices(stores, entity, marks, ours, started)
            # A start that the index stops marks no prefix, and the index has its own notice.
            started = started and bool(marks) and all(mark.ledger in (None, ours) for mark in marks)


def _not_alone(stores: Stores, names: set[str]) -> Iterator[Notice]:
    """Places that held something before their entity came, which repair therefore leaves."""
    with stores.target() as cursor:
        cursor.execute("SELECT to_regclass('sync.claim') IS NOT NULL")
        found = not_alone(cursor) if cursor.fetchone()[0] else []
    for entity, place in found:
        if entity in names:
            what = (
                f"{place} held something before entity {entity} came: repair leaves there what the ledger does not know"
            )
            remedy = f"take it away; or, if all of it is the entity's, sync-pipeline ledger take-over {entity}"
            yield Notice("warning", ABOUT, what, remedy)


def _marks(stores: Stores, entity: Entity) -> Iterator[list[Mark]]:
    """Those in the cluster, and then those in the bucket; that one does not answer, another look says."""
    if entity.index:
        with suppress(UnreachableError):
            yield index_marks(stores, entity)
    if entity.media:
        with suppress(UnreachableError):
            yield prefix_marks(stores, entity.media.prefix)


def _ledger(stores: Stores) -> tuple[str | None, set[str]]:
    """Our ledger's id, and entities that were opened before, so that their marks should be there.

    None and no entity where there is no ledger yet, or where we may not read it, which another look tells.
    """
    try:
        with stores.target() as cursor:
            ours = read_ledger_id(cursor)
            if ours is None:
                return None, set()
            cursor.execute("SELECT entity FROM sync.cursor")
            return ours, {name for (name,) in cursor.fetchall()}
    except psycopg2.errors.InsufficientPrivilege:
        return None, set()


def _notices(stores: Stores, entity: Entity, marks: list[Mark], ours: str | None, started: bool) -> Iterator[Notice]:
    for mark in marks:
        if mark.ledger not in (None, ours):
            yield Notice("error", ABOUT, *refusal(entity.name, mark, ours))
        elif mark.ledger:
            yield Notice("ok", ABOUT, f"{mark.what} bears the mark of our ledger {ours}")
    if started and marks and marks[-1].ledger is None:
        yield from _unmarked(stores, entity, marks[-1])


def _unmarked(stores: Stores, entity: Entity, mark: Mark) -> Iterator[Notice]:
    """An index that we may mark is marked at the next start; a prefix would have been at the last one."""
    what = f"{mark.what} bears no mark, so that another deployment could write to it unnoticed"
    if not mark.what.startswith("index "):
        key = f"{mark.what.removeprefix('prefix ')}{MARK_OBJECT}"
        yield Notice("warning", ABOUT, what, f"allow s3:GetObject and s3:PutObject on {key}, and start again")
        return
    name = mark.what.removeprefix("index ")
    if not may_mark(stores, name):
        meta = json.dumps({"_meta": index_meta(stores, entity)})
        yield Notice("warning", ABOUT, what, f"allow manage on it and start again; or PUT {name}/_mapping {meta}")


def may_mark(stores: Stores, index: str) -> bool:
    """Whether we may mark an index; a cluster without security lets all do it. Raises UnreachableError."""
    from elasticsearch import ApiError

    with reaching():
        try:
            asked = [{"names": [index], "privileges": ["manage"]}]
            return bool(stores.search.security.has_privileges(index=asked)["has_all_requested"])
        except ApiError as error:
            if error.status_code not in _NO_SECURITY:
                raise
    return True
