"""The story of a rebuild, top to bottom: begin, fill, compare, swap; killed anywhere, it goes on there.

What is filled is an index or a table beside the one that readers use, and every batch writes both meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from sync_pipeline.batch.order import Order
from sync_pipeline.db.sql import Cursor
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity
from sync_pipeline.errors import SettingError
from sync_pipeline.ledger import rebuilds
from sync_pipeline.ledger.rebuilds import Rebuild, alone
from sync_pipeline.model.faults import crash_point
from sync_pipeline.model.findings import Finding
from sync_pipeline.rebuild import index, table
from sync_pipeline.rebuild.fill import fill
from sync_pipeline.rebuild.report import Compared, Report, silent
from sync_pipeline.run.capture import open_cursor
from sync_pipeline.stores.stores import Stores

_KINDS = {"index": index, "table": table}


@dataclass(frozen=True)
class Rebuilt:
    """What came of a rebuild; with `findings`, readers are where they were."""

    entity: str
    kind: str  # index, table
    name: str
    former: str
    rows: int  # legacy rows that were read
    compared: int = 0  # documents, or rows of the new side
    carried_over: int = 0  # as the former one had them: their rows are parked, or gone and not yet swept
    findings: list[Finding] = field(default_factory=list)


class RebuildTarget(Protocol):
    """What is filled beside what readers use."""

    @property
    def kind(self) -> str:
        """index, table."""

    @property
    def sink(self) -> str | None:
        """The name of the index's sink; of a table None."""

    def begin(self) -> Rebuild:
        """Known to the ledger. Raises SettingError for what is in its way."""

    def go_on(self, rebuild: Rebuild) -> None:
        """It is there, and every batch writes it. Raises DeclarationError where the entity's file has changed."""

    def is_swapped(self, rebuild: Rebuild) -> bool:
        """Whether readers are with it by now."""

    def order(self) -> Order:
        """How the next batch is carried out that fills it."""

    def compare(self, rebuild: Rebuild, report: Report) -> Compared:
        """What differs from the ledger."""

    def swap(self, rebuild: Rebuild) -> list[Finding]:
        """Readers move to it at once; or not, and why."""

    def finish(self, cursor: Cursor, rebuild: Rebuild) -> None:
        """What comes after the swap."""


def rebuild_index(context: EntityContext, report: Report = silent, *, sink: str = "") -> Rebuilt:
    """Fill a new index beside the one behind the alias, and swap them unless it differs from the ledger.

    `sink` names the index where the entity has several.

    Goes on with one that was cut off. Raises SettingError, DeclarationError where the entity's file has changed since
    it was begun, UnreachableError.
    """
    with context.stores.target() as cursor:
        _refuse_another(rebuilds.under_way(cursor, context.entity.name), "index", sink or None)
    return _rebuild(context, index.NewIndex(context, index.index_of(context.entity, sink)), report)


def rebuild_table(context: EntityContext, report: Report = silent, *, like: bool = False) -> Rebuilt:
    """The same of the table `NAME_next`, which is there, or made `like` the live one.

    The context may have been opened with `shadow`. Raises as rebuild_index does.
    """
    return _rebuild(context, table.NewTable(context, like), report)


def _rebuild(context: EntityContext, target: RebuildTarget, report: Report) -> Rebuilt:
    with alone(context.stores, context.entity.name):
        open_cursor(context)
        rebuild = _begun(context, target)
        compared = Compared()
        if not target.is_swapped(rebuild):
            fill(context, rebuild, target.order, report)
            crash_point("rebuild.filled")
            compared = target.compare(rebuild, report)
            if not compared.findings:
                compared.findings = target.swap(rebuild)
                crash_point("rebuild.swapped")
        rebuilt = Rebuilt(
            context.entity.name, rebuild.kind, rebuild.name, rebuild.former, rebuild.rows, **vars(compared)
        )
        if not rebuilt.findings:
            with context.stores.target() as cursor:
                target.finish(cursor, rebuild)
                rebuild.enter(cursor, "done")
        return rebuilt


def _begun(context: EntityContext, target: RebuildTarget) -> Rebuild:
    """The one that was cut off, or a new one."""
    with context.stores.target() as cursor:
        rebuild = rebuilds.under_way(cursor, context.entity.name)
    if rebuild and rebuild.state == "removing":
        _remove(context.stores, context.entity, rebuild)
        rebuild = None
    _refuse_another(rebuild, target.kind, target.sink)
    if rebuild is None:
        rebuild = target.begin()
        crash_point("rebuild.begun")
    target.go_on(rebuild)
    return rebuild


def _refuse_another(rebuild: Rebuild | None, kind: str, sink: str | None) -> None:
    """Raises SettingError where another rebuild than this one is under way; `sink` is None where any will do."""
    if rebuild is None or rebuild.state == "removing":
        return
    if rebuild.kind == kind and (sink is None or rebuild.sink in {None, sink}):
        return
    named = f"{rebuild.kind} {rebuild.entity}" + (f" --sink {rebuild.sink}" if rebuild.kind == kind else "")
    raise SettingError(
        f"entity {rebuild.entity}: the rebuild of {rebuild.name} comes first: sync-pipeline rebuild {named} goes on"
        " with it, rebuild abandon gives it up"
    )


def abandon(stores: Stores, entity: Entity) -> str | None:
    """Give up the rebuild under way, with what it has filled; its name, if there was one. Raises as rebuild_index."""
    with alone(stores, entity.name):
        with stores.target() as cursor:
            rebuild = rebuilds.under_way(cursor, entity.name)
        if rebuild is None:
            return None
        _KINDS[rebuild.kind].check_abandon(stores, entity, rebuild)
        _remove(stores, entity, rebuild)
    return rebuild.name


def clear(stores: Stores, entity: Entity) -> list[str]:
    """Delete indices and tables that were followed by others; their names. Raises as rebuild_index does."""
    with alone(stores, entity.name):
        with stores.target() as cursor:
            kept = rebuilds.done(cursor, entity.name)
        for rebuild in kept:
            _KINDS[rebuild.kind].remove_former(stores, entity, rebuild)
            with stores.target() as cursor:
                rebuild.forget(cursor)
    return [rebuild.former for rebuild in kept]


def _remove(stores: Stores, entity: Entity, rebuild: Rebuild) -> None:
    """Nobody writes it any more, then it is deleted, then forgotten."""
    if rebuild.state != "removing":
        with stores.target() as cursor:
            rebuild.enter(cursor, "removing")
    crash_point("rebuild.removing")
    _KINDS[rebuild.kind].remove_new(stores, entity, rebuild)
    with stores.target() as cursor:
        rebuild.forget(cursor)
