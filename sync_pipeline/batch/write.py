"""The rows' transaction: locks, gate, ledger, rows, files, what is owed, the cursor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import psycopg2
import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.batch.batch import Batch
from sync_pipeline.batch.collisions import CollisionError, without_collisions, without_repeats
from sync_pipeline.batch.delivery import Delivery
from sync_pipeline.batch.isolate import wanted, without_faults
from sync_pipeline.batch.order import Outcome
from sync_pipeline.batch.plan import deliveries_of, plan_of, references_of
from sync_pipeline.batch.references import ReferenceLocks, StricterError
from sync_pipeline.batch.settle import acknowledge, body_of, move_on, record_versions, settle_due
from sync_pipeline.db.columns import DIGEST, kept
from sync_pipeline.db.sql import Cursor
from sync_pipeline.errors import UnreachableError
from sync_pipeline.ledger import media, queue_reads
from sync_pipeline.ledger.ledger import UNDO, WRITE
from sync_pipeline.ledger.log import BODY
from sync_pipeline.ledger.sinks import HELD_ROW
from sync_pipeline.model.faults import crash_point, guarded
from sync_pipeline.model.reasons import Reason
from sync_pipeline.model.rows import has_bit
from sync_pipeline.queue import due, parking
from sync_pipeline.sinks.operations import Operations
from sync_pipeline.sinks.table import before_images
from sync_pipeline.sinks.table.target_table import STAGED_NUMBER, TargetTable
from sync_pipeline.sinks.table.trial import Step

# below this, plain COPY of a first load saves nothing
_FIRST_LOAD_ROWS = 500
_REMOVED = "a file of this batch was just removed as garbage: the next try copies it again"


def write(batch: Batch, outcome: Outcome) -> list[Delivery]:
    """The rows' transaction; rows at fault are found by halving and parked. Raises what is no row's fault."""
    if not guarded(19):
        with batch.context.stores.target() as cursor:
            move_on(batch, cursor, outcome)
    batch = without_repeats(batch)
    while True:
        try:
            if batch.fresh and batch.adapted.table.num_rows >= _FIRST_LOAD_ROWS:
                try:
                    return _first_load(batch, outcome)
                except psycopg2.errors.UniqueViolation:
                    pass  # somebody else has written a key of this chunk meanwhile
            return _guarded_write(batch, outcome)
        except CollisionError as error:
            batch = without_collisions(batch, error)
        except psycopg2.Error as error:  # the store's own faults come as UnreachableError
            batch = without_faults(batch, error, _try_write)  # and if the tables were swapped meanwhile, once more


def _first_load(batch: Batch, outcome: Outcome) -> list[Delivery]:
    context, adapted = batch.context, batch.adapted
    keys = adapted.legacy.select(list(context.origin.key.columns))
    rows = kept(adapted.table, has_bit(adapted.held, HELD_ROW))
    texts = context.origin.key.texts(keys)
    with context.stores.target() as cursor:
        crash_point("rows.before")
        context.stores.servers.check_read(cursor, batch.revision)
        locks = ReferenceLocks.enter(context, cursor)
        digests = adapted.legacy.column(DIGEST).combine_chunks()
        context.ledger.append(cursor, keys, batch.revision, digests, adapted.held)
        for table in locks.tables:
            table.append(cursor, table.rows(rows))
        if batch.placed.references and not media.refer_new(cursor, context.entity.name, batch.placed.references):
            raise UnreachableError(_REMOVED)
        deliveries = [
            delivery.owe(cursor, context.entity.name, batch.revision)
            for delivery in _first_deliveries(batch, keys, texts)
        ]
        if not locks.are_alone:
            parking.release_waiting(cursor, context.entity.name, texts.to_pylist(), batch.revision)
        outcome.written = rows.num_rows
        acknowledge(batch, cursor, outcome, _first_body(texts, digests, adapted.held), _count(deliveries))
    crash_point("rows.after")
    return deliveries


def _first_deliveries(batch: Batch, keys: pa.Table, texts: pa.Array) -> Iterator[Delivery]:
    """All rows that an outer sink wants."""
    for sink in batch.context.entity.outer_sinks:
        is_wanted = has_bit(batch.adapted.held, batch.context.bits[sink.id])
        contents = sink.contents(batch.adapted.table).filter(is_wanted)
        versions = pa.repeat(pa.scalar(batch.revision, pa.int64()), contents.num_rows)
        written = pa.repeat(True, contents.num_rows)
        yield Delivery(sink, Operations(keys.filter(is_wanted), texts.filter(is_wanted), versions, contents, written))


def _count(deliveries: list[Delivery]) -> int:
    return sum(len(delivery) for delivery in deliveries)


def _guarded_write(batch: Batch, outcome: Outcome) -> list[Delivery]:
    try:
        return _write_under(batch, outcome, strict=batch.order.undo is not None)
    except StricterError:
        return _write_under(batch, outcome, strict=True)


def _write_under(batch: Batch, outcome: Outcome, *, strict: bool) -> list[Delivery]:
    context = batch.context
    with context.stores.target() as cursor:
        crash_point("rows.before")
        context.stores.servers.check_read(cursor, batch.revision)
        locks = ReferenceLocks.enter(context, cursor, strict=strict)
        passed = _through_gate(batch, cursor)
        if not locks.are_alone:
            batch.waits = passed.waits = locks.waits(passed.adapted, passed.deleted, batch.revision)
        ready = passed.ready()
        plan = plan_of(ready)
        applied, outrun = context.ledger.apply(cursor, plan, batch.draw, context.bits.all)
        reverted = _reverted(ready, cursor, locks.tables)
        ready = replace(ready, skipped=ready.skipped.union(reverted))
        deliveries = _write_rows(ready, cursor, plan, applied, locks.tables, reverted)
        texts = context.origin.key.texts(plan)
        settle_due(ready, cursor, plan, applied, outcome)
        if not batch.order.force:  # which owes all that the ledger did not let through
            due.owe(cursor, context.entity.name, Reason.OVERTAKEN, texts.take(outrun).to_pylist(), batch.revision)
        if batch.order.undo:
            plan = batch.order.undo(locks, batch.revision, plan, applied)
        if context.entity.version_column:
            record_versions(ready, cursor, context.entity.version_column, applied)
        n = applied.column("n").combine_chunks()
        action = plan.column("action").combine_chunks().take(n)
        writes = pc.equal(action, WRITE)
        if not locks.are_alone:
            written = texts.take(n.filter(pc.or_(writes, pc.equal(action, UNDO)))).to_pylist()
            parking.release_waiting(cursor, context.entity.name, written, batch.revision)
        held = plan.column("held").combine_chunks().take(n)
        outcome.written = pc.sum(pc.and_(writes, has_bit(held, HELD_ROW))).as_py() or 0
        outcome.deleted = (pc.sum(writes).as_py() or 0) - outcome.written
        acknowledge(batch, cursor, outcome, body_of(texts, plan, applied), _count(deliveries))
        if batch.is_trial:
            raise _TriedError
    crash_point("rows.after")
    return deliveries


def _first_body(texts: pa.Array, digests: pa.Array, held: pa.Array) -> pa.Table:
    """What became of the keys of a first load, for the log."""
    action, before = (pa.repeat(pa.scalar(value, pa.int64()), len(texts)) for value in (WRITE, 0))
    return pa.table([texts, action, digests, held, before], names=BODY.names).cast(BODY)


class _TriedError(Exception):
    """A batch was written, and is to be rolled back."""


def _try_write(batch: Batch) -> None:
    """Write a batch and roll it back. Raises as the write does."""
    order = replace(batch.order, commit=None, undo=None)
    with suppress(_TriedError):
        _guarded_write(replace(batch, order=order, is_trial=True), Outcome())


def _through_gate(batch: Batch, cursor: Cursor) -> Batch:
    """Where rows are parts: without roots that a higher revision has looked at, with the parts that are no more."""
    gate, origin = batch.context.gate, batch.context.origin
    if gate is None:
        return batch
    roots = gate.pass_through(cursor, batch.roots, batch.revision)
    keys = pa.concat_tables([batch.keys, origin.key.parse(reject.key for reject in batch.rejects)])
    texts = origin.key.texts(keys).to_pylist()
    passed = pc.is_in(
        origin.root.texts(keys.select(list(origin.root.columns))), value_set=origin.root.texts(roots)
    ).to_pylist()
    superseded = [text for text, is_in in zip(texts, passed, strict=True) if not is_in]
    others = gate.others(cursor, roots, [*texts, *batch.left_out])
    deleted = others.column(DIGEST).combine_chunks().is_valid()
    if batch.order.sends_all:
        deleted = pa.repeat(True, others.num_rows)
    # the table may refuse to let them go: whoever looks for the rows at fault must know of them
    batch.vanished = tuple(origin.key.texts(others.filter(deleted)).to_pylist())
    batch = replace(batch.without(superseded) if superseded else batch, superseded=superseded, roots=roots)
    batch.deleted = pa.concat_tables([batch.deleted, others.filter(deleted).select(batch.deleted.column_names)])
    batch.unchanged = pa.concat_tables([batch.unchanged, others.filter(pc.invert(deleted))])
    return batch


def _write_rows(
    batch: Batch,
    cursor: Cursor,
    plan: pa.Table,
    applied: pa.Table,
    tables: list[TargetTable],
    reverted: list[str],
) -> list[Delivery]:
    """What the ledger has let through: rows, what they say of files, and what outer sinks are owed."""
    context, key = batch.context, batch.context.origin.key
    skipped = pa.array(reverted, pa.string())
    deliveries = [delivery.without(skipped) for delivery in deliveries_of(batch, plan, applied)]
    if context.entity.compensates:
        (delivery,) = deliveries
        before_images.save(cursor, context.entity.name, tables, key, batch.revision, delivery.operations.ids)
    rows = context.entity.table.rows(batch.adapted.table)
    rows = rows.append_column(STAGED_NUMBER, pa.array(range(rows.num_rows), pa.int32()))
    for table in tables:
        mask, rejected_by_shadow = wanted(batch, table)
        if table.is_shadow:
            mask = pc.and_(mask, pc.invert(pc.is_in(batch.texts(batch.adapted.legacy), value_set=skipped)))
        steps = () if table.is_shadow else _steps(batch)
        held = table.write(cursor, context.entity.name, key, kept(rows, mask), rejected_by_shadow, steps)
        if held and not batch.is_trial:
            texts = batch.texts(batch.adapted.legacy)
            raise CollisionError({texts[number].as_py(): holder for number, holder in held}, batch)
    if context.entity.placing_sinks and not media.refer(cursor, context.entity.name, key, references_of(batch)):
        raise UnreachableError(_REMOVED)
    deliveries = [delivery.owe(cursor, context.entity.name, batch.revision) for delivery in deliveries]
    if batch.order.after:
        owed = [record for delivery in deliveries for record in delivery.owed]
        due.as_old(cursor, owed, due.age_of(cursor, [batch.order.after]))
    return deliveries


def _steps(batch: Batch) -> list[Step]:
    """In which order the live table takes the adapted rows, by number."""
    texts = batch.texts(batch.adapted.legacy)
    return [
        Step(pc.indices_nonzero(pc.is_in(texts, value_set=pa.array(sorted(those), pa.string()))).to_pylist(), displace)
        for those, displace in batch.steps
    ]


def _reverted(batch: Batch, cursor: Cursor, tables: list[TargetTable]) -> list[str]:
    """Which of the adapted rows (key texts) are as they were before, and are not written now.

    Asked under the ledger's locks: may be since they were looked at. Neither a document goes without its row, nor a
    row into a table beside without the live one's.
    """
    documents = batch.order.documents and batch.context.entity.compensates
    if not (documents or any(table.is_shadow for table in tables)):
        return []
    unwritten = batch.texts(batch.adapted.legacy).filter(pc.invert(batch.rows_to_write))
    return queue_reads.undone(cursor, batch.context.entity.name, unwritten.to_pylist())
