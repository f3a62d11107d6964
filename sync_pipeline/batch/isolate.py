"""Finds the rows of a batch that the new side does not take, so that all others go on.

First the tables are asked, row by row where they must be. Where they take every row, the fault lies in what is written
beside the rows (the ledger, references to files, a trigger on a delete): then the batch's own write is tried in halves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import psycopg2
import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.batch.batch import Batch
from sync_pipeline.batch.brake import check_share
from sync_pipeline.db.columns import DIGEST
from sync_pipeline.ledger.sinks import HELD_ROW
from sync_pipeline.model.rows import Reject, has_bit
from sync_pipeline.model.steps import BatchStep
from sync_pipeline.queue import parking
from sync_pipeline.sinks.table.present import target_tables
from sync_pipeline.sinks.table.target_table import TargetTable
from sync_pipeline.sinks.table.trial import MUTUAL, Trial

# writes a batch and rolls it back; raises as the write does
TryWrite = Callable[[Batch], None]
# the cause of a batch whose rows were put off until others were written
_PUT_OFF = "due: released"


def without_faults(batch: Batch, error: psycopg2.Error, try_write: TryWrite) -> Batch:
    """The batch without rows at fault, or in an order in which it passes. Raises `error` where no row is to blame."""
    with batch.context.stores.target() as cursor:
        live, *shadows = target_tables(cursor, batch.context.entity.name, batch.context.entity.table)
    batch = replace(batch, fresh=False)  # what is refused is parked in the guarded way
    trial = _tried(batch.ready(), live)
    if trial.refused:
        return _without_refused(batch, trial, live)
    # what only the table beside the live one does not take goes into the live one all the same, and delays the swap
    rejected_by_shadow = {key for table in shadows for key in _refused_keys(batch.ready(), table)}
    if rejected_by_shadow - batch.rejected_by_shadow:
        return replace(batch, rejected_by_shadow=batch.rejected_by_shadow | rejected_by_shadow)
    steps = _steps(batch.ready(), trial, live)
    # moved rows were tried with their former ones deleted before, which a write in steps does
    in_order = len(steps) > 1 or any(displace for _, displace in steps) or bool(steps and live.outer_key)
    if not batch.steps and in_order:
        return replace(batch, steps=steps)
    return _without_halves(batch, error, try_write)


def wanted(batch: Batch, table: TargetTable) -> tuple[pa.Array, list[int]]:
    """Which of the adapted rows a table is to hold (a mask), and which it does not take (by number)."""
    has_row = has_bit(batch.adapted.held, HELD_ROW)
    if not table.is_shadow:
        return pc.and_(has_row, batch.rows_to_write), []
    if not batch.rejected_by_shadow:
        return has_row, []
    rejected_by_shadow = pc.is_in(
        batch.texts(batch.adapted.legacy), value_set=pa.array(sorted(batch.rejected_by_shadow), pa.string())
    )
    return pc.and_(has_row, pc.invert(rejected_by_shadow)), pc.indices_nonzero(rejected_by_shadow).to_pylist()


def _tried(batch: Batch, table: TargetTable) -> Trial:
    """A trial of the rows that a table is to hold."""
    mask, _ = wanted(batch, table)
    deleted = batch.context.origin.key, batch.deleted
    return table.try_rows(batch.context.stores, table.rows(batch.adapted.table.filter(mask)), deleted)


def _keys_of(batch: Batch, table: TargetTable) -> list[str]:
    """Key texts of the rows that a trial knows by number."""
    mask, _ = wanted(batch, table)
    texts: list[str] = batch.texts(batch.adapted.legacy.filter(mask)).to_pylist()
    return texts


def _refused_keys(batch: Batch, table: TargetTable) -> set[str]:
    keys = _keys_of(batch, table)
    return {keys[n] for n, _ in _tried(batch, table).refused}


def _steps(batch: Batch, trial: Trial, table: TargetTable) -> tuple[tuple[frozenset[str], bool], ...]:
    keys = _keys_of(batch, table)
    return tuple((frozenset(keys[n] for n in step.rows), step.displace) for step in trial.steps)


def _without_refused(batch: Batch, trial: Trial, table: TargetTable) -> Batch:
    """Rows that the table refuses are parked, or tried once more with parked ones that stand in their way."""
    keys = _keys_of(batch.ready(), table)
    refused = {keys[n]: error for n, error in trial.refused}
    partners = _partners(batch, refused)
    if partners:
        together = (*sorted(key for key, error in refused.items() if error.pgcode in MUTUAL), *partners)
        return _put_off(batch, [together])
    return _parked(batch, refused)


def _partners(batch: Batch, refused: dict[str, psycopg2.Error]) -> list[str]:
    """Parked rows that the same constraint has refused: two rows that exchange their values come one by one."""
    names = {name for error in refused.values() if (name := _constraint(error))}
    if batch.order.cause == _PUT_OFF or not names:
        return []
    with batch.context.stores.target() as cursor:
        found = parking.refused_by(cursor, batch.context.entity.name, sorted(names))
    return sorted(set(found) - set(batch.texts(batch.keys).to_pylist()))


def _constraint(error: psycopg2.Error) -> str | None:
    """The constraint by which other rows refuse this one."""
    return error.diag.constraint_name if error.pgcode in MUTUAL else None


def _parked(batch: Batch, refused: dict[str, psycopg2.Error]) -> Batch:
    legacy = batch.adapted.legacy
    digests = dict(zip(batch.texts(legacy).to_pylist(), legacy.column(DIGEST).to_pylist(), strict=True))
    rejects = [
        Reject(key, BatchStep.ROW, type(error).__name__, str(error).strip(), digests.get(key), _constraint(error))
        for key, error in refused.items()
    ]
    check_share(batch.context, rejects, batch.keys.num_rows)
    fit = batch.without(list(refused))
    fit.rejects += rejects
    return fit


def _put_off(batch: Batch, groups: Sequence[Sequence[str]]) -> Batch:
    fit = batch.without([key for group in groups for key in group])
    return replace(fit, put_off=(*fit.put_off, *(tuple(group) for group in groups)))


def _without_halves(batch: Batch, error: psycopg2.Error, try_write: TryWrite) -> Batch:
    """Try the whole write of parts, down to single rows. Raises `error` where even a batch of no row fails."""
    keys: list[str] = [*batch.texts(batch.adapted.legacy).to_pylist(), *batch.texts(batch.deleted).to_pylist()]
    keys += batch.vanished

    def fault_of(part: Sequence[str]) -> psycopg2.Error | None:
        left = set(part)
        try:
            try_write(batch.without([key for key in keys if key not in left]))
        except psycopg2.Error as found:
            return found
        return None

    if not keys or fault_of([]):
        raise error
    refused = dict(_single_faults(keys, fault_of))
    if not refused:  # they fail only together: one half now, the other one after it
        return _put_off(batch, [keys[_passing(keys, fault_of) :]])
    mutual = [key for key, found in refused.items() if found.pgcode in MUTUAL and len(keys) > 1]
    if mutual:  # it may pass once the others are written
        return _put_off(batch, [[key] for key in mutual])
    return _parked(batch, refused)


def _single_faults(
    keys: Sequence[str], fault_of: Callable[[Sequence[str]], psycopg2.Error | None]
) -> list[tuple[str, psycopg2.Error]]:
    found = fault_of(keys)
    if found is None:
        return []
    if len(keys) == 1:
        return [(keys[0], found)]
    half = len(keys) // 2
    return [*_single_faults(keys[:half], fault_of), *_single_faults(keys[half:], fault_of)]


def _passing(keys: Sequence[str], fault_of: Callable[[Sequence[str]], psycopg2.Error | None]) -> int:
    """How many of the first keys pass together: the largest share, found by halving."""
    count = len(keys) // 2
    while count > 1 and fault_of(keys[:count]):
        count //= 2
    return count
