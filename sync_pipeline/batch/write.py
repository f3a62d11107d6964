"""The rows' transaction: locks, gate, ledger, rows, files, what is owed, the cursor."""

from __future__ import annotations

from dataclasses import replace

import psycopg2
import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline import parking
from sync_pipeline.batch.batch import Batch, bit
from sync_pipeline.batch.order import Outcome
from sync_pipeline.batch.plan import operations_of, plan_of, references_of
from sync_pipeline.batch.settle import acknowledge, body_of, move_on, record_versions, settle_due
from sync_pipeline.documents import Operations
from sync_pipeline.errors import UnreachableError
from sync_pipeline.faults import crash_point, guarded
from sync_pipeline.ledger import before, media
from sync_pipeline.ledger.ledger import UNDO, WRITE
from sync_pipeline.ledger.log import BODY
from sync_pipeline.origin import DIGEST, Reject
from sync_pipeline.references import Kin, StricterError
from sync_pipeline.sql import Cursor

# below this, plain COPY of a first load saves nothing
_FIRST_LOAD_ROWS = 500
_REMOVED = "a file of this batch was just removed as garbage: the next try copies it again"


def write(batch: Batch, outcome: Outcome) -> Operations:
    """The rows' transaction; rows that the table rejects are found by halving and parked."""
    if not guarded(19):
        with batch.lane.stores.target() as cursor:
            move_on(batch, cursor, outcome)
    try:
        if batch.fresh and batch.adapted.table.num_rows >= _FIRST_LOAD_ROWS:
            try:
                return _first_load(batch, outcome)
            except psycopg2.errors.UniqueViolation:
                pass  # somebody else has written a key of this chunk meanwhile
        return _guarded_write(batch, outcome)
    except (psycopg2.DataError, psycopg2.IntegrityError):
        refused = _refused(batch.ready())
        if not refused:
            raise
        batch = batch.without([reject.key for reject in refused])
        batch.rejects += refused
        return _guarded_write(batch, outcome)


def _first_load(batch: Batch, outcome: Outcome) -> Operations:
    lane, adapted = batch.lane, batch.adapted
    keys = adapted.legacy.select(list(lane.origin.key.columns))
    rows = adapted.table.filter(bit(adapted.held, 1))
    texts = lane.origin.key.texts(keys)
    with lane.stores.target() as cursor:
        crash_point("rows.before")
        kin = Kin.enter(lane, cursor)
        digests = adapted.legacy.column(DIGEST).combine_chunks()
        lane.ledger.append(cursor, keys, batch.revision, digests, adapted.held)
        lane.entity.table.append(cursor, lane.entity.table.rows(rows))
        if batch.placed.references and not media.refer_new(cursor, lane.entity.name, batch.placed.references):
            raise UnreachableError(_REMOVED)
        operations = Operations.none(lane)
        if lane.entity.index:
            public = bit(adapted.held, 2)
            contents = lane.entity.index.contents(adapted.table.filter(public))
            versions = pa.repeat(pa.scalar(batch.revision, pa.int64()), contents.num_rows)
            indexed = pa.repeat(True, contents.num_rows)
            operations = Operations(keys.filter(public), texts.filter(public), versions, contents, indexed)
            operations.owe(cursor, lane.entity.name, batch.revision)
        if not kin.alone:
            parking.release_waiting(cursor, lane.entity.name, texts.to_pylist(), batch.revision)
        outcome.written = rows.num_rows
        acknowledge(batch, cursor, outcome, _first_body(texts, digests, adapted.held), len(operations.ids))
    crash_point("rows.after")
    return operations


def _guarded_write(batch: Batch, outcome: Outcome) -> Operations:
    try:
        return _write_under(batch, outcome, strict=batch.order.undo is not None)
    except StricterError:
        return _write_under(batch, outcome, strict=True)


