"""The story of a batch, top to bottom: revision, read, adapt, files, rows, documents, close.

Live sync, backfill, sweep, repair and replay are all this one path. A batch takes its revision between two
snapshots: its keys were committed before it, its rows are read after it. So the highest revision has read every
change that a lower one acknowledges, and the last revision wins whatever the order of writing.
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from sync_pipeline.batch.order import Order, Outcome
from sync_pipeline.batch.prepare import prepare
from sync_pipeline.batch.write import write
from sync_pipeline.documents import send
from sync_pipeline.faults import crash_point
from sync_pipeline.lane import Lane
from sync_pipeline.ledger.ledger import next_revision
from sync_pipeline.origin import Rows


def sync_keys(lane: Lane, keys: pa.Table, order: Order) -> Outcome:
    """Bring these keys, and all other parts of their roots, to what the monolith holds now.

    Raises UnreachableError when a store does not answer, LegacySchemaError, DeclarationError.
    """
    return _sync(lane, lane.origin.roots_of(keys), keys, order)


def sync_roots(lane: Lane, roots: pa.Table, order: Order) -> Outcome:
    """Bring these roots to what the monolith holds now. Raises as `sync_keys` does."""
    named = lane.origin.key.schema.empty_table() if lane.origin.has_parts else roots
    return _sync(lane, lane.origin.roots_of(roots), named, order)


def sync_page(lane: Lane, after: list[str] | None, until: list[str] | None, within: str, order: Order) -> Outcome:
    """Bring the next chunk of a range to what the monolith holds now; `position` is None at the range's end."""
    limit = lane.stores.settings.chunk_rows
    revision = next_revision(lane.stores)
    crash_point("read.before")
    rows = lane.origin.page(after, until, within, limit)
    crash_point("read.after")
    keys = rows.table.select(list(lane.origin.key.columns))
    unreadable = lane.origin.key.parse(reject.key for reject in rows.rejects)
    roots = lane.origin.roots_of(pa.concat_tables([keys, unreadable]))
    position = rows.last if rows.count >= limit else None
    return _settle(lane, revision, keys, rows, order, roots=roots, position=position)


def _sync(lane: Lane, roots: pa.Table, named: pa.Table, order: Order) -> Outcome:
    revision = next_revision(lane.stores)
    crash_point("read.before")
    rows = lane.origin.by_roots(roots)
    crash_point("read.after")
    keys = named
    if lane.origin.has_parts:
        keys = pa.concat_tables([named, rows.table.select(named.column_names)])
        keys = keys.group_by(named.column_names).aggregate([])
    return _settle(lane, revision, keys, rows, order, roots=roots)


def _settle(
    lane: Lane,
    revision: int,
    keys: pa.Table,
    rows: Rows,
    order: Order,
    *,
    roots: pa.Table,
    position: list[str] | None = None,
) -> Outcome:
    if lane.gate:  # what passes the gate must know of all parts
        order = replace(order, acknowledge=True)
    if order.expected:
        keys, rows = order.expected.hold_back(lane.origin.key, keys, rows)
    batch = prepare(lane, revision, keys, rows, order)
    batch.roots = roots
    outcome = Outcome(keys=keys.num_rows, read=rows.table.num_rows, position=position)
    outcome.files, outcome.file_bytes = batch.placed.copied, batch.placed.copied_bytes
    operations = write(batch, outcome)
    if order.hand_over:
        order.hand_over(operations)
    else:
        outcome.documents, outcome.documents_owed = send(lane, operations)
    return outcome
