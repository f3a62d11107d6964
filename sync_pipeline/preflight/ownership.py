"""Ownership: do the indices and prefixes that entities write to bear our ledger's mark, or another's?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import psycopg2

from sync_pipeline.entity import Entity
from sync_pipeline.errors import UnreachableError
from sync_pipeline.ledger.claims import not_alone
from sync_pipeline.ledger.identity import read_ledger_id
from sync_pipeline.ledger.sinks import left_behind
from sync_pipeline.model.notices import Notice
from sync_pipeline.sinks.ownership import ABOUT, Mark, refusal
from sync_pipeline.sinks.sink import Sink
from sync_pipeline.stores.stores import Stores


def check_ownership(stores: Stores, entities: Iterable[Entity]) -> Iterator[Notice]:
    """Compare each mark with our ledger's id; writes none. Raises UnreachableError when the ledger does not answer."""
    ours, opened = _ledger(stores)
    entities = list(entities)
    if opened:
        yield from _not_alone(stores, {entity.name for entity in entities})
        yield from _left_behind(stores, {entity.name for entity in entities})
    for entity in entities:
        started = entity.name in opened
        for sink, marks in _marks(stores, entity):
            yield from _notices(entity, marks, ours)
            if started and marks and marks[-1].ledger is None:
                yield from sink.unmarked(stores, entity.name, marks[-1])
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


def _left_behind(stores: Stores, names: set[str]) -> Iterator[Notice]:
    """Places of sinks that no entity file declares any more: what is there stays, and no batch writes it."""
    with stores.target() as cursor:
        cursor.execute("SELECT to_regclass('sync.sink') IS NOT NULL")
        found = left_behind(cursor) if cursor.fetchone()[0] else []
    for entity, sink, place in found:
        if entity in names:
            what = f"entity {entity} declares its sink {sink} no longer: {place} stays as it is, and is not written"
            yield Notice("warning", ABOUT, what, "take it away once no reader needs it")


def _marks(stores: Stores, entity: Entity) -> Iterator[tuple[Sink, list[Mark]]]:
    """Those of each sink, in the order in which they are put; that a store does not answer, another look says."""
    for sink in entity.other_sinks:
        with suppress(UnreachableError):
            yield sink, sink.marks(stores)


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


def _notices(entity: Entity, marks: list[Mark], ours: str | None) -> Iterator[Notice]:
    for mark in marks:
        if mark.ledger not in (None, ours):
            yield Notice("error", ABOUT, *refusal(entity.name, mark, ours))
        elif mark.ledger:
            yield Notice("ok", ABOUT, f"{mark.what} bears the mark of our ledger {ours}")
