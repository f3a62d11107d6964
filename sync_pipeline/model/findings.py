"""Kinds of mismatches between the monolith and the new side."""

from enum import StrEnum


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
