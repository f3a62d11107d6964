"""The brake: a fault that most rows of a batch share, and other rows too, is the entity's and parks nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.batch.adapt import adapt
from sync_pipeline.db.keys import Key
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import SharedFaultError
from sync_pipeline.model.faults import guarded
from sync_pipeline.model.rows import Adapted, Reject
from sync_pipeline.model.steps import BatchStep
from sync_pipeline.sinks.table.present import target_tables

# Rows beside the batch that are tried before the entity is stopped: so many of the lowest keys, and of the highest.
# Bad rows are often neighbours, as all those from before a change of the monolith.
_SAMPLE_ROWS = 20


def check_share(context: EntityContext, rejects: Sequence[Reject], total: int) -> None:
    """Raise SharedFaultError where more than a share of a batch fails alike, and so do all rows of a sample beside it.

    A bulk import of bad rows is parked, because other rows still pass. A broken adapter, or a new constraint that no
    row meets, stops the entity before a million rows are parked.
    """
    settings = context.stores.settings
    alike = Counter((reject.step, reject.error) for reject in rejects).most_common(1)
    if not alike or not guarded(91):
        return
    ((step, error), count), *_ = alike
    if count <= settings.fault_rows or count <= settings.fault_fraction * total:
        return
    if _sample_passes(context, step, {reject.key for reject in rejects}):
        return
    example = next(reject for reject in rejects if (reject.step, reject.error) == (step, error))
    message = example.message.splitlines()[0] if example.message else ""
    raise SharedFaultError(
        f"entity {context.entity.name}: {count} of {total} rows of a batch, and all of a sample beside it, fail alike"
        f" at the step {step}: {error}: {message} (key {example.key})."
        f" No row is parked: correct the entity's file or its table, or raise SYNC_FAULT_FRACTION"
        f" ({settings.fault_fraction:g}) or SYNC_FAULT_ROWS ({settings.fault_rows}) to park them"
    )


def _sample_passes(context: EntityContext, step: str, besides: set[str]) -> bool:
    """Whether any row beside these passes a step."""
    adapted, rejects = sample_of(context, besides)
    if step == BatchStep.READ:
        return bool(adapted.table.num_rows or any(reject.step != BatchStep.READ for reject in rejects))
    if step != "row" or not adapted.table.num_rows:
        return bool(adapted.table.num_rows)
    with context.stores.target() as cursor:
        table = target_tables(cursor, context.entity.name, context.entity.table)[0]
    trial = table.try_rows(context.stores, table.rows(adapted.table))
    return len(trial.refused) < int(adapted.table.num_rows)


def sample_of(context: EntityContext, besides: set[str]) -> tuple[Adapted, list[Reject]]:
    """Some other rows of the monolith as the entity's adapter makes them, and those that fail."""
    key = context.origin.key
    limit = _SAMPLE_ROWS + len(besides)
    first = context.origin.page(None, None, "true", limit)
    low = _besides(key, first.table, besides)
    tried = besides | set(key.texts(low).to_pylist())
    last = context.origin.by_keys(_besides(key, context.origin.last_keys(limit + _SAMPLE_ROWS), tried))
    adapted, rejects = adapt(context.entity, key, pa.concat_tables([low, last.table]), context.bits)
    unread = [reject for reject in (*first.rejects, *last.rejects) if reject.key not in besides]
    return adapted, [*unread, *rejects]


def _besides(key: Key, rows: pa.Table, keys: set[str]) -> pa.Table:
    """The first few rows that have none of these keys."""
    out = pa.array(sorted(keys), pa.string())
    return rows.filter(pc.invert(pc.is_in(key.texts(rows), value_set=out))).slice(0, _SAMPLE_ROWS)
