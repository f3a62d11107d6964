"""A new index behind an alias: what is its own in the story of a rebuild.

From the moment it is made every batch writes both indices, the new one first. So for each document the new index has
the version that readers see, or a later one, as soon as the fill has brought it; and stays so through the swap.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.batch.delivery import Delivery, send
from sync_pipeline.batch.order import Order
from sync_pipeline.db.sql import Cursor
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity
from sync_pipeline.errors import SettingError, UnreachableError
from sync_pipeline.ledger import queue_reads, queue_table
from sync_pipeline.ledger.rebuilds import Rebuild
from sync_pipeline.model.faults import crash_point
from sync_pipeline.model.findings import Finding
from sync_pipeline.queue import parking
from sync_pipeline.rebuild.documents import compare, doubts, owed_documents
from sync_pipeline.rebuild.report import Compared, Report
from sync_pipeline.run.live import work
from sync_pipeline.sinks.search import SearchIndex, indices_of
from sync_pipeline.sinks.search.swap import AliasSwap, behind, next_name, remove
from sync_pipeline.sinks.table import before_images
from sync_pipeline.stores.stores import Stores

_TRIES = 60
_PAUSE_SECONDS = 0.5


class _BehindError(Exception):
    """Readers would go back if the alias were swapped now."""


@dataclass(frozen=True)
class NewIndex:
    """An entity's index beside the one behind the alias."""

    context: EntityContext
    index: SearchIndex
    kind: str = "index"

    @property
    def sink(self) -> str:
        """The index's sink."""
        return self.index.id

    def begin(self) -> Rebuild:
        """Named, and known; not made yet."""
        stores, index = self.context.stores, self.index
        former, name = _former(stores, index), next_name(stores.search, index.alias)
        rebuild = Rebuild(self.context.entity.name, self.kind, name, former, self._declared, sink=self.sink)
        with stores.target() as cursor:
            rebuild.begin(cursor)
        return rebuild

    def go_on(self, rebuild: Rebuild) -> None:
        """Its index is there, every batch knows of it, and nothing is left of whoever was cut off."""
        stores, name = self.context.stores, self.context.entity.name
        alias = self.index.alias
        if behind(stores.search, alias) not in ([rebuild.former], [rebuild.name]):
            raise SettingError(
                f"alias {alias} has been moved since the rebuild of {rebuild.name} was begun:"
                f" sync-pipeline rebuild abandon {name}"
            )
        rebuild.must_declare(self._declared)
        alias_swap = AliasSwap(self.index, rebuild.name, rebuild.former)
        if rebuild.state == "making":
            alias_swap.make(stores.search)
            crash_point("rebuild.made")
            with stores.target() as cursor:
                rebuild.enter(cursor, "filling")
        if not self.is_swapped(rebuild):
            alias_swap.let_go(stores.search)
            with stores.target() as cursor:
                queue_table.unclaim_entity(cursor, name)

    def is_swapped(self, rebuild: Rebuild) -> bool:
        """Whether it was cut off between the swap and the ledger."""
        return AliasSwap(self.index, rebuild.name, rebuild.former).follows(self.context.stores.search)

    def order(self) -> Order:
        """Documents of unchanged rows go to the new index alone, but for those that the former one has refused."""
        with self.context.stores.target() as cursor:
            refused = queue_reads.refused_documents(cursor, self.context.entity.name, self.sink)
        hand_over = partial(self._send, pa.array(refused, pa.string()))
        return Order(documents=True, sink=self.sink, hand_over=hand_over)

    def _send(self, refused: pa.Array, delivery: Delivery) -> None:
        if delivery.sink.id != self.sink:
            send(self.context, delivery)
            return
        operations = delivery.operations
        changed = pc.equal(operations.versions, delivery.revision)
        shown = operations.filter(pc.or_(changed, pc.is_in(operations.ids, value_set=refused)))
        _, owed = send(self.context, delivery, shown=shown)
        if 0 < owed == len(delivery):  # else all documents would end up in `due`
            raise UnreachableError("SYNC_SEARCH_URL: the cluster takes no documents; the rebuild goes on here later")

    def compare(self, rebuild: Rebuild, report: Report) -> Compared:
        """All documents with the ledger."""
        return compare(self.context, self.index, rebuild, report)

    def swap(self, rebuild: Rebuild) -> list[Finding]:
        """Move the aliases at a moment when nothing that readers have seen is missing from the new index.

        Documents that are owed may be on their way into either index. The former one takes none meanwhile: they are
        sent again, and reach the new one.
        """
        context, client = self.context, self.context.stores.search
        alias_swap = AliasSwap(self.index, rebuild.name, rebuild.former)
        for _ in range(_TRIES):
            try:
                with alias_swap.standstill(client):
                    crash_point("rebuild.standstill")
                    owed = owed_documents(context, self.index)
                    if doubts(context, self.index, rebuild, owed) or _half_undone(context):
                        raise _BehindError
                    alias_swap.swap(client)
                    return []
            except _BehindError:
                if not work(context, lambda *_: None):
                    threading.Event().wait(_PAUSE_SECONDS)
        raise UnreachableError(f"SYNC_SEARCH_URL: documents that {rebuild.name} needs are still owed; try again later")

    def finish(self, cursor: Cursor, _: Rebuild) -> None:
        """What the former index refused, the new one may take."""
        parking.replay(cursor, self.context.entity.name, "document")

    @property
    def _declared(self) -> dict[str, object]:
        """What must not change on its way."""
        index, basis = self.index, self.context.ledger.basis
        return {"mappings": index.mappings, "settings": dict(index.settings), "basis": basis}


