"""Kinds of mismatches between the monolith and the new side."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple


class FindingKind(StrEnum):
    """Says how an object of a sink differs from what the monolith holds."""

    MISSING = "missing"  # should be there and is not
    STALE = "stale"  # as the pipeline once wrote it; the monolith has changed since
    EXTRA = "extra"  # is there and should not be
    CORRUPT = "corrupt"  # neither what the monolith holds nor what the pipeline wrote
    PENDING = "pending"  # differs, and the queue holds it
    DISCARDED = "discarded"  # differs, and an operator has set it aside for good
    UNKNOWN = "unknown"  # could not be compared


class VerdictStatus(StrEnum):
    """Sums up a reconciliation."""

    CLEAN = "clean"
    DRIFT = "drift"
    UNKNOWN = "unknown"  # something could not be compared; never reported as clean


# findings that are no drift: the queue holds them, or an operator has discarded them
KNOWN = frozenset({FindingKind.PENDING, FindingKind.DISCARDED})


class Difference(NamedTuple):
    """A column or field, what the monolith wants it to hold, and what it holds; shortened text."""

    column: str
    wanted: str
    found: str


@dataclass(frozen=True, order=True)
class Finding:
    """One mismatch: in which sink, of which kind, at which key, and how."""

    sink: str
    kind: FindingKind
    key: str
    detail: str = ""
    differs: tuple[Difference, ...] = ()

    @property
    def message(self) -> str:
        """How it differs, in a line."""
        return self.detail or "; ".join(f"{d.column}: {d.wanted} wanted, {d.found} found" for d in self.differs)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "kind": self.kind.value, "differs": [difference._asdict() for difference in self.differs]}
