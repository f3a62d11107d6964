"""The story of a rebuild, top to bottom: make, fill, compare, swap; killed anywhere, it goes on there.

From the moment it is made every batch writes both indices, the new one first. So for each document the new index has
the version that readers see, or a later one, as soon as the fill has brought it; and stays so through the swap.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field

from sync_pipeline import due, parking
from sync_pipeline.capture import open_cursor
from sync_pipeline.entity import Entity
from sync_pipeline.errors import DeclarationError, SettingError, UnreachableError
from sync_pipeline.faults import crash_point
from sync_pipeline.lane import Lane
from sync_pipeline.ledger import before, rebuilds
from sync_pipeline.ledger.rebuilds import Rebuild, alone
from sync_pipeline.live import work
from sync_pipeline.rebuild.compare import compare, doubts, owed_documents
from sync_pipeline.rebuild.fill import Report, fill, silent
from sync_pipeline.reconcile.verdict import Finding
from sync_pipeline.sinks.search_index import SearchIndex
from sync_pipeline.sinks.successor import Successor, behind, next_name, remove
from sync_pipeline.stores import Stores

_TRIES = 60
_PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class Rebuilt:
    """What came of a rebuild; with `findings`, the former index is where it was."""

    entity: str
    index: str
    former: str
    rows: int  # legacy rows that were read
    documents: int = 0  # compared
    carried_over: int = 0  # as the former index had them: their rows are parked, or gone and not yet swept
    findings: list[Finding] = field(default_factory=list)


class _BehindError(Exception):
    """Readers would go back if the alias were swapped now."""


def rebuild_index(lane: Lane, report: Report = silent) -> Rebuilt:
    """Fill a new index beside the one behind the alias, and swap them unless it differs from the ledger.

    Goes on with one that was cut off. `report` is told a step and how many it has done more. Raises SettingError,
    DeclarationError where the entity's file has changed since it was begun, UnreachableError.
    """
    client, name = lane.stores.search, lane.entity.name
    with alone(lane.stores, name):
        open_cursor(lane)
        rebuild, successor = _begun(lane, _index_of(lane.entity))
        if successor.follows(client):  # cut off between the swap and the ledger
            return _finished(lane, rebuild, Rebuilt(name, rebuild.index, rebuild.former, rebuild.rows))
        successor.let_go(client)
        with lane.stores.target() as cursor:
            due.unclaim(cursor, name)
        fill(lane, rebuild, report)
        crash_point("rebuild.filled")
        compared = compare(lane, rebuild, report)
        made = Rebuilt(name, rebuild.index, rebuild.former, rebuild.rows, **vars(compared))
        if made.findings:
            return made
        _swap(lane, rebuild, successor)
        crash_point("rebuild.swapped")
        return _finished(lane, rebuild, made)


def abandon(stores: Stores, entity: Entity) -> str | None:
    """Give up the rebuild under way, and delete its index; its name, if there was one. Raises as rebuild_index does."""
    index = _index_of(entity)
    with alone(stores, entity.name):
        with stores.target() as cursor:
            rebuild = rebuilds.under_way(cursor, entity.name)
        if rebuild is None:
            return None
        if _successor(index, rebuild).follows(stores.search):
            raise SettingError(
                f"index {rebuild.index} is behind the alias by now: sync-pipeline rebuild index {entity.name} ends it"
            )
        _remove(stores, index, rebuild)
    return rebuild.index


def clear(stores: Stores, entity: Entity) -> list[str]:
    """Delete the indices that were followed by others; their names. Raises as rebuild_index does."""
    index = _index_of(entity)
    with alone(stores, entity.name):
        with stores.target() as cursor:
            kept = rebuilds.done(cursor, entity.name)
        for rebuild in kept:
            remove(stores.search, index, rebuild.former)
            with stores.target() as cursor:
                rebuild.forget(cursor)
    return [rebuild.former for rebuild in kept]


def _begun(lane: Lane, index: SearchIndex) -> tuple[Rebuild, Successor]:
    """The one that was cut off, or a new one; its index is there, and every batch knows of it."""
    stores, declared = lane.stores, _declared(lane, index)
    with stores.target() as cursor:
        rebuild = rebuilds.under_way(cursor, lane.entity.name)
    if rebuild and rebuild.state == "removing":
        _remove(stores, index, rebuild)
        rebuild = None
    if rebuild is None:
        former = _former(stores, index)
        rebuild = Rebuild(lane.entity.name, next_name(stores.search, index.alias), former, declared)
        with stores.target() as cursor:
            rebuild.begin(cursor)
        crash_point("rebuild.begun")
    if behind(stores.search, index.alias) not in ([rebuild.former], [rebuild.index]):
        raise SettingError(
            f"alias {index.alias} has been moved since the rebuild of {rebuild.index} was begun:"
            f" sync-pipeline rebuild abandon {lane.entity.name}"
        )
    if rebuild.declared != declared:
        raise DeclarationError(
            f"entity {lane.entity.name}: its file has changed since the rebuild of {rebuild.index} was begun:"
            f" sync-pipeline rebuild abandon {lane.entity.name}, then begin again"
        )
    successor = _successor(index, rebuild)
    if rebuild.state == "making":
        successor.make(stores.search)
        crash_point("rebuild.made")
        with stores.target() as cursor:
            rebuild.enter(cursor, "filling")
    return rebuild, successor


def _swap(lane: Lane, rebuild: Rebuild, successor: Successor) -> None:
    """Move the aliases at a moment when nothing that readers have seen is missing from the new index.

    Documents that are owed may be on their way into either index. The former one takes none meanwhile: they are sent
    again, and reach the new one.
    """
    client = lane.stores.search
    for _ in range(_TRIES):
        try:
            with successor.standstill(client):
                crash_point("rebuild.standstill")
                if doubts(lane, rebuild, owed_documents(lane)) or _half_undone(lane):
                    raise _BehindError
                successor.swap(client)
                return
        except _BehindError:
            if not work(lane, lambda *_: None):
                threading.Event().wait(_PAUSE_SECONDS)
    raise UnreachableError(f"SYNC_SEARCH_URL: documents that {rebuild.index} needs are still owed; try again later")


def _half_undone(lane: Lane) -> bool:
    """Whether rows were put back whose former documents are still to be sent."""
    with lane.stores.target() as cursor:
        return before.any_restored(cursor, lane.entity.name)


def _finished(lane: Lane, rebuild: Rebuild, made: Rebuilt) -> Rebuilt:
    """What the former index refused, the new one may take."""
    with lane.stores.target() as cursor:
        rebuild.enter(cursor, "done")
        parking.replay_documents(cursor, lane.entity.name)
    return made


def _remove(stores: Stores, index: SearchIndex, rebuild: Rebuild) -> None:
    """Nobody writes it any more, then it is deleted, then forgotten."""
    successor = _successor(index, rebuild)
    if rebuild.state != "removing":
        with stores.target() as cursor:
            rebuild.enter(cursor, "removing")
    crash_point("rebuild.removing")
    successor.let_go(stores.search)
    successor.remove(stores.search)
    with stores.target() as cursor:
        rebuild.forget(cursor)


def _successor(index: SearchIndex, rebuild: Rebuild) -> Successor:
    return Successor(index, rebuild.index, rebuild.former)


def _former(stores: Stores, index: SearchIndex) -> str:
    found = behind(stores.search, index.alias)
    if len(found) != 1:
        raise SettingError(f"alias {index.alias} points to {len(found)} indices: sync-pipeline check says what to do")
    return found[0]


def _declared(lane: Lane, index: SearchIndex) -> dict[str, object]:
    """What a rebuild must not see change on its way, as JSON gives it back."""
    declared = {"mappings": index.mappings, "settings": dict(index.settings), "basis": lane.ledger.basis}
    found: dict[str, object] = json.loads(json.dumps(declared))
    return found


def _index_of(entity: Entity) -> SearchIndex:
    if entity.index is None:
        raise SettingError(f"entity {entity.name} has no search index")
    return entity.index
