"""Prepares a batch: classify its rows by the ledger, select, adapt, place their files, and decide what to write."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.batch.adapt import adapt
from sync_pipeline.batch.batch import Batch
from sync_pipeline.batch.brake import check_share
from sync_pipeline.batch.order import Order
from sync_pipeline.db.columns import DIGEST, kept
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.origin import Rows
from sync_pipeline.ledger import media, queue_reads
from sync_pipeline.ledger.ledger import Draw
from sync_pipeline.model.faults import guarded
from sync_pipeline.model.rows import Adapted, Reject
from sync_pipeline.sinks.placing import Placed


@dataclass(frozen=True)
class _Classified:
    """A batch's keys by what monolith and ledger hold of them."""

    texts: pa.Array  # keys of the rows that were read
    is_changed: pa.Array  # of each of these rows: it is not as the ledger has it
    deleted: pa.Table  # keys that the ledger holds and the monolith no longer
    absent: pa.Table  # keys that neither of them holds
    is_new: bool  # the ledger holds none of the keys


@dataclass(frozen=True)
class _Selected:
    """Rows to adapt (a mask), and what was found out about the others."""

    to_adapt: pa.Array
    is_changed: pa.Array
    absent: pa.Table
    reverted: pa.Array  # keys (texts) of rows that stay reverted


def prepare(context: EntityContext, draw: Draw, keys: pa.Table, rows: Rows, order: Order) -> Batch:
    """Prepare what to do for each key of a batch. Raises as `sync_keys` does."""
    classified = _classify(context, keys, rows)
    selected = _select(context, classified, _reverted(context, keys, order), order)
    adapted, rejects = adapt(context.entity, context.origin.key, kept(rows.table, selected.to_adapt), context.bits)
    check_share(context, [*rows.rejects, *rejects], rows.count)
    placed = _place_files(context, adapted, order)
    rejects, discarded = _parted(context, [*rows.rejects, *rejects, *placed.rejects], order)
    batch = Batch(
        context,
        draw,
        order,
        keys,
        placed.adapted,
        placed,
        _to_delete(classified, selected, order),
        _to_acknowledge(context, rows, selected, discarded, order),
        _rows_to_write(context, classified, selected, placed, order),
        rejects,
        skipped=frozenset([*context.origin.key.texts(discarded).to_pylist(), *selected.reverted.to_pylist()]),
        unwanted=_unwanted(context, adapted),
    )
    batch.fresh = _is_first_load(batch, classified)
    return batch


def _select(context: EntityContext, classified: _Classified, reverted: pa.Array, order: Order) -> _Selected:
    """Changed rows, or all that the order asks for; not those that stay reverted."""
    texts, changed, absent = classified.texts, classified.is_changed, classified.absent
    if order.again and len(reverted):
        changed = pc.or_(changed, pc.is_in(texts, value_set=reverted))
        reverted = reverted.slice(0, 0)
    chosen = pc.or_(changed, pa.scalar(order.of_all))
    if len(reverted):
        # only their documents are wanted, or their rows in a shadow: what the live table has would not go with them
        others = pc.invert(pc.is_in(texts, value_set=reverted))
        chosen = pc.and_(chosen, pc.or_(changed, others))
        absent = absent.filter(pc.invert(pc.is_in(context.origin.key.texts(absent), value_set=reverted)))
    return _Selected(chosen, changed, absent, reverted)


def _place_files(context: EntityContext, adapted: Adapted, order: Order) -> Placed:
    placed, key = Placed(adapted), context.origin.key
    for sink in context.entity.placing_sinks:
        later = sink.place_objects(
            context.stores, key, placed.adapted, wait=order.wait, has_tries_left=order.has_tries_left
        )
        placed = placed.then(later)
    return placed


def _to_delete(classified: _Classified, selected: _Selected, order: Order) -> pa.Table:
    """Keys whose row the monolith no longer has; with absent ones where each sink is to be made sure of."""
    if order.sends_all:
        return pa.concat_tables([classified.deleted, selected.absent])
    return classified.deleted


def _to_acknowledge(
    context: EntityContext, rows: Rows, selected: _Selected, discarded: pa.Table, order: Order
) -> pa.Table:
    """Keys (with `_digest`) whose revision is raised though nothing is written, because they were events."""
    columns = [*context.origin.key.columns, DIGEST]
    if not (order.acknowledge and guarded(45)):
        return rows.table.select(columns).slice(0, 0)
    unchanged = rows.table.select(columns).filter(pc.invert(selected.to_adapt))
    nothing = selected.absent.slice(0, 0) if order.sends_all else selected.absent
    nothing = nothing.append_column(DIGEST, pa.nulls(nothing.num_rows, pa.int64()))
    return pa.concat_tables([unchanged, discarded.select(columns), nothing])


