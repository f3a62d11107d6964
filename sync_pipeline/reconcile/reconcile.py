"""A whole comparison of one entity: walk both sides in key order, then look at the suspects again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa

from sync_pipeline.batch.adapt import adapt
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.origin import Rows
from sync_pipeline.entities.visibility import check_visibility
from sync_pipeline.errors import SyncError
from sync_pipeline.ledger import queue_reads, sinks
from sync_pipeline.ledger.backfills import unfilled
from sync_pipeline.ledger.bases import count_former
from sync_pipeline.ledger.servers import recovery_of
from sync_pipeline.model.faults import guarded
from sync_pipeline.model.findings import Finding, FindingKind
from sync_pipeline.model.rows import Adapted, Reject
from sync_pipeline.reconcile.verdict import Verdict
from sync_pipeline.run.sweep_requests import await_sweep
from sync_pipeline.sinks.context import Span
from sync_pipeline.sinks.sink import Sink

# what differs because the monolith has moved on
_UNREPORTED = {FindingKind.MISSING, FindingKind.STALE, FindingKind.EXTRA}
_SWEEP_PATIENCE_SECONDS = 60.0


def reconcile(context: EntityContext, report: Callable[[int], None] = lambda _: None) -> Verdict:
    """Compare every row, document and file; `report` is told how many rows each page had.

    Writes nothing, but asks whoever follows for a sweep. What could not be looked at is unknown, never clean.
    """
    entity = context.entity
    verdict = Verdict(
        entity.name,
        tuple(sink.id for sink in entity.sinks),
        tuple(sink.id for sink in entity.outer_sinks if not sink.can_read),
        findings=_recovering(context),
    )
    suspects: list[Finding] = []
    try:
        check_visibility(context.entity, context.stores, record=False)
        suspects += _walk(context, verdict, report)
        verdict.findings += _unnamed(context)
        for sink in context.entity.sinks:
            if sink.names_rows:
                suspects += sink.compare_rest(context.of_sinks)
    except SyncError as error:
        verdict.findings += _unknown(entity.table.id, error)
    if suspects:
        verdict.findings += _settled(context, suspects, verdict)
    for sink in context.entity.sinks:
        if sink.names_rows:
            continue
        try:
            verdict.findings += _objects(context, sink, verdict)
        except SyncError as error:
            verdict.findings += _unknown(sink.id, error)
    verdict.findings += _recovering(context)
    verdict.findings = list(dict.fromkeys(verdict.findings))
    with context.stores.target() as cursor:
        verdict.unfilled = unfilled(cursor, context.entity.name, context.entity.partitions)
        verdict.former_digests = count_former(cursor, context.entity.name, context.ledger.table)
    return verdict


def _recovering(context: EntityContext) -> list[Finding]:
    """Nothing is certain while a sink lacks rows, or the new side is compared with a ledger that has lost commits."""
    with context.stores.target() as cursor:
        left = recovery_of(cursor, context.entity.name)
        lacking = sinks.filling(cursor, context.entity.name, context.entity.sink_names)
    why = "it is new, or has moved, and not all rows have been queued for it yet"
    found = [Finding(sink.name, FindingKind.UNKNOWN, "", why) for sink in lacking]
    if left is None:
        return found
    return [
        Finding(
            context.entity.table.id,
            FindingKind.UNKNOWN,
            "",
            f"{left['cause']}: its {', '.join(left['parts'])} are not compared yet",
        ),
        *found,
    ]


def _unnamed(context: EntityContext) -> list[Finding]:
    """Rows that cannot be named, and are not in the new side."""
    count = context.origin.count_unknown()
    if not count:
        return []
    columns = ", ".join(context.origin.key.columns)
    return [
        Finding(
            context.entity.table.id,
            FindingKind.MISSING,
            "NULL",
            f"{count} rows of the monolith have a NULL in their key ({columns}) and cannot be named: give them one, or"
            " leave them out in the entity's query",
        )
    ]


def _unknown(sink: str, error: SyncError) -> list[Finding]:
    """What could not be looked at is neither right nor wrong."""
    return [Finding(sink, FindingKind.UNKNOWN, "", str(error))] if guarded(36) else []


def _walk(context: EntityContext, verdict: Verdict, report: Callable[[int], None]) -> list[Finding]:
    found: list[Finding] = []
    after: list[str] | None = None
    limit = context.stores.settings.chunk_rows
    while True:
        rows = context.origin.page(after, None, "true", limit)
        last = rows.is_last
        until = None if last else rows.last
        expected, refused = _expected(context, rows)
        found += _compare(context, expected, refused, Span(expected.legacy, True, after, until))
        verdict.compared += rows.table.num_rows
        report(rows.count)
        if last:
            return found
        after = until


def _settled(context: EntityContext, suspects: list[Finding], verdict: Verdict) -> list[Finding]:
    """What still differs after the grace time and, where somebody follows, after a sweep.

    A renamed author is no drift while the sweep that brings it is still to come; what it does not bring is.
    """
    found = _compare_again(context, suspects, verdict)
    if any(finding.kind in _UNREPORTED for finding in found) and await_sweep(context, _SWEEP_PATIENCE_SECONDS):
        verdict.overdue = 0
        found = _compare_again(context, found, verdict)
    return found


def _compare_again(context: EntityContext, suspects: list[Finding], verdict: Verdict) -> list[Finding]:
    """What still differs after the grace time, against a fresh read; what is owed is pending, or discarded."""
    threading.Event().wait(context.stores.settings.recheck_seconds)
    foreign = [finding for finding in suspects if not context.origin.key.is_text(finding.key)]
    keys = context.origin.key.parse(sorted({f.key for f in suspects} - {f.key for f in foreign}))
    try:
        expected, refused = _expected(context, context.origin.by_keys(keys))
        found = _compare(context, expected, refused, Span(keys))
    except SyncError as error:
        return [replace(finding, kind=FindingKind.UNKNOWN, detail=str(error)) for finding in suspects]
    owed = _owed(context, [finding.key for finding in found])
    verdict.overdue += sum(owed.values())
    kinds = _discarded(context, [finding.key for finding in found]) | dict.fromkeys(owed, FindingKind.PENDING)
    return foreign + [replace(f, kind=kinds.get(f.key, f.kind)) for f in found]


def _compare(context: EntityContext, expected: Adapted, refused: list[Reject], span: Span) -> list[Finding]:
    """What differs in a span. Rows that no adapter takes are missing; as a rule they are parked, and so pending."""
    found = [finding for sink in context.entity.sinks for finding in sink.compare(context.of_sinks, expected, span)]
    table = context.entity.table.id
    there = {finding.key for finding in found if finding.sink == table}
    missing = [reject for reject in refused if reject.key not in there]
    return found + [Finding(table, FindingKind.MISSING, r.key, f"{r.error}: {r.message}") for r in missing]


def _objects(context: EntityContext, sink: Sink, verdict: Verdict) -> list[Finding]:
    """Of a sink that names its own objects: what differs, and still does after the grace time and after a sweep.

    No row tells of a file that was overwritten under its key.
    """
    found = sink.compare_rest(context.of_sinks)
    if found:
        threading.Event().wait(context.stores.settings.recheck_seconds)
        found = _still(context, sink, found)
    if any(finding.kind == FindingKind.STALE for finding in found) and await_sweep(context, _SWEEP_PATIENCE_SECONDS):
        found = _still(context, sink, found)
    rows_of = sink.rows_of(context.of_sinks, [finding.key for finding in found])
    rows = sorted(set().union(*rows_of.values()))
    owed = _owed(context, rows)
    verdict.overdue += sum(owed.values())
    known = _discarded(context, rows) | dict.fromkeys(owed, FindingKind.PENDING)
    kinds = {f.key: max((known[row] for row in rows_of.get(f.key, ()) if row in known), default=f.kind) for f in found}
    return [replace(finding, kind=kinds[finding.key]) for finding in found]


def _still(context: EntityContext, sink: Sink, found: list[Finding]) -> list[Finding]:
    """Those of the findings that are found again."""
    return sorted(set(found) & set(sink.compare_rest(context.of_sinks)))


def _expected(context: EntityContext, rows: Rows) -> tuple[Adapted, list[Reject]]:
    """Legacy rows as the new side must hold them, and those that no adapter takes."""
    adapted, rejects = adapt(context.entity, context.origin.key, rows.table, context.bits)
    return context.as_written(adapted), [*rows.rejects, *rejects]


def _owed(context: EntityContext, keys: list[str]) -> dict[str, bool]:
    """Those of the keys that are owed, themselves or by their root, and whether for longer than the limit."""
    table = context.origin.key.parse([key for key in keys if context.origin.key.is_text(key)])
    roots = context.origin.root.texts(table.select(list(context.origin.root.columns))).to_pylist()
    root = dict(zip(context.origin.key.texts(table).to_pylist(), roots, strict=True))
    with context.stores.target() as cursor:
        limit = context.stores.settings.due_limit_seconds
        late = queue_reads.late(cursor, context.entity.name, [*keys, *roots], limit)
    owing = {key: {key, root.get(key, key)} & late.keys() for key in keys}
    return {key: any(late[name] for name in names) for key, names in owing.items() if names}


def _discarded(context: EntityContext, keys: list[str]) -> dict[str, FindingKind]:
    """Those of the keys that somebody has set aside for good, as their kind."""
    with context.stores.target() as cursor:
        return dict.fromkeys(queue_reads.discarded(cursor, context.entity.name, keys), FindingKind.DISCARDED)


def keys_of(context: EntityContext, findings: list[Finding]) -> pa.Table:
    """The keys of row and document findings, once each."""
    others = {sink.id for sink in context.entity.sinks if not sink.names_rows}
    texts = {f.key for f in findings if f.sink not in others and f.kind != FindingKind.UNKNOWN}
    return context.origin.key.parse(sorted(text for text in texts if context.origin.key.is_text(text)))