def _write_under(batch: Batch, outcome: Outcome, *, strict: bool) -> Operations:
    lane = batch.lane
    with lane.stores.target() as cursor:
        crash_point("rows.before")
        kin = Kin.enter(lane, cursor, strict=strict)
        passed = _through_gate(batch, cursor)
        if not kin.alone:
            batch.waits = passed.waits = kin.waits(passed.adapted, passed.gone, batch.revision)
        ready = passed.ready()
        plan = plan_of(ready)
        applied = lane.ledger.apply(cursor, plan, batch.revision)
        operations = _write_rows(ready, cursor, plan, applied)
        texts = lane.origin.key.texts(plan)
        settle_due(ready, cursor, plan, applied, outcome)
        if batch.order.undo:
            plan = batch.order.undo(kin, batch.revision, plan, applied)
        if lane.entity.version_column:
            record_versions(ready, cursor, lane.entity.version_column, applied)
        n = applied.column("n").combine_chunks()
        action = plan.column("action").combine_chunks().take(n)
        writes = pc.equal(action, WRITE)
        if not kin.alone:
            written = texts.take(n.filter(pc.or_(writes, pc.equal(action, UNDO)))).to_pylist()
            parking.release_waiting(cursor, lane.entity.name, written, batch.revision)
        held = plan.column("held").combine_chunks().take(n)
        outcome.written = pc.sum(pc.and_(writes, bit(held, 1))).as_py() or 0
        outcome.deleted = (pc.sum(writes).as_py() or 0) - outcome.written
        acknowledge(batch, cursor, outcome, body_of(texts, plan, applied), len(operations.ids))
    crash_point("rows.after")
    return operations


def _first_body(texts: pa.Array, digests: pa.Array, held: pa.Array) -> pa.Table:
    """What became of the keys of a first load, for the log."""
    action, before = (pa.repeat(pa.scalar(value, pa.int64()), len(texts)) for value in (WRITE, 0))
    return pa.table([texts, action, digests, held, before], names=BODY.names).cast(BODY)


def _through_gate(batch: Batch, cursor: Cursor) -> Batch:
    """Where rows are parts: without roots that a higher revision has looked at, with the parts that are no more."""
    gate, origin = batch.lane.gate, batch.lane.origin
    if gate is None:
        return batch
    roots = gate.pass_through(cursor, batch.roots, batch.revision)
    keys = pa.concat_tables([batch.keys, origin.key.parse(reject.key for reject in batch.rejects)])
    known = origin.key.texts(keys).to_pylist()
    passed = pc.is_in(
        origin.root.texts(keys.select(list(origin.root.columns))), value_set=origin.root.texts(roots)
    ).to_pylist()
    late = [text for text, is_in in zip(known, passed, strict=True) if not is_in]
    others = gate.others(cursor, roots, known)
    gone = others.column(DIGEST).combine_chunks().is_valid()
    if batch.order.force or batch.order.documents:
        gone = pa.repeat(True, others.num_rows)
    batch = replace(batch.without(late) if late else batch, late=late)
    batch.gone = pa.concat_tables([batch.gone, others.filter(gone).select(batch.gone.column_names)])
    batch.unchanged = pa.concat_tables([batch.unchanged, others.filter(pc.invert(gone))])
    return batch


def _write_rows(batch: Batch, cursor: Cursor, plan: pa.Table, applied: pa.Table) -> Operations:
    """What the ledger has let through: rows, what they say of files, and documents, which are owed."""
    lane, key = batch.lane, batch.lane.origin.key
    operations = operations_of(batch, plan, applied)
    if lane.entity.compensates:
        before.keep(cursor, lane.entity.name, lane.entity.table, key, batch.revision, operations.ids)
    rows = lane.entity.table.rows(batch.adapted.table)
    rows = rows.append_column("n", pa.array(range(rows.num_rows), pa.int32())).filter(bit(batch.adapted.held, 1))
    lane.entity.table.write(cursor, lane.entity.name, key, rows)
    if lane.entity.media and not media.refer(cursor, lane.entity.name, key, references_of(batch)):
        raise UnreachableError(_REMOVED)
    operations.owe(cursor, lane.entity.name, batch.revision)
    return operations


def _refused(batch: Batch) -> list[Reject]:
    """Which rows the table does not take: tried in a transaction that is rolled back."""
    rows = batch.lane.entity.table.rows(batch.adapted.table)
    texts, digests = batch.texts(batch.adapted.legacy), batch.adapted.legacy.column(DIGEST)
    return [
        Reject(texts[row].as_py(), "row", type(error).__name__, str(error).strip(), digests[row].as_py())
        for row, error in batch.lane.entity.table.refused(batch.lane.stores, rows)
    ]
