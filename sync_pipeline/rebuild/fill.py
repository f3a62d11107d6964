"""Filling a new index: all legacy rows page by page, each page as any other batch, with documents of unchanged rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline import parking
from sync_pipeline.batch.order import Order, Outcome
from sync_pipeline.documents import Operations, send
from sync_pipeline.errors import UnreachableError
from sync_pipeline.lane import Lane
from sync_pipeline.ledger.rebuilds import Rebuild
from sync_pipeline.pipeline import sync_page
from sync_pipeline.sql import Cursor

FILLED, COMPARED = "rows filled", "documents compared"
Report = Callable[[str, int], None]


def silent(*_: object) -> None:
    """Nobody is told."""


def fill(lane: Lane, rebuild: Rebuild, report: Report) -> None:
    """Go on after the rebuild's position. Raises as sync_keys does; UnreachableError also when the cluster is away."""

    def commit(cursor: Cursor, outcome: Outcome) -> None:
        rebuild.advance(cursor, outcome.position, outcome.read)

    while not rebuild.filled:
        with lane.stores.target() as cursor:
            refused = parking.refused_documents(cursor, lane.entity.name)
        order = Order(documents=True, commit=commit, hand_over=partial(_send, lane, pa.array(refused, pa.string())))
        outcome = sync_page(lane, rebuild.position, None, "true", order)
        rebuild.position, rebuild.filled = outcome.position, outcome.position is None
        rebuild.rows += outcome.read
        report(FILLED, outcome.read + outcome.parked)
        pa.default_memory_pool().release_unused()  # as a backfill does


def _send(lane: Lane, refused: pa.Array, operations: Operations) -> None:
    """All to the new index; to the former one what has changed, and what it has refused before."""
    changed = pc.equal(operations.versions, operations.revision)
    shown = operations.filter(pc.or_(changed, pc.is_in(operations.ids, value_set=refused)))
    _, owed = send(lane, operations, shown=shown)
    if 0 < owed == len(operations.ids):  # else all documents would end up in `due`
        raise UnreachableError("SYNC_SEARCH_URL: the cluster takes no documents; the rebuild goes on here later")
