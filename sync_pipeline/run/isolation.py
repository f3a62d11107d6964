"""Records of `due` that fail: tried again later, and taken apart until only the object at fault is left."""

from __future__ import annotations

import logging
from dataclasses import replace

from sync_pipeline.batch.brake import sample_of
from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import SharedFaultError, UnreachableError
from sync_pipeline.ledger import queue_table
from sync_pipeline.model.faults import guarded
from sync_pipeline.model.reasons import PARKED, Reason
from sync_pipeline.model.rows import Reject
from sync_pipeline.model.steps import BatchStep
from sync_pipeline.model.unforeseen import describe, is_unforeseen
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.queue import due, parking

log = logging.getLogger(__name__)

# tries of what may pass by itself, before a record is split, or its only object is parked
TRIES = 3


def put_off(context: EntityContext, record: due.Owed, error: Exception, *, split: bool) -> None:
    """Try a record again later; with `split` in halves, so that one object does not hold up the others for ever."""
    with context.stores.target() as cursor:
        half = len(record.keys) // 2
        if not (split and half) or record.others:
            due.postpone(cursor, [record.id, *record.others], error)
            return
        age = due.age_of(cursor, [record.id])
        for keys in (record.keys[:half], record.keys[half:]):
            owed = due.owe_part(cursor, context.entity.name, record, keys)
            due.as_old(cursor, owed, age)
            due.postpone(cursor, owed, error)
        queue_table.delete(cursor, [record.id])


def isolate(context: EntityContext, record: due.Owed, error: Exception) -> None:
    """Take a record apart that fails by what nobody foresaw, and park the one object that fails alone.

    Raises SharedFaultError where other rows fail alike: then the entity is at fault, and nothing is parked.
    """
    if not guarded(95):
        raise error
    if len(record.keys) > 1 or record.reason == Reason.FANOUT:
        _take_apart(context, record)
        return
    _check_others(context, error, record.keys[0])
    _park(context, record, error)


def _take_apart(context: EntityContext, record: due.Owed) -> None:
    """Owe the record's keys in halves, to be done at once; roots as the rows that they have now."""
    keys, reason = record.keys, record.reason
    if reason == Reason.FANOUT and len(keys) == 1:
        rows = context.origin.by_roots(context.origin.root.parse(keys))
        keys = [*context.origin.key.texts(rows.table).to_pylist(), *(reject.key for reject in rows.rejects)]
        reason = Reason.RELEASED
        if not context.origin.has_parts:
            keys = record.keys
    half = max(1, len(keys) // 2)
    with context.stores.target() as cursor:
        for part in (keys[:half], keys[half:]):
            if part:
                due.owe_part(cursor, context.entity.name, replace(record, reason=reason), part)
        queue_table.delete(cursor, [record.id])


def _park(context: EntityContext, record: due.Owed, error: Exception) -> None:
    (key,), name = record.keys, context.entity.name
    log.error("object parked", extra={"entity": name, "key": key, "error": describe(error)}, exc_info=error)
    reject = Reject(key, BatchStep.BATCH, type(error).__name__, describe(error))
    with context.stores.target() as cursor:
        if record.reason not in PARKED:
            queue_table.delete(cursor, [record.id])
        parking.park(cursor, name, [reject], 0, context.stores.settings.retry_limit, context.ledger.basis)


def _check_others(context: EntityContext, error: Exception, key: str) -> None:
    """Raise SharedFaultError where a row beside this one fails in the same way. Its batch writes nothing new."""
    adapted, _ = sample_of(context, {key})
    texts = context.origin.key.texts(adapted.legacy).to_pylist()[:1]
    if not texts:
        return
    try:
        sync_keys(context, context.origin.key.parse(texts), Order(force=True, cause="probe"))
    except UnreachableError:
        raise
    except Exception as other:
        if is_unforeseen(other) and type(other) is type(error):
            raise SharedFaultError(
                f"entity {context.entity.name}: {describe(error)}; other rows fail alike, so none is parked:"
                " the entity's file, or the engine, is at fault"
            ) from error
