"""The story of a batch, top to bottom: revision, read, adapt, files, rows, documents, close.

Live sync, backfill, sweep, repair and replay are all this one path. A batch takes its revision between two
snapshots: its keys were committed before it, its rows are read after it. So the highest revision has read every
change that a lower one acknowledges, and the last revision wins whatever the order of writing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from sync_pipeline.batch.delivery import send
from sync_pipeline.batch.order import Order, Outcome
from sync_pipeline.batch.prepare import prepare
from sync_pipeline.batch.split import Part, SplitOrder, add_up
from sync_pipeline.batch.write import write
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.origin import Rows
from sync_pipeline.entities.page_size import PageTooLargeError
from sync_pipeline.ledger.ledger import Draw, next_draw
from sync_pipeline.model.faults import crash_point


def sync_keys(context: EntityContext, keys: pa.Table, order: Order) -> Outcome:
    """Bring these keys, and all other parts of their roots, to what the monolith holds now.

    Raises UnreachableError when a store does not answer, LegacySchemaError, DeclarationError.
    """
    return _sync(context, context.origin.roots_of(keys), keys, order)


def sync_roots(context: EntityContext, roots: pa.Table, order: Order) -> Outcome:
    """Bring these roots to what the monolith holds now. Raises as `sync_keys` does."""
    named = context.origin.key.schema.empty_table() if context.origin.has_parts else roots
    return _sync(context, context.origin.roots_of(roots), named, order)


def sync_page(
    context: EntityContext, after: list[str] | None, until: list[str] | None, within: str, order: Order
) -> Outcome:
    """Bring the next chunk of a range to what the monolith holds now; `position` is None at the range's end."""
    size = context.origin.page_size
    limit = size.rows(context.stores.settings.chunk_rows)
    while True:
        try:
            return _sync_page(context, after, until, within, order, limit)
        except MemoryError:
            if limit == 1:
                raise
            limit = size.shrink(limit)


def _sync_page(
    context: EntityContext, after: list[str] | None, until: list[str] | None, within: str, order: Order, limit: int
) -> Outcome:
    draw = next_draw(context.stores)
    crash_point("read.before")
    rows = context.origin.page(after, until, within, limit)
    crash_point("read.after")
    keys = rows.table.select(list(context.origin.key.columns))
    unreadable = context.origin.key.parse(reject.key for reject in rows.rejects)
    roots = context.origin.roots_of(pa.concat_tables([keys, unreadable]))
    position = None if rows.is_last else rows.last
    return _settle(context, draw, keys, rows, order, roots=roots, position=position)


def _sync(context: EntityContext, roots: pa.Table, named: pa.Table, order: Order) -> Outcome:
    """One batch, or several where the rows are too large for one; what is undone stays in one."""
    part = Part(roots, named)
    if order.undo or order.whole:
        return _sync_part(context, part, order, whole=True)
    return add_up(_parts(context, part, SplitOrder(order)))


def _parts(context: EntityContext, rest: Part, split: SplitOrder) -> Iterator[Outcome]:
    size = context.origin.page_size
    most = size.rows(max(1, rest.roots.num_rows))
    while True:
        is_last = most >= rest.roots.num_rows
        part, following = (rest, rest) if is_last else rest.cut(context, most)
        order = split.of_part(context, part, is_last=is_last)
        try:
            yield _sync_part(context, part, order)
        except (PageTooLargeError, MemoryError):
            if part.roots.num_rows <= 1:
                raise
            split.forget(order)
            most = size.shrink(part.roots.num_rows)
            continue
        if is_last:
            return
        rest, most = following, size.rows(following.roots.num_rows)


def _sync_part(context: EntityContext, part: Part, order: Order, *, whole: bool = False) -> Outcome:
    named = part.named
    draw = next_draw(context.stores)
    crash_point("read.before")
    rows = context.origin.all_by_roots(part.roots) if whole else context.origin.by_roots(part.roots)
    crash_point("read.after")
    keys = named
    if context.origin.has_parts:
        keys = pa.concat_tables([named, rows.table.select(named.column_names)])
        keys = keys.group_by(named.column_names).aggregate([])
    return _settle(context, draw, keys, rows, order, roots=part.roots)


def _settle(
    context: EntityContext,
    draw: Draw,
    keys: pa.Table,
    rows: Rows,
    order: Order,
    *,
    roots: pa.Table,
    position: list[str] | None = None,
) -> Outcome:
    if context.gate:  # what passes the gate must know of all parts
        order = replace(order, acknowledge=True)
    if order.expected:
        keys, rows = order.expected.hold_back(context.origin.key, keys, rows)
    batch = prepare(context, draw, keys, rows, order)
    batch.roots = roots
    if context.entity.table.outer_key:
        texts, rejects = (
            context.origin.key.texts(rows.table),
            pa.array([each.key for each in rows.rejects], pa.string()),
        )
        batch.there = pa.concat_arrays([texts.cast(pa.string()), rejects])
    outcome = Outcome(keys=keys.num_rows, read=rows.table.num_rows, position=position)
    outcome.files, outcome.file_bytes = batch.placed.copied, batch.placed.copied_bytes
    for delivery in write(batch, outcome):
        if order.hand_over:
            order.hand_over(delivery)
            continue
        sent, owed = send(context, delivery)
        outcome.documents, outcome.documents_owed = outcome.documents + sent, outcome.documents_owed + owed
    return outcome
