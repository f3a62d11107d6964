"""What a batch has to do: its rows compared with the ledger, adapted, and their files placed."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.batch.adapt import adapt
from sync_pipeline.batch.batch import Batch, bit
from sync_pipeline.batch.brake import check_share
from sync_pipeline.batch.files import Placed, place
from sync_pipeline.batch.order import Order
from sync_pipeline.batch.origin import DIGEST, Reject, Rows
from sync_pipeline.db.columns import kept
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.ledger import media
from sync_pipeline.ledger.ledger import HELD_DOCUMENT
from sync_pipeline.model.faults import guarded
from sync_pipeline.queue import parking


def prepare(context: EntityContext, revision: int, keys: pa.Table, rows: Rows, order: Order) -> Batch:
    """Raises as sync_keys does."""
    key = context.origin.key
    with context.stores.target_at_once() as cursor:
        prior = context.ledger.prior(cursor, keys)
    texts = key.texts(rows.table)
    same, deleted, absent = _compare(context, keys, rows, texts, prior)
    changed, reverted = pc.invert(same), _reverted(context, keys, order)
    if order.again and len(reverted):
        changed = pc.or_(changed, pc.is_in(texts, value_set=reverted))
        reverted = reverted.slice(0, 0)
    chosen = pc.or_(changed, pa.scalar(order.of_all))
    if len(reverted):
        # only their documents are wanted, or their rows beside: what the live table has would not go with them
        others = pc.invert(pc.is_in(texts, value_set=reverted))
        chosen = pc.and_(chosen, pc.or_(changed, others))
        absent = absent.filter(pc.invert(pc.is_in(key.texts(absent), value_set=reverted)))
    adapted, rejects = adapt(context.entity, key, kept(rows.table, chosen))
    check_share(context, [*rows.rejects, *rejects], rows.count)
    placed = Placed(adapted)
    if context.entity.media:
        placed = place(
            context.entity.media, context.stores, key, adapted, wait=order.wait, has_tries_left=order.has_tries_left
        )
    rejects, discarded = _parted(context, [*rows.rejects, *rejects, *placed.rejects], order)
    written = changed if not order.force else pa.repeat(True, len(changed))
    if (order.documents or order.shadow) and placed.references:
        written = pc.or_(written, pc.is_in(texts, value_set=_renamed(context, placed)))
    left = pc.index_in(key.texts(placed.adapted.legacy), value_set=texts)
    unchanged = rows.table.select([*key.columns, DIGEST]).filter(pc.invert(chosen))
    if not order.force and not order.documents:
        missing = absent
    else:
        deleted, missing = pa.concat_tables([deleted, absent]), absent.slice(0, 0)
    if order.acknowledge and guarded(45):
        unchanged = pa.concat_tables([unchanged, discarded.select(unchanged.column_names)])
        nothing = missing.append_column(DIGEST, pa.nulls(missing.num_rows, pa.int64()))
        unchanged = pa.concat_tables([unchanged, nothing])
    else:
        unchanged = unchanged.slice(0, 0)
    fresh = prior.num_rows == 0 and not context.entity.table.references and context.gate is None
    fresh = fresh and not (deleted.num_rows or unchanged.num_rows or rejects or placed.waiting)
    public = bit(adapted.held, HELD_DOCUMENT)
    without_document = frozenset(key.texts(adapted.legacy).filter(pc.invert(public)).to_pylist())
    return Batch(
        context,
        revision,
        order,
        keys,
        placed.adapted,
        placed,
        deleted,
        unchanged,
        written.take(left),
        rejects,
        fresh and not context.entity.compensates,  # which keeps what was there before
        skipped=frozenset([*key.texts(discarded).to_pylist(), *reverted.to_pylist()]),
        without_document=without_document,
    )


def _reverted(context: EntityContext, keys: pa.Table, order: Order) -> pa.Array:
    """Keys (texts) of rows that were put back since their documents were refused; asked where these are wanted,
    or their rows for another table.
    """
    texts: list[str] = []
    if (order.documents or order.shadow) and not order.force and (context.entity.compensates or order.again):
        with context.stores.target_at_once() as cursor:
            texts = parking.among_undone(cursor, context.entity.name, context.origin.key.texts(keys).to_pylist())
    return pa.array(texts, pa.string())


def _parted(context: EntityContext, rejects: list[Reject], order: Order) -> tuple[list[Reject], pa.Table]:
    """What is refused, and keys with `_digest` of what was discarded as it is: the ledger takes that for applied."""
    texts: list[str] = []
    if rejects and not order.force:
        with context.stores.target() as cursor:
            texts = parking.discarded(cursor, context.entity.name, [(reject.key, reject.digest) for reject in rejects])
    digests = {reject.key: reject.digest for reject in rejects}
    keys = context.origin.key.parse(texts).append_column(
        DIGEST, pa.array([digests[text] for text in texts], pa.int64())
    )
    return [reject for reject in rejects if reject.key not in texts], keys


def _renamed(context: EntityContext, placed: Placed) -> pa.Array:
    """Keys (as text) of rows whose files have new names, since their bytes have changed and nothing else has."""
    with context.stores.target() as cursor:
        named = media.named(cursor, context.entity.name, sorted({text for text, _, _ in placed.references}))
    return pa.array([text for text, source, new in placed.references if named.get((text, source)) != new], pa.string())


def _compare(
    context: EntityContext, keys: pa.Table, rows: Rows, texts: pa.Array, prior: pa.Table
) -> tuple[pa.Array, pa.Table, pa.Table]:
    """(per row: is as the ledger has it; keys that are gone since; keys that are gone and were not there before)."""
    key = context.origin.key
    before = key.texts(prior)
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
    return same, keys.filter(pc.and_(away, was)), keys.filter(pc.and_(away, pc.invert(was)))
