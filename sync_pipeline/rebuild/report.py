"""What a rebuild tells while it lasts, and what its comparison has found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sync_pipeline.model.findings import Finding

FILLED, COMPARED = "rows filled", "compared"
# is told a step and how many it has done more
Report = Callable[[str, int], None]
# to refuse the swap, and to see why
ENOUGH = 1_000


def silent(*_: object) -> None:
    """Nobody is told."""


@dataclass
class Compared:
    """How many documents or rows were compared, how many came from the former one as they were, and what differs."""

    compared: int = 0
    carried_over: int = 0
    findings: list[Finding] = field(default_factory=list)
