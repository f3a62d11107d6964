"""The figures of an observation."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Shares of all edits that arrived within the figure.
_SHARES = {"p50": 0.50, "p95": 0.95, "p99": 0.99, "max": 1.0}


@dataclass(frozen=True)
class Report:
    """Lags in seconds, and what was not measured.

    An edit that never arrived counts as infinite. Left out: hard deletes (a sweep finds them, the live delta does not
    claim to), edits that a hard delete overtook, and poison, which no adapter takes.
    """

    lags: tuple[float, ...]
    undelivered: int
    hard_deletes: int
    overtaken: int
    poison: int

    @property
    def edits(self) -> int:
        """All that should have arrived."""
        return len(self.lags) + self.undelivered

    def share(self, share: float) -> float:
        """The lag within which this share of the edits arrived (nearest rank); NaN without edits."""
        if self.edits == 0:
            return math.nan
        rank = max(1, math.ceil(round(share * self.edits, 9)))
        return sorted(self.lags)[rank - 1] if rank <= len(self.lags) else math.inf

    def figures(self) -> dict[str, float]:
        """p50, p95, p99 and max."""
        return {name: self.share(share) for name, share in _SHARES.items()}

    def line(self) -> str:
        """The report."""
        figures = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in self.figures().items())
        return (
            f"{self.edits} edits: {figures}; undelivered {self.undelivered}; left out: hard deletes "
            f"{self.hard_deletes}, overtaken by one {self.overtaken}, poison {self.poison}"
        )