def _half_undone(context: EntityContext) -> bool:
    """Whether rows were put back whose former documents are still to be sent."""
    with context.stores.target() as cursor:
        return before_images.any_reverted(cursor, context.entity.name)


def check_abandon(stores: Stores, entity: Entity, rebuild: Rebuild) -> None:
    """Raises SettingError where readers are with the new one by now."""
    if _left(rebuild).follows(stores.search):
        raise SettingError(
            f"index {rebuild.name} is behind the alias by now: sync-pipeline rebuild index {entity.name} ends it"
        )


def remove_new(stores: Stores, _: Entity, rebuild: Rebuild) -> None:
    """Nobody writes it any more."""
    alias_swap = _left(rebuild)
    alias_swap.let_go(stores.search)
    alias_swap.remove(stores.search)


def remove_former(stores: Stores, _: Entity, rebuild: Rebuild) -> None:
    """Readers have left it."""
    remove(stores.search, _left(rebuild).sink, rebuild.former)


def _left(rebuild: Rebuild) -> AliasSwap:
    """By the alias that it was made for: the entity's file may name another one by now, or none."""
    alias = rebuild.name.rpartition("-")[0]
    return AliasSwap(SearchIndex(alias, fields={}), rebuild.name, rebuild.former)


def index_of(entity: Entity, sink: str = "") -> SearchIndex:
    """Return the entity's index, or that of a name. Raises SettingError where it has none, or several and no name."""
    found = {index.id: index for index in indices_of(entity.sinks)}
    if not found:
        raise SettingError(f"entity {entity.name} has no search index")
    if sink and sink not in found:
        raise SettingError(f"entity {entity.name} has no search index {sink!r}: it has {', '.join(sorted(found))}")
    if not sink and len(found) > 1:
        names = ", ".join(sorted(found))
        raise SettingError(f"entity {entity.name} has several search indices ({names}): say which, with --sink")
    return found[sink] if sink else next(iter(found.values()))


def index_names(entity: Entity, sink: str = "", *, is_named: bool = False) -> list[str]:
    """Return the names of the indices to rebuild: the one of that name, or else all that the entity has.

    Raises SettingError where there is none, if the entity `is_named` or the index is.
    """
    names = [index.id for index in indices_of(entity.sinks)]
    return [index_of(entity, sink).id] if sink or (is_named and not names) else names


def _former(stores: Stores, index: SearchIndex) -> str:
    found = behind(stores.search, index.alias)
    if len(found) != 1:
        raise SettingError(f"alias {index.alias} points to {len(found)} indices: sync-pipeline check says what to do")
    return found[0]
