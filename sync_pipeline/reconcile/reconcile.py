"""A whole comparison of one entity: walk both sides in key order, then look at the suspects again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa

from sync_pipeline import due
from sync_pipeline.adapt import Adapted, adapt
from sync_pipeline.errors import SyncError
from sync_pipeline.faults import guarded
from sync_pipeline.files import name_known
from sync_pipeline.keys import Key
from sync_pipeline.lane import Lane
from sync_pipeline.ledger.backfills import unfilled
from sync_pipeline.ledger.bases import count_former
from sync_pipeline.ledger.servers import recovery_of
from sync_pipeline.origin import Reject, Rows
from sync_pipeline.reconcile.documents import compare_documents, extra_documents
from sync_pipeline.reconcile.files import compare_files, known_files, rows_naming
from sync_pipeline.reconcile.rows import compare_rows
from sync_pipeline.reconcile.verdict import Finding, Verdict
from sync_pipeline.sinks.media_bucket import MediaBucket
from sync_pipeline.sql import Cursor
from sync_pipeline.sweep_requests import await_sweep
from sync_pipeline.visibility import check_visibility

# what differs because the monolith has moved on
_UNREPORTED = {"missing", "stale", "extra"}
_SWEEP_PATIENCE_SECONDS = 60.0


def reconcile(lane: Lane, report: Callable[[int], None] = lambda _: None) -> Verdict:
    """Compare every row, document and file; `report` is told how many rows each page had.

    Writes nothing, but asks whoever follows for a sweep. What could not be looked at is unknown, never clean.
    """
    verdict = Verdict(lane.entity.name, findings=_recovering(lane))
    suspects: list[Finding] = []
    try:
        check_visibility(lane.entity, lane.stores, record=False)
        suspects += _walk(lane, verdict, report)
        verdict.findings += _unnamed(lane)
        if lane.entity.index:
            suspects += extra_documents(lane, lane.entity.index)
    except SyncError as error:
        verdict.findings += _unknown("relational", error)
    if suspects:
        verdict.findings += _settled(lane, suspects, verdict)
    if lane.entity.media:
        try:
            verdict.findings += _files(lane, lane.entity.media, verdict)
        except SyncError as error:
            verdict.findings += _unknown("media", error)
    verdict.findings += _recovering(lane)
    verdict.findings = list(dict.fromkeys(verdict.findings))
    with lane.stores.target() as cursor:
        verdict.unfilled = unfilled(cursor, lane.entity.name, lane.entity.partitions)
        verdict.former_digests = count_former(cursor, lane.entity.name, lane.ledger.table)
    return verdict


def _recovering(lane: Lane) -> list[Finding]:
    """Nothing is certain while the new side is compared with a ledger that has lost commits."""
    with lane.stores.target() as cursor:
        left = recovery_of(cursor, lane.entity.name)
    if left is None:
        return []
    return [
        Finding("relational", "unknown", "", f"{left['cause']}: its {', '.join(left['parts'])} are not compared yet")
    ]


def _unnamed(lane: Lane) -> list[Finding]:
    """Rows that cannot be named, and are not in the new side."""
    count = lane.origin.count_unknown()
    if not count:
        return []
    columns = ", ".join(lane.origin.key.columns)
    return [
        Finding(
            "relational",
            "missing",
            "NULL",
            f"{count} rows of the monolith have a NULL in their key ({columns}) and cannot be named: give them one, or"
            " leave them out in the entity's query",
        )
    ]


def _unknown(sink: str, error: SyncError) -> list[Finding]:
    """What could not be looked at is neither right nor wrong."""
    return [Finding(sink, "unknown", "", str(error))] if guarded(36) else []


def _walk(lane: Lane, verdict: Verdict, report: Callable[[int], None]) -> list[Finding]:
    found: list[Finding] = []
    after: list[str] | None = None
    limit = lane.stores.settings.chunk_rows
    while True:
        rows = lane.origin.page(after, None, "true", limit)
        last = rows.is_last
        until = None if last else rows.last

        def within(
            cursor: Cursor, alias: str, key: Key, low: list[str] | None = after, high: list[str] | None = until
        ) -> str:
            return f"{key.after(cursor, alias, low)} AND {key.until(cursor, alias, high)}"

        expected, refused = _expected(lane, rows)
        found += _with_refused(compare_rows(lane, expected, within), refused)
        if lane.entity.index:
            found += compare_documents(lane, lane.entity.index, expected, expected.legacy)
        verdict.compared += rows.table.num_rows
        report(rows.count)
        if last:
            return found
        after = until


def _settled(lane: Lane, suspects: list[Finding], verdict: Verdict) -> list[Finding]:
    """What still differs after the grace time and, where somebody follows, after a sweep.

    A renamed author is no drift while the sweep that brings it is still to come; what it does not bring is.
    """
    found = _look_again(lane, suspects, verdict)
    if any(finding.kind in _UNREPORTED for finding in found) and await_sweep(lane, _SWEEP_PATIENCE_SECONDS):
        verdict.overdue = 0
        found = _look_again(lane, found, verdict)
    return found


def _look_again(lane: Lane, suspects: list[Finding], verdict: Verdict) -> list[Finding]:
    """What still differs after the grace time, against a fresh read; what is owed is pending, or discarded."""
    threading.Event().wait(lane.stores.settings.recheck_seconds)
    foreign = [finding for finding in suspects if not lane.origin.key.is_text(finding.key)]
    keys = lane.origin.key.parse(sorted({f.key for f in suspects} - {f.key for f in foreign}))
    try:
        expected, refused = _expected(lane, lane.origin.by_keys(keys))
        found = compare_rows(lane, expected, lambda cursor, alias, key: key.is_in(cursor, alias, keys))
        found = _with_refused(found, refused)
        if lane.entity.index:
            found += compare_documents(lane, lane.entity.index, expected, keys)
    except SyncError as error:
        return [replace(finding, kind="unknown", detail=str(error)) for finding in suspects]
    owed = _owed(lane, [finding.key for finding in found])
    verdict.overdue += sum(owed.values())
    kinds = _discarded(lane, [finding.key for finding in found]) | dict.fromkeys(owed, "pending")
    return foreign + [replace(f, kind=kinds.get(f.key, f.kind)) for f in found]


def _files(lane: Lane, sink: MediaBucket, verdict: Verdict) -> list[Finding]:
    """What differs, and still does after the grace time and, where somebody follows, after a sweep.

    No row tells of a file that was overwritten under its key.
    """
    found = compare_files(lane, sink)
    if found:
        threading.Event().wait(lane.stores.settings.recheck_seconds)
        found = _still(lane, sink, found)
    if any(finding.kind == "stale" for finding in found) and await_sweep(lane, _SWEEP_PATIENCE_SECONDS):
        found = _still(lane, sink, found)
    rows = sorted(set().union(*rows_naming(lane, [f.key for f in found]).values()))
    owed = _owed(lane, rows)
    verdict.overdue += sum(owed.values())
    return known_files(lane, found, _discarded(lane, rows) | dict.fromkeys(owed, "pending"))


def _still(lane: Lane, sink: MediaBucket, found: list[Finding]) -> list[Finding]:
    """Those of the findings that are found again."""
    return sorted(set(found) & set(compare_files(lane, sink)))


def _expected(lane: Lane, rows: Rows) -> tuple[Adapted, list[Reject]]:
    """Legacy rows as the new side must hold them, and those that no adapter takes."""
    adapted, rejects = adapt(lane.entity, lane.origin.key, rows.table)
    if lane.entity.media:
        adapted = name_known(lane.entity.media, lane.stores, lane.entity.name, lane.origin.key, adapted)
    return adapted, [*rows.rejects, *rejects]


def _with_refused(found: list[Finding], refused: list[Reject]) -> list[Finding]:
    """Rows that no adapter takes are missing; as a rule they are parked, and so pending."""
    there = {finding.key for finding in found}
    missing = [r for r in refused if r.key not in there]
    return found + [Finding("relational", "missing", r.key, f"{r.error}: {r.message}") for r in missing]


def _owed(lane: Lane, keys: list[str]) -> dict[str, bool]:
    """Those of the keys that are owed, themselves or by their root, and whether for longer than the limit."""
    table = lane.origin.key.parse([key for key in keys if lane.origin.key.is_text(key)])
    roots = lane.origin.root.texts(table.select(list(lane.origin.root.columns))).to_pylist()
    root = dict(zip(lane.origin.key.texts(table).to_pylist(), roots, strict=True))
    with lane.stores.target() as cursor:
        cursor.execute(
            "SELECT k, bool_or(reason <> 'parent' AND first_at < now() - %s * interval '1 s') FROM sync.due d,"
            " unnest(coalesce(d.keys, ARRAY[d.key])) k WHERE d.entity = %s AND k = ANY(%s) AND reason <> %s GROUP BY k",
            (lane.stores.settings.due_limit_seconds, lane.entity.name, [*keys, *roots], due.DISCARDED),
        )
        late = {key: bool(is_late) for key, is_late in cursor.fetchall()}
    owing = {key: {key, root.get(key, key)} & late.keys() for key in keys}
    return {key: any(late[name] for name in names) for key, names in owing.items() if names}


def _discarded(lane: Lane, keys: list[str]) -> dict[str, str]:
    """Those of the keys that somebody has set aside for good, as their kind."""
    with lane.stores.target() as cursor:
        cursor.execute(
            "SELECT key FROM sync.due WHERE entity = %s AND reason = %s AND key = ANY(%s)",
            (lane.entity.name, due.DISCARDED, keys),
        )
        return {key: "discarded" for (key,) in cursor.fetchall()}


def keys_of(lane: Lane, findings: list[Finding]) -> pa.Table:
    """The keys of row and document findings, once each."""
    texts = {f.key for f in findings if f.sink != "media" and f.kind != "unknown"}
    return lane.origin.key.parse(sorted(text for text in texts if lane.origin.key.is_text(text)))
