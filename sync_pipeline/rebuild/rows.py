"""The comparison before a table is swapped: ledger, live table and new table, in one statement and so in one snapshot.

All three are written in the same transactions: whatever differs is no matter of time.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg2
import pyarrow as pa

from sync_pipeline.batch.adapt import adapt
from sync_pipeline.batch.order import Order
from sync_pipeline.db.equality import comparable
from sync_pipeline.db.sql import Cursor, bind, quote
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.ledger import queue_reads
from sync_pipeline.ledger.rebuilds import Rebuild
from sync_pipeline.ledger.sinks import HELD_ROW
from sync_pipeline.model.findings import Finding, FindingKind
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.rebuild.fill import CAUSE
from sync_pipeline.rebuild.report import COMPARED, ENOUGH, Compared, Report
from sync_pipeline.sinks.table.definitions import uncut
from sync_pipeline.sinks.table.present import target_tables
from sync_pipeline.sinks.table.target_table import TargetTable

# from PostgreSQL 16 on a value can be asked for whether it fits another type
_ASKS_TYPES = 160_000


@dataclass(frozen=True)
class Doubt:
    """A row of the new table that is not as it has to be: missing, stale, extra or corrupt.

    `kept`: readers keep it as it is, since its legacy row is parked, or gone and not yet swept.
    """

    key: str
    kind: FindingKind
    kept: bool


def compare(context: EntityContext, rebuild: Rebuild, report: Report) -> Compared:
    """Compare all rows. What the fill has not made is carried over, or synced again; what is then left is found."""
    compared = Compared()
    with context.stores.target() as cursor:
        cursor.execute(f"ANALYZE {context.entity.table.shadow.quoted}")  # readers shall not meet it unknown
        compared.compared = context.ledger.count(cursor, HELD_ROW)
    report(COMPARED, compared.compared)
    refused: dict[str, str] = {}
    before: list[Doubt] = []
    while True:
        with context.stores.target() as cursor:
            found = doubts(cursor, context, rebuild)
        lacking = [doubt for doubt in found if doubt.kind in {FindingKind.MISSING, FindingKind.STALE}]
        if not lacking or found == before:
            break
        there = context.origin.by_keys(context.origin.key.parse(doubt.key for doubt in lacking if not doubt.kept)).table
        # what a later batch found unchanged, and so sent nowhere; and rows of an older version of the file
        sync_keys(context, there.select(list(context.origin.key.columns)), Order(shadow=True, cause=CAUSE))
        gone = {doubt.key for doubt in lacking if doubt.kind == FindingKind.MISSING} - set(
            context.origin.key.texts(there).to_pylist()
        )
        refused |= _carry_over(context, sorted(gone), compared)
        before = found
    refused |= _refused(context, [doubt.key for doubt in found if doubt.kind == FindingKind.MISSING and not doubt.kept])
    compared.findings = [Finding("relational", doubt.kind, doubt.key, refused.get(doubt.key, "")) for doubt in found]
    return compared


def doubts(cursor: Cursor, context: EntityContext, rebuild: Rebuild, *, values: bool = True) -> list[Doubt]:
    """Which rows keep the new table from taking the live one's place; without `values` only keys are compared.

    Not more than ENOUGH.
    """
    own, live, shadow = context.origin.key, *target_tables(cursor, context.entity.name, context.entity.table)
    target = own.named(live.key)
    # a key column may have any name, `kind` and `seen` too, so within the statement they are numbered
    numbered = target.named([f"key_{n}" for n in range(len(target.columns))])
    first, text = f"{{}}.{quote(target.columns[0])}", numbered.text_expression("k")
    pairs = zip(own.columns, target.columns, numbered.columns, strict=True)
    keys = ", ".join(f"coalesce(l.{quote(o)}, n.{quote(t)}) AS {name}" for o, t, name in pairs)
    is_set_aside = queue_reads.is_set_aside(cursor, context.entity.name, text)
    differs = " OR ".join(_differences(cursor, live, shadow)) if values else "false"
    cursor.execute(
        f"SELECT {text}, kind, kept FROM (SELECT {keys}, l.seen, CASE WHEN l.seen IS NULL THEN 'extra'"
        f" WHEN {first.format('n')} IS NULL THEN 'missing'"
        f" WHEN {first.format('t')} IS NOT NULL AND ({differs}) THEN 'corrupt'"
        f" WHEN l.basis <> {context.ledger.basis} THEN 'stale' END AS kind"
        f" FROM (SELECT * FROM {context.ledger.table} WHERE held & {HELD_ROW} <> 0) l"
        f" FULL JOIN {shadow.quoted} n ON {own.joins('l', target, 'n')}"
        f" LEFT JOIN {live.quoted} t ON {target.joins('t', target, 'n')}) k, LATERAL (SELECT coalesce("
        f"seen < {rebuild.revision} OR {is_set_aside}, false) AS kept) p"
        f" WHERE kind IS NOT NULL AND NOT (kind = 'stale' AND kept) ORDER BY 1 LIMIT {ENOUGH}"
    )
    return [Doubt(text, FindingKind(kind), is_kept) for text, kind, is_kept in cursor.fetchall()]


def _differences(cursor: Cursor, live: TargetTable, shadow: TargetTable) -> list[str]:
    """Conditions: a column that both tables have does not hold the same.

    Where its type has changed, either value is read as the other's type: one of the two may have been cut to fit.
    """
    asks = cursor.connection.server_version >= _ASKS_TYPES
    found = []
    for column in (name for name in live.columns if name in shadow.columns and name not in live.key):
        new, old = f"n.{quote(column)}", f"t.{quote(column)}"
        to, of = shadow.types[column], live.types[column]
        if to == of:
            found.append(f"{comparable(new, to)} IS DISTINCT FROM {comparable(old, of)}")
            continue
        same = f"{_reads(cursor, old, new, to)} OR {_reads(cursor, new, old, of)}" if asks else "true"
        found.append(f"({new} IS NULL) <> ({old} IS NULL) OR ({new} IS NOT NULL AND NOT ({same}))")
    return found or ["false"]


def _reads(cursor: Cursor, value: str, other: str, kind: str) -> str:
    """A condition: a value, read as another type, is a value of that type."""
    return (
        f"CASE WHEN pg_input_is_valid({value}::text, {bind(cursor, kind)})"
        f" THEN {comparable(f'({value}::text)::{kind}', kind)} = {comparable(other, kind)} ELSE false END"
    )


def _carry_over(context: EntityContext, texts: list[str], compared: Compared) -> dict[str, str]:
    """Take over rows as the live table has them; gives why those that it cannot take were left."""
    refused: dict[str, str] = {}
    with context.stores.target() as cursor:
        live, shadow = target_tables(cursor, context.entity.name, context.entity.table)
        keys, own = context.origin.key.parse(texts), context.origin.key
        # nobody writes or deletes them meanwhile
        these, order = own.is_in(cursor, "l", keys), own.plain("l")
        cursor.execute(f"SELECT FROM {context.ledger.table} l WHERE {these} ORDER BY {order} FOR UPDATE")
        for row, text in enumerate(texts):
            cursor.execute("SAVEPOINT row")
            try:
                compared.carried_over += _copy(cursor, context, live, shadow, keys.slice(row, 1))
            except (psycopg2.DataError, psycopg2.IntegrityError, psycopg2.ProgrammingError) as error:
                cursor.execute("ROLLBACK TO SAVEPOINT row")
                refused[text] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return refused


def _copy(cursor: Cursor, context: EntityContext, live: TargetTable, shadow: TargetTable, keys: pa.Table) -> int:
    """A row, as long as the ledger holds it; its values are read as the new types."""
    own = context.origin.key
    target = own.named(live.key)
    shared = [name for name in live.columns if name in shadow.columns]
    values = [
        f"t.{quote(name)}"
        if shadow.types[name] == live.types[name]
        else f"t.{quote(name)}::text::{uncut(shadow.types[name])}"
        for name in shared
    ]
    cursor.execute(
        f"INSERT INTO {shadow.quoted} ({', '.join(map(quote, shared))}) SELECT {', '.join(values)}"
        f" FROM {live.quoted} t JOIN {context.ledger.table} l ON {target.joins('t', own, 'l')}"
        f" WHERE l.held & {HELD_ROW} <> 0 AND {own.is_in(cursor, 'l', keys)} ON CONFLICT DO NOTHING"
    )
    return int(cursor.rowcount)


def _refused(context: EntityContext, texts: list[str]) -> dict[str, str]:
    """Why the new table does not take rows: tried, and rolled back."""
    if not texts:
        return {}
    key = context.origin.key
    adapted, _ = adapt(context.entity, key, context.origin.by_keys(key.parse(texts)).table, context.bits)
    adapted = context.as_written(adapted)
    with context.stores.target() as cursor:
        shadow = target_tables(cursor, context.entity.name, context.entity.table)[1]
    names = key.texts(adapted.legacy)
    found = shadow.try_rows(context.stores, shadow.rows(adapted.table)).refused
    return {names[row].as_py(): f"{type(e).__name__}: {str(e).strip().splitlines()[0]}" for row, e in found}
