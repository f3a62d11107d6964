"""A batch as the ledger is told of it, and what follows from the part that the ledger lets through."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.batch.batch import Batch
from sync_pipeline.batch.delivery import Delivery
from sync_pipeline.db.columns import DIGEST
from sync_pipeline.ledger.ledger import DOUBT, KEEP, PARK, WITHDRAW, WRITE
from sync_pipeline.ledger.sinks import HELD_ROW
from sync_pipeline.model.rows import has_bit
from sync_pipeline.sinks.operations import Operations
from sync_pipeline.sinks.outer import OuterSink


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
        [WITHDRAW if text in batch.unwanted else DOUBT if doubt or text in moved else PARK for text in texts],
        pa.int16(),
    )
    stays_held = pa.array([batch.unwanted.get(text, 0) | HELD_ROW for text in texts], pa.int16())
    action = pc.if_else(batch.rows_to_write, WRITE, KEEP)
    # a row that has not changed is new to those sinks alone that are sent it all the same
    sent = [sink.id for sink in batch.context.entity.outer_sinks if batch.order.sends_all_to(sink.id)]
    only = pc.bit_wise_and(batch.adapted.held, pa.scalar(sum(batch.context.bits[name] for name in sent), pa.int16()))
    held = pc.if_else(batch.rows_to_write, batch.adapted.held, only)
    deleted, same = batch.deleted, batch.unchanged
    parts = [part(rows, action, rows.column(DIGEST).combine_chunks(), held)]
    if count := deleted.num_rows:
        parts.append(part(deleted, constant(WRITE, count), constant(None, count), constant(0, count)))
    if count := same.num_rows:
        parts.append(part(same, constant(KEEP, count), same.column(DIGEST), constant(0, count)))
    if count := parked.num_rows:
        parts.append(part(parked, stays, constant(None, count), stays_held))
    plan = pa.concat_tables(parts)
    at = len(columns)
    return plan.add_column(at, "n", pa.array(range(plan.num_rows), pa.int32())).combine_chunks()


def deliveries_of(batch: Batch, plan: pa.Table, applied: pa.Table) -> list[Delivery]:
    """What the applied part of a plan asks of each outer sink: written rows, and all where the order says so."""
    return [Delivery(sink, _operations(batch, sink, plan, applied)) for sink in batch.context.entity.outer_sinks]


def _operations(batch: Batch, sink: OuterSink, plan: pa.Table, applied: pa.Table) -> Operations:
    context, bit = batch.context, batch.context.bits[sink.id]
    n = applied.column("n").combine_chunks()
    versions = applied.column("written").combine_chunks()
    touched = plan.take(n)
    action = touched.column("action").combine_chunks()
    held = pa.concat_arrays([batch.adapted.held, plan.column("held").combine_chunks().slice(len(batch.adapted.held))])
    held = held.take(n)
    all_of_them = pa.scalar(batch.order.sends_all_to(sink.id))
    adapted = pc.less(n, batch.adapted.table.num_rows)
    is_wanted, held_before = has_bit(held, bit), has_bit(applied.column("held_before").combine_chunks(), bit)
    withdrawn = pc.and_(pc.equal(action, WITHDRAW), pc.invert(is_wanted))
    # its removal was owed, and the row is parked meanwhile
    unsure = pc.and_(pc.equal(action, DOUBT), pc.invert(held_before))
    changed = pc.or_(pc.equal(action, WRITE), pc.or_(withdrawn, unsure))
    considered = pc.or_(changed, pc.and_(adapted, all_of_them))
    wanted = pc.and_(considered, is_wanted)
    deleted = pc.and_(pc.and_(considered, pc.invert(is_wanted)), pc.or_(held_before, all_of_them))
    rows = pc.if_else(wanted, n, pa.scalar(None, pa.int32()))
    contents = sink.contents(batch.adapted.table).take(rows)
    keys = touched.select(list(context.origin.key.columns))
    return Operations(keys, context.origin.key.texts(keys), versions, contents, wanted).filter(pc.or_(wanted, deleted))


def references_of(batch: Batch) -> pa.Table:
    """What rows of the plan name: `n`, `source_key`, `target_key`, `sink`."""
    texts = batch.texts(batch.adapted.legacy)
    references = batch.placed.references
    names = pa.array([each.key for each in references], pa.string())
    table = pa.table(
        {
            "n": pc.index_in(names, value_set=texts).cast(pa.int32()),
            "source_key": pa.array([each.source for each in references], pa.string()),
            "target_key": pa.array([each.target for each in references], pa.string()),
            "sink": pa.array([each.sink for each in references], pa.string()),
        }
    )
    return table.filter(table.column("n").is_valid())
