"""A batch as the ledger is told of it, and what follows from the part that the ledger lets through."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.batch.batch import Batch, bit
from sync_pipeline.batch.documents import Operations
from sync_pipeline.db.columns import DIGEST
from sync_pipeline.ledger.ledger import DOUBT, KEEP, PARK, WITHDRAW, WRITE


def plan_of(batch: Batch) -> pa.Table:
    """Every key the ledger is told of: adapted rows first, so that `n` numbers them."""
    key = batch.context.origin.key
    columns = list(key.columns)

    def part(keys: pa.Table, action: pa.Array, digest: pa.Array, held: pa.Array) -> pa.Table:
        table = keys.select(columns).append_column("action", action.cast(pa.int16()))
        return table.append_column(DIGEST, digest.cast(pa.int64())).append_column("held", held.cast(pa.int16()))

    def constant(value: int | None, rows: int) -> pa.Array:
        return pa.repeat(pa.scalar(value, pa.int64()), rows)

    rows = batch.adapted.legacy
    moved = {text for text, _ in batch.moved}.difference(batch.superseded)
    texts = sorted({r.key for r in batch.rejects} | set(batch.placed.waiting) | set(batch.waits) | moved)
    parked = key.parse(texts)
    doubt = batch.order.sends_all or batch.context.entity.compensates  # what is applied may be undone
    stays = pa.array(
        [WITHDRAW if text in batch.without_document else DOUBT if doubt or text in moved else PARK for text in texts],
        pa.int16(),
    )
    action = pc.if_else(batch.rows_to_write, WRITE, KEEP)
    deleted, same = batch.deleted, batch.unchanged
    parts = [part(rows, action, rows.column(DIGEST).combine_chunks(), batch.adapted.held)]
    if count := deleted.num_rows:
        parts.append(part(deleted, constant(WRITE, count), constant(None, count), constant(0, count)))
    if count := same.num_rows:
        parts.append(part(same, constant(KEEP, count), same.column(DIGEST), constant(0, count)))
    if count := parked.num_rows:
        parts.append(part(parked, stays, constant(None, count), constant(0, count)))
    plan = pa.concat_tables(parts)
    at = len(columns)
    return plan.add_column(at, "n", pa.array(range(plan.num_rows), pa.int32())).combine_chunks()


def operations_of(batch: Batch, plan: pa.Table, applied: pa.Table) -> Operations:
    """The documents that the applied part of a plan asks for: written rows, and all where the order says so."""
    context, index = batch.context, batch.context.entity.index
    if index is None:
        return Operations.none(context)
    n = applied.column("n").combine_chunks()
    versions = applied.column("written").combine_chunks()
    touched = plan.take(n)
    action, held = (touched.column(name).combine_chunks() for name in ("action", "held"))
    all_of_them = batch.order.sends_all
    adapted = pc.less(n, batch.adapted.table.num_rows)
    held_before = bit(applied.column("held_before").combine_chunks(), 2)
    written = pc.is_in(action, value_set=pa.array([WRITE, WITHDRAW], pa.int16()))
    # its document's removal was owed, and the row is parked meanwhile
    unsure = pc.and_(pc.equal(action, DOUBT), pc.invert(held_before))
    considered = pc.or_(pc.or_(written, unsure), pc.and_(adapted, pa.scalar(all_of_them)))
    wanted = pc.and_(considered, bit(held, 2))
    may_be_there = pc.or_(held_before, pa.scalar(all_of_them))
    deleted = pc.and_(pc.and_(considered, pc.invert(bit(held, 2))), may_be_there)
    rows = pc.if_else(wanted, n, pa.scalar(None, pa.int32()))
    contents = index.contents(batch.adapted.table).take(rows)
    keys = touched.select(list(context.origin.key.columns))
    return Operations(keys, context.origin.key.texts(keys), versions, contents, wanted).filter(pc.or_(wanted, deleted))


def references_of(batch: Batch) -> pa.Table:
    """What rows of the plan say of files: `n`, `source_key`, `target_key`."""
    texts = batch.texts(batch.adapted.legacy)
    names = pa.array([text for text, _, _ in batch.placed.references], pa.string())
    table = pa.table(
        {
            "n": pc.index_in(names, value_set=texts).cast(pa.int32()),
            "source_key": pa.array([source for _, source, _ in batch.placed.references], pa.string()),
            "target_key": pa.array([target for _, _, target in batch.placed.references], pa.string()),
        }
    )
    return table.filter(table.column("n").is_valid())
