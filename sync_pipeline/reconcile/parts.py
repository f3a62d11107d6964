"""Where mismatches lie: by partition of the history, and among what has changed of late."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from sync_pipeline.db.sql import bind, quote
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.model.findings import Finding, FindingKind
from sync_pipeline.partitions import EARLIER, UNDATED, KeyRanges, Monthly
from sync_pipeline.reconcile.reconcile import keys_of
from sync_pipeline.run.capture import subject_of
from sync_pipeline.sources.watermark import stamped_since
from sync_pipeline.stores.sessions import Purpose

LIVE, GONE = "live delta, last 24 hours", "gone from the monolith"
_LATELY = dt.timedelta(hours=24)
_PAGE = 5_000


@dataclass(frozen=True)
class Part:
    """How many legacy rows a part holds now, and how many mismatches of each sink are theirs."""

    name: str
    rows: int
    wrong: Counter[str]


def parts(context: EntityContext, findings: Iterable[Finding]) -> list[Part]:
    """The live delta first, then every partition that holds rows, in their order; then what only we still hold.

    Raises UnreachableError.
    """
    by_row = _by_row(context, [f for f in findings if f.kind not in {FindingKind.DISCARDED, FindingKind.UNKNOWN}])
    label = _label(context)
    with context.stores.legacy_rows(Purpose.WHOLE) as cursor:
        cursor.execute(f"SELECT {label}, count(*) FROM ({context.origin.known}) q GROUP BY 1")
        rows = dict(cursor.fetchall())
        named = context.origin.key.is_in(cursor, "q", context.origin.key.parse(sorted(by_row)))
        cursor.execute(
            f"SELECT {context.origin.key.text_expression('q')}, {label} FROM ({context.origin.known}) q WHERE {named}"
        )
        where = dict(cursor.fetchall())
    wrong: dict[str, Counter[str]] = {}
    for text, sinks in by_row.items():
        wrong.setdefault(where.get(text, GONE), Counter()).update(sinks)
    names = [*context.entity.partitions.names(), GONE]
    found = [Part(n, rows.get(n, 0), wrong.get(n, Counter())) for n in names if rows.get(n) or wrong.get(n)]
    return [_live(context, by_row), *found]


def _by_row(context: EntityContext, findings: list[Finding]) -> dict[str, Counter[str]]:
    """Mismatches by sink, for each row (key text); those of an object for each row that names it."""
    keys = set(context.origin.key.texts(keys_of(context, findings)).to_pylist())
    naming = {
        sink.id: sink.rows_of(context.of_sinks, [finding.key for finding in findings if finding.sink == sink.id])
        for sink in context.entity.sinks
        if not sink.names_rows
    }
    found: dict[str, Counter[str]] = {}
    for finding in findings:
        own = naming.get(finding.sink)
        rows = {finding.key} & keys if own is None else own.get(finding.key, set())
        for row in rows:
            found.setdefault(row, Counter())[finding.sink] += 1
    return found


def _live(context: EntityContext, by_row: dict[str, Counter[str]]) -> Part:
    """What bears a stamp of late, and is this entity's."""
    since = context.stores.legacy_now() - _LATELY
    texts: set[str] = set()
    for page in stamped_since(subject_of(context), since, _PAGE):
        texts |= _existing(context, page)
    wrong: Counter[str] = Counter()
    for text in texts & by_row.keys():
        wrong.update(by_row[text])
    return Part(LIVE, len(texts), wrong)


def _existing(context: EntityContext, keys: pa.Table) -> set[str]:
    with context.stores.legacy_rows() as cursor:
        within = context.origin.root.is_in(cursor, "q", keys)
        cursor.execute(
            f"SELECT {context.origin.key.text_expression('q')} FROM ({context.origin.known}) q WHERE {within}"
        )
        return {text for (text,) in cursor.fetchall()}


def _label(context: EntityContext) -> str:
    """SQL that names the partition of a row q."""
    kind = context.entity.partitions
    return _month(kind) if isinstance(kind, Monthly) else _range(context, kind)


def _month(kind: Monthly) -> str:
    column, names = f"q.{quote(kind.column)}", kind.names()
    month = f"least(to_char({column}, 'YYYY-MM'), '{names[-1]}')"
    return (
        f"CASE WHEN {column} IS NULL THEN '{UNDATED}' WHEN {column} < '{kind.bounds(EARLIER)[1]}' THEN '{EARLIER}'"
        f" ELSE {month} END"
    )


def _range(context: EntityContext, kind: KeyRanges) -> str:
    """Ranges as they were frozen; before that, everything is in the last one."""
    with context.stores.target() as cursor:
        cursor.execute(
            "SELECT partition, high FROM sync.backfill WHERE entity = %s AND high IS NOT NULL ORDER BY 1",
            (context.entity.name,),
        )
        cases = [
            f"WHEN {context.origin.key.until(cursor, 'q', high)} THEN {bind(cursor, name)}"
            for name, high in cursor.fetchall()
        ]
        last = bind(cursor, kind.names()[-1])
    return f"CASE {' '.join(cases)} ELSE {last} END" if cases else f"{last}::text"
