"""Writes rows of a table that is not the entity's first one: owed by the ledger, and written under its locks.

The ledger's rows of the keys are locked and compared with the operations' versions, so that a late write changes
nothing, although the table keeps no versions.
"""

from __future__ import annotations

import zlib

import psycopg2
import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.db import sqlstate
from sync_pipeline.db.sql import Cursor, quote, stage
from sync_pipeline.errors import IndexFaultError
from sync_pipeline.sinks.context import SinkContext
from sync_pipeline.sinks.operations import Operations, Sent
from sync_pipeline.sinks.table.declaration import TableDeclaration
from sync_pipeline.sinks.table.present import target_tables
from sync_pipeline.sinks.table.target_table import TargetTable
from sync_pipeline.stores.stores import first_line


def send(context: SinkContext, table: TableDeclaration, operations: Operations) -> Sent:
    """Write and delete rows; those that the table refuses are found by halving.

    Raises UnreachableError, IndexFaultError where more than a share is refused; DeclarationError where the table lacks
    a column.
    """
    rejected: dict[int, tuple[str, str]] = {}
    superseded = _write_part(context, table, operations, [*range(len(operations))], rejected)
    while rejected:  # a row may have waited for another's unique value
        again, before = [*rejected], len(rejected)
        rejected.clear()
        superseded += _write_part(context, table, operations, again, rejected)
        if len(rejected) == before:
            break
    settings = context.stores.settings
    if len(rejected) > settings.fault_rows and len(rejected) > settings.fault_fraction * len(operations):
        _, message = next(iter(rejected.values()))
        raise IndexFaultError(
            f"SYNC_TARGET_DB: {table.name} refuses {len(rejected)} of {len(operations)} rows, so none is parked:"
            f" {message}"
        )
    return Sent(rejected=rejected, superseded=superseded)


def _write_part(
    context: SinkContext,
    table: TableDeclaration,
    operations: Operations,
    positions: list[int],
    rejected: dict[int, tuple[str, str]],
) -> list[int]:
    """Write some operations in one transaction, or in halves where a row is refused; returns those that are late."""
    try:
        return _write(context, table, operations.take(positions), positions)
    except psycopg2.Error as error:
        if sqlstate.is_of_store(error):
            raise
        if not isinstance(error, sqlstate.ROW_FAULTS):  # a right, or a table that is gone: no other sink waits for it
            raise IndexFaultError(f"SYNC_TARGET_DB: {table.name}: {first_line(error)}") from error
        if len(positions) == 1:
            rejected[positions[0]] = type(error).__name__, first_line(error)
            return []
    half = len(positions) // 2
    parts = positions[:half], positions[half:]
    return [late for part in parts for late in _write_part(context, table, operations, part, rejected)]


def _write(context: SinkContext, table: TableDeclaration, operations: Operations, positions: list[int]) -> list[int]:
    with context.stores.target() as cursor:
        context.ledger.hold(cursor, operations.keys)
        later = context.key.texts(context.ledger.later_than(cursor, operations.keys, operations.versions))
        is_late = pc.is_in(operations.ids, value_set=later.cast(pa.string()))
        _apply(context, cursor, table, operations.filter(pc.invert(is_late)))
    late: list[int] = pa.array(positions, pa.int64()).filter(is_late).to_pylist()
    return late


def _apply(context: SinkContext, cursor: Cursor, table: TableDeclaration, operations: Operations) -> None:
    if not len(operations):
        return
    target: TargetTable = target_tables(cursor, context.entity, table)[0]
    gone = operations.keys.filter(pc.invert(operations.written))
    if gone.num_rows:
        cursor.execute(f"DELETE FROM {target.quoted} t WHERE {context.key.named(table.key).is_in(cursor, 't', gone)}")
    rows = operations.contents.filter(operations.written)
    if rows.num_rows:
        # a session keeps its stages: another form has another one, or values would be cut to types of the past
        staged = quote(f"further_{zlib.crc32(f'{context.entity} {table.id}'.encode()):08x}_{target.form}")
        cursor.defer(f"CREATE TEMP TABLE IF NOT EXISTS {staged} ON COMMIT DELETE ROWS AS {target.shape()}")
        stage(cursor, f"pg_temp.{staged}", target.column_list, rows.select(list(target.columns)))
        cursor.execute(target.upsert(f"pg_temp.{staged} s"))
