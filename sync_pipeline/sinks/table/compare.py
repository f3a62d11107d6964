"""Rows: legacy rows adapted again and compared by PostgreSQL itself, type by type, with the table's rows.

Staged beside the table, so that 1.0 equals 1.00, JSON compares as JSON and instants as instants, without any
text form of ours in between.
"""

from __future__ import annotations

import psycopg2
import pyarrow as pa

from sync_pipeline.db.columns import DIGEST
from sync_pipeline.db.equality import comparable
from sync_pipeline.db.keys import Key
from sync_pipeline.db.sql import Cursor, copy_in, literal, quote
from sync_pipeline.model.findings import Difference, Finding, FindingKind
from sync_pipeline.model.rows import Adapted, has_bit
from sync_pipeline.sinks.context import SinkContext, Span
from sync_pipeline.sinks.table.declaration import TableDeclaration
from sync_pipeline.sinks.table.present import target_tables
from sync_pipeline.sinks.table.target_table import TargetTable
from sync_pipeline.stores.stores import first_line


def compare_rows(context: SinkContext, declared: TableDeclaration, expected: Adapted, span: Span) -> list[Finding]:
    """Mismatches of the table's rows whose key lies in the span."""
    target = context.key.named(declared.key)
    wanted = has_bit(expected.held, context.bits[declared.id])
    with context.stores.target() as cursor:
        table = target_tables(cursor, context.entity, declared)[0]
        rows = table.rows(expected.table).append_column(DIGEST, expected.legacy.column(DIGEST)).filter(wanted)
        stage = f"check_{context.entity}"
        shape = table.shape(f", NULL::bigint AS {DIGEST}")
        cursor.execute(f"CREATE TEMP TABLE {quote(stage)} ON COMMIT DROP AS {shape}")
        misfits = _lay_out(cursor, f"pg_temp.{quote(stage)}", ", ".join([*map(quote, table.columns), DIGEST]), rows)
        cursor.execute(_query(context, table, stage, span.within(cursor, "t", target), target))
        found = [
            Finding(
                declared.id,
                FindingKind(kind),
                text,
                differs=tuple(Difference(*difference) for difference in differs or ()),
            )
            for text, kind, differs in cursor.fetchall()
        ]
    texts, there = context.key.texts(expected.legacy.filter(wanted)), {finding.key for finding in found}
    refused = {texts[n].as_py(): why for n, why in misfits.items()}
    return found + [
        Finding(declared.id, FindingKind.MISSING, text, why) for text, why in refused.items() if text not in there
    ]


def _lay_out(cursor: Cursor, stage: str, columns: str, rows: pa.Table, first: int = 0) -> dict[int, str]:
    """Stage rows beside the table; by number (from `first`) those that do not fit its types, and why."""
    cursor.execute("SAVEPOINT laid_out")
    try:
        copy_in(cursor, stage, columns, rows)
    except psycopg2.DataError as error:
        cursor.execute("ROLLBACK TO SAVEPOINT laid_out")
        if rows.num_rows == 1:
            return {first: f"{type(error).__name__}: {first_line(error)}"}
        half = rows.num_rows // 2
        one = _lay_out(cursor, stage, columns, rows.slice(0, half), first)
        return one | _lay_out(cursor, stage, columns, rows.slice(half), first + half)
    return {}


def _query(context: SinkContext, table: TargetTable, stage: str, within: str, target: Key) -> str:
    compared = {name: table.types[name] for name in table.columns}
    differs = " OR ".join(f"{_value('s', c, k)} IS DISTINCT FROM {_value('t', c, k)}" for c, k in compared.items())
    each = ", ".join(
        f"CASE WHEN {_value('s', c, k)} IS DISTINCT FROM {_value('t', c, k)} THEN"
        f" jsonb_build_array({literal(c)}, {_short('s', c)}, {_short('t', c)}) END"
        for c, k in table.columns.items()
    )
    here, there = (f"{alias}.{quote(target.columns[0])} IS DISTINCT FROM NULL" for alias in ("s", "t"))
    either = ", ".join(f"coalesce(s.{quote(c)}, t.{quote(c)}) AS {quote(c)}" for c in target.columns)
    return (
        f"SELECT {target.text_expression('d')}, CASE WHEN NOT d._sync_is_there THEN 'missing'"
        f" WHEN NOT d._sync_is_here THEN 'extra'"
        f" WHEN l.digest IS DISTINCT FROM d.{DIGEST} OR l.basis IS DISTINCT FROM {context.ledger.basis} THEN 'stale'"
        " ELSE 'corrupt' END, d._sync_differs FROM ("
        f" SELECT {either}, {here} AS _sync_is_here, {there} AS _sync_is_there, s.{DIGEST},"
        f" CASE WHEN {here} AND {there} THEN array_remove(ARRAY[{each}], NULL) END AS _sync_differs"
        f" FROM pg_temp.{quote(stage)} s FULL JOIN (SELECT * FROM {table.quoted} t WHERE {within}) t"
        f" ON {target.joins('s', target, 't')} WHERE NOT ({here}) OR NOT ({there}) OR {differs}"
        f") d LEFT JOIN {context.ledger.table} l ON {target.joins('d', context.key, 'l')}"
    )


def _value(alias: str, column: str, kind: str) -> str:
    return comparable(f"{alias}.{quote(column)}", kind)


def _short(alias: str, column: str) -> str:
    return f"coalesce(left({alias}.{quote(column)}::text, 80), 'NULL')"
