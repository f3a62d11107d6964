"""Reconciliation as asset checks: one for each sink of an entity, all from one comparison."""

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import cast

import dagster as dg

from checks.stores_resource import OpensStores
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity
from sync_pipeline.errors import SyncError
from sync_pipeline.model.findings import KNOWN, Finding, FindingKind
from sync_pipeline.reconcile.parts import Part, parts
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.reconcile.verdict import Verdict

NAME = "reconciliation"
_SAMPLES = 50
_ALWAYS_ERRORS = {FindingKind.MISSING, FindingKind.CORRUPT, FindingKind.UNKNOWN}
_THINGS = {"relational": "row", "search": "document", "media": "file"}

_VERDICTS = dg.TableSchema(
    [
        dg.TableColumn("part", "string", "the live delta, then partitions of the history"),
        dg.TableColumn("rows", "int", "legacy rows of that part"),
        dg.TableColumn("mismatches", "int"),
        dg.TableColumn("verdict", "string"),
    ]
)


def reconciliation_check(entity: Entity, keys: Mapping[str, dg.AssetKey]) -> dg.AssetChecksDefinition:
    """One check on each sink's asset; `keys` maps a sink's name in a verdict to its asset."""
    specs = [
        dg.AssetCheckSpec(
            NAME,
            asset=key,
            description=f"Every {_THINGS[sink]} is compared with what the monolith holds now. Writes nothing.",
        )
        for sink, key in keys.items()
    ]

    @dg.multi_asset_check(specs=specs, name=f"reconcile_{entity.name}", required_resource_keys={"engine"})
    def compare(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        engine = cast(OpensStores, context.resources.engine)
        with engine.stores(context.run.run_id) as stores:
            entity_context = EntityContext.open(entity, stores)
            verdict = reconcile(entity_context)
            parts_at_fault = _locate(entity_context, verdict)
            tolerated = stores.settings.drift_warning_rows
        for sink, key in keys.items():
            result = _result(key, sink, verdict, tolerated)
            yield result._replace(metadata={**(result.metadata or {}), "verdicts": _verdicts(parts_at_fault, sink)})

    return compare


def _result(key: dg.AssetKey, sink: str, verdict: Verdict, tolerated: int) -> dg.AssetCheckResult:
    found = [finding for finding in verdict.findings if finding.sink == sink or finding.kind == FindingKind.UNKNOWN]
    counts = {kind.value: sum(finding.kind == kind for finding in found) for kind in FindingKind}
    overdue = verdict.overdue if counts[FindingKind.PENDING] else 0
    known = KNOWN - {FindingKind.PENDING} if overdue else KNOWN
    wrong = {kind: count for kind, count in counts.items() if count and kind not in known}
    message = ", ".join(f"{count} {kind}" for kind, count in wrong.items()) or "no mismatch"
    return dg.AssetCheckResult(
        passed=not wrong,
        asset_key=key,
        check_name=NAME,
        severity=_severity(wrong, tolerated),
        description=f"{message}; {verdict.compared:,} legacy rows compared",
        metadata={"compared": verdict.compared, **counts, **_samples(found)},
    )


def _severity(wrong: Mapping[str, int], tolerated: int) -> dg.AssetCheckSeverity:
    """A warning while only a few are stale, extra or overdue; what is lost, damaged or not looked at is an error."""
    if wrong.keys() & _ALWAYS_ERRORS or sum(wrong.values()) > tolerated:
        return dg.AssetCheckSeverity.ERROR
    return dg.AssetCheckSeverity.WARN


def _samples(found: list[Finding]) -> dict[str, dg.TableMetadataValue]:
    if not found:
        return {}
    records = [record for finding in sorted(found)[:_SAMPLES] for record in _records(finding)]
    return {"samples": dg.MetadataValue.table(records)}


def _locate(context: EntityContext, verdict: Verdict) -> list[Part]:
    """Where mismatches lie; nothing when that could not be looked at, for the verdict must be told all the same."""
    try:
        return parts(context, verdict.findings)
    except SyncError:
        return []


def _verdicts(parts_at_fault: list[Part], sink: str) -> dg.TableMetadataValue:
    """A verdict for the live delta, and for each partition of the history; neighbours that are clean share a line."""
    stretches = [parts_at_fault[:1]] if parts_at_fault else []
    for drifts, found in groupby(parts_at_fault[1:], lambda part: part.wrong[sink] > 0):
        together = list(found)
        stretches += [[part] for part in together] if drifts else [together]
    return dg.MetadataValue.table([_verdict(stretch, sink) for stretch in stretches], _VERDICTS)


def _verdict(stretch: list[Part], sink: str) -> dg.TableRecord:
    first, last = stretch[0].name, stretch[-1].name
    wrong = sum(part.wrong[sink] for part in stretch)
    return dg.TableRecord(
        {
            "part": first if first == last else f"{first} to {last}",
            "rows": sum(part.rows for part in stretch),
            "mismatches": wrong,
            "verdict": "drift" if wrong else "clean",
        }
    )


def _records(finding: Finding) -> list[dg.TableRecord]:
    """One line for each column that differs."""
    what = {"kind": finding.kind.value, "key": finding.key}
    if not finding.differs:
        return [dg.TableRecord({**what, "column": "", "monolith": "", "new side": "", "detail": finding.detail})]
    return [
        dg.TableRecord({**what, "column": d.column, "monolith": d.wanted, "new side": d.found, "detail": ""})
        for d in finding.differs
    ]
