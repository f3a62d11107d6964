"""What a batch leaves behind beside its rows, in their transaction: what is owed, versions, the moved cursor."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.batch import versions
from sync_pipeline.batch.batch import Batch
from sync_pipeline.batch.collisions import pairs_of
from sync_pipeline.batch.order import Outcome
from sync_pipeline.db.columns import DIGEST
from sync_pipeline.db.sql import Cursor
from sync_pipeline.ledger import queue_table
from sync_pipeline.ledger.ledger import KEEP
from sync_pipeline.ledger.log import BODY, Entry
from sync_pipeline.model.faults import crash_point, guarded
from sync_pipeline.model.reasons import Reason
from sync_pipeline.queue import due, parking

# where a newer batch came between, a batch that reads both roots of a moved part is tried again after so long
_MOVED_SECONDS = 2


def settle_due(batch: Batch, cursor: Cursor, plan: pa.Table, applied: pa.Table, outcome: Outcome) -> None:
    """Release what went through, park and owe the rest."""
    name, revision, texts = batch.context.entity.name, batch.revision, batch.texts(plan)
    let_through = set(texts.take(applied.column("n").combine_chunks()).to_pylist())
    parked = {reject.key: reject for reject in batch.rejects if reject.key in let_through}
    waiting = [text for text in batch.placed.waiting if text in let_through and text not in parked]
    overtaken = texts.take(applied.filter(applied.column("overtaken")).column("n").combine_chunks()).to_pylist()
    waits = [wait for text, wait in batch.waits.items() if text in let_through]
    moved = {text for text, _ in batch.moved}
    through = sorted(let_through - parked.keys() - set(waiting) - batch.waits.keys() - moved)
    _release(batch, cursor, plan, through)
    parking.wait(cursor, name, waits, revision, batch.context.stores.settings.parent_limit_seconds)
    if batch.order.force and parked:
        queue_table.delete_discarded(cursor, name, [*parked])  # somebody has had them tried all the same
    retries, basis = batch.context.stores.settings.retry_limit, batch.context.ledger.basis
    parking.park(cursor, name, parked.values(), revision, retries, basis)
    _owe_files(batch, cursor, waiting)
    due.owe(cursor, name, Reason.OVERTAKEN, overtaken, revision)
    for keys in batch.put_off:
        due.owe(cursor, name, Reason.RELEASED, keys, revision)
    _owe_moved(batch, cursor)
    if batch.order.sends_all:
        # whoever has looked since may have found the row unchanged, and sent nothing
        refused = sorted({*texts.to_pylist(), *batch.superseded} - let_through)
        if batch.order.force:
            due.owe(cursor, name, Reason.OVERTAKEN, refused, revision)
        else:
            due.owe_to(cursor, name, batch.order.sink or None, refused, revision)
    outcome.parked, outcome.waiting = len(parked), len(waiting) + len(waits)


def _release(batch: Batch, cursor: Cursor, plan: pa.Table, through: list[str]) -> None:
    """Take rows that went through (key texts) out of what is parked, as far as they did."""
    name, revision, order = batch.context.entity.name, batch.revision, batch.order
    unchanged = set(batch.texts(plan).filter(pc.equal(plan.column("action"), KEEP)).to_pylist())
    kept = batch.skipped if order.sends_all else unchanged
    sent_to_one = unchanged - kept if order.sink else set()
    whole = [text for text in through if text not in kept and text not in sent_to_one]
    parking.release(cursor, name, whole, revision)
    parking.release_sent(cursor, name, [text for text in through if text in sent_to_one], revision, order.sink)
    parking.release_unchanged(cursor, name, [text for text in through if text in kept], revision)


def _owe_moved(batch: Batch, cursor: Cursor) -> None:
    """Owe rows whose id another row holds, together with that one; what was owed for it already waits a moment."""
    age = due.age_of(cursor, [batch.order.record]) if batch.order.record and batch.moved else None
    for pairs in pairs_of(batch):
        owed = due.owe(cursor, batch.context.entity.name, Reason.MOVED, pairs, batch.revision)
        if batch.order.whole:
            due.as_old(cursor, owed, age)
            for identity in owed:
                queue_table.put_off(cursor, identity, _MOVED_SECONDS)


def _owe_files(batch: Batch, cursor: Cursor, waiting: list[str]) -> None:
    """Owe files that are to be copied; those that fail one by one wait on their own, as long as they have waited."""
    name, delayed = batch.context.entity.name, batch.placed.delayed
    due.owe(cursor, name, Reason.MEDIA, [text for text in waiting if text not in delayed], batch.revision)
    age = due.age_of(cursor, [batch.order.record]) if batch.order.record and delayed else None
    for text in waiting:
        if text in delayed:
            owed = due.owe(cursor, name, Reason.MEDIA, [text], batch.revision)
            due.as_old(cursor, owed, age)
            due.postpone(cursor, owed, delayed[text])


def record_versions(batch: Batch, cursor: Cursor, column: str, applied: pa.Table) -> None:
    """Which versions are applied now, of rows that this batch may write; nothing is known of those that are gone."""
    n = applied.column("n").combine_chunks()
    rows = batch.adapted.legacy.take(n.filter(pc.less(n, batch.adapted.table.num_rows)))
    shown = zip(batch.texts(rows).to_pylist(), rows.column(column).to_pylist(), strict=True)
    deleted = batch.texts(batch.deleted).to_pylist()
    versions.record(
        cursor, batch.context.entity.name, {text: version for text, version in shown if version is not None}, deleted
    )


def body_of(texts: pa.Array, plan: pa.Table, applied: pa.Table) -> pa.Table:
    """What became of each key that the ledger let through, for the log."""
    n = applied.column("n").combine_chunks()
    columns = [texts.take(n), *(plan.column(name).take(n) for name in ("action", DIGEST, "held"))]
    return pa.table([*columns, applied.column("seen_before")], names=BODY.names).cast(BODY)


def acknowledge(batch: Batch, cursor: Cursor, outcome: Outcome, body: pa.Table, documents: int) -> None:
    """Log the batch, and move what the caller wants moved, with the rows."""
    if body.num_rows:
        _entry(batch, outcome, documents).write(cursor, body)
    if guarded(19):
        move_on(batch, cursor, outcome)


def _entry(batch: Batch, outcome: Outcome, documents: int) -> Entry:
    context, order = batch.context, batch.order
    return Entry(
        context.entity.name,
        batch.revision,
        context.ledger.basis,
        order.cause,
        context.stores.worker,
        order.position,
        outcome.written,
        outcome.deleted,
        outcome.parked,
        documents,
        batch.placed.copied,
    )


def move_on(batch: Batch, cursor: Cursor, outcome: Outcome) -> None:
    """Do what the order adds to the rows' transaction."""
    if batch.order.commit:
        crash_point("acknowledge.before")
        batch.order.commit(cursor, outcome)
        crash_point("acknowledge.after")
