"""Findings and verdicts of a reconciliation."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sync_pipeline.model.findings import KNOWN, Finding, FindingKind, VerdictStatus

_SAMPLES = 100


@dataclass
class Verdict:
    """What a whole comparison of one entity found."""

    entity: str
    sinks: tuple[str, ...] = ()  # their names, as the entity declares them
    not_verifiable: tuple[str, ...] = ()  # sinks that cannot be asked what they hold: the verdict does not cover them
    compared: int = 0
    findings: list[Finding] = field(default_factory=list)
    overdue: int = 0  # pending for longer than the limit: that is drift
    unfilled: list[str] = field(default_factory=list)  # partitions of a history that has never been all in
    former_digests: int = 0  # rows that bear a former digest: no sweep has compared them yet

    @property
    def status(self) -> VerdictStatus:
        """Sums up the findings: unknown before drift before clean."""
        kinds = {finding.kind for finding in self.findings}
        if FindingKind.UNKNOWN in kinds:
            return VerdictStatus.UNKNOWN
        return VerdictStatus.DRIFT if kinds - KNOWN or self.overdue else VerdictStatus.CLEAN

    def as_dict(self) -> dict[str, Any]:
        """For JSON: counts by sink and kind, and samples."""
        counts = Counter((finding.sink, finding.kind) for finding in self.findings)
        report: dict[str, Any] = {"compared": self.compared}
        for sink in self.sinks:
            report[sink] = {kind: counts[sink, kind] for kind in FindingKind}
        report["overdue"] = self.overdue
        report["history_missing"] = self.unfilled
        report["former_digests"] = self.former_digests
        report["not_verifiable"] = list(self.not_verifiable)
        report["samples"] = [finding.as_dict() for finding in sorted(self.findings)[:_SAMPLES]]
        return report


def overall(verdicts: list[Verdict]) -> VerdictStatus:
    """Sums up verdicts over several entities: unknown before drift before clean."""
    found = {verdict.status for verdict in verdicts}
    return next((each for each in (VerdictStatus.UNKNOWN, VerdictStatus.DRIFT) if each in found), VerdictStatus.CLEAN)