def _rows_to_write(
    context: EntityContext, classified: _Classified, selected: _Selected, placed: Placed, order: Order
) -> pa.Array:
    """Of each adapted row: whether its row is written, and not only its document sent."""
    written = selected.is_changed if not order.force else pa.repeat(True, len(selected.is_changed))
    if (order.documents or order.shadow) and placed.references:
        written = pc.or_(written, pc.is_in(classified.texts, value_set=_renamed(context, placed)))
    left = pc.index_in(context.origin.key.texts(placed.adapted.legacy), value_set=classified.texts)
    return written.take(left)


def _unwanted(context: EntityContext, adapted: Adapted) -> dict[str, int]:
    """Of adapted rows (key texts) that an outer sink does not want, which sinks do."""
    outer = sum(context.bits[sink.id] for sink in context.entity.outer_sinks)
    lacks = pc.not_equal(pc.bit_wise_and(adapted.held, pa.scalar(outer, pa.int16())), outer)
    texts = context.origin.key.texts(adapted.legacy).filter(lacks).to_pylist()
    return dict(zip(texts, adapted.held.filter(lacks).to_pylist(), strict=True))


def _is_first_load(batch: Batch, classified: _Classified) -> bool:
    """Whether nothing of the batch is known yet, so that its rows can be appended by plain COPY."""
    entity = batch.context.entity
    if entity.table.references or batch.context.gate or entity.compensates:  # which keeps what was there before
        return False
    others = batch.deleted.num_rows or batch.unchanged.num_rows or batch.rejects or batch.placed.waiting
    return classified.is_new and not others


def _reverted(context: EntityContext, keys: pa.Table, order: Order) -> pa.Array:
    """Keys (texts) of rows that were put back since their documents were refused; asked where these are wanted,
    or their rows for another table.
    """
    texts: list[str] = []
    if (order.documents or order.shadow) and not order.force and (context.entity.compensates or order.again):
        with context.stores.target_at_once() as cursor:
            texts = queue_reads.undone(cursor, context.entity.name, context.origin.key.texts(keys).to_pylist())
    return pa.array(texts, pa.string())


def _parted(context: EntityContext, rejects: list[Reject], order: Order) -> tuple[list[Reject], pa.Table]:
    """What is refused, and keys with `_digest` of what was discarded as it is: the ledger takes that for applied."""
    texts: list[str] = []
    if rejects and not order.force:
        with context.stores.target() as cursor:
            refused = [(reject.key, reject.digest) for reject in rejects]
            texts = queue_reads.discarded_as_they_are(cursor, context.entity.name, refused)
    digests = {reject.key: reject.digest for reject in rejects}
    keys = context.origin.key.parse(texts).append_column(
        DIGEST, pa.array([digests[text] for text in texts], pa.int64())
    )
    return [reject for reject in rejects if reject.key not in texts], keys


def _renamed(context: EntityContext, placed: Placed) -> pa.Array:
    """Keys (as text) of rows whose files have new names, since their bytes have changed and nothing else has."""
    with context.stores.target() as cursor:
        named = media.named(cursor, context.entity.name, sorted({each.key for each in placed.references}))
    renamed = (each.key for each in placed.references if named.get((each.key, each.sink, each.source)) != each.target)
    return pa.array(renamed, pa.string())


def _classify(context: EntityContext, keys: pa.Table, rows: Rows) -> _Classified:
    """Compare the rows that were read with the ledger's entries of these keys."""
    key = context.origin.key
    with context.stores.target_at_once() as cursor:
        prior = context.ledger.prior(cursor, keys)
    texts, before = key.texts(rows.table), key.texts(prior)
    at = pc.index_in(texts, value_set=before)
    digest = prior.column(DIGEST).combine_chunks().take(at)
    basis = prior.column("basis").combine_chunks().take(at)
    same = pc.and_(
        pc.fill_null(pc.equal(digest, rows.table.column(DIGEST).combine_chunks()), False),
        pc.fill_null(pc.equal(basis, context.ledger.basis), False),
    )
    there = pa.concat_arrays([texts.cast(pa.string()), pa.array([r.key for r in rows.rejects], pa.string())])
    all_texts = key.texts(keys)
    away = pc.invert(pc.is_in(all_texts, value_set=there))
    live = prior.filter(prior.column(DIGEST).combine_chunks().is_valid())
    was = pc.is_in(all_texts, value_set=key.texts(live))
    deleted, absent = keys.filter(pc.and_(away, was)), keys.filter(pc.and_(away, pc.invert(was)))
    return _Classified(texts, pc.invert(same), deleted, absent, prior.num_rows == 0)
