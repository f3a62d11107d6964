"""Rows on their way: what an adapter made of legacy rows, and rows that cannot go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.model.steps import BatchStep


@dataclass(frozen=True)
class Reject:
    """A row that cannot go on: where it stopped and why."""

    key: str
    step: BatchStep
    error: str
    message: str
    digest: int | None = None  # of the row that was refused
    constraint: str | None = None  # by which other rows refuse it
    sink: str | None = None  # the outer sink that refused it


@dataclass(frozen=True)
class Adapted:
    """Legacy rows and what the adapter made of them, row by row; `held` says which sinks want each."""

    legacy: pa.Table
    table: pa.Table
    held: pa.Array  # int16

    def take(self, keep: pa.Array) -> Adapted:
        """Some of the rows."""
        return Adapted(self.legacy.take(keep), self.table.take(keep), self.held.take(keep))

    def held_by(self, bit: int) -> Adapted:
        """Return the rows that a sink wants, by its bit."""
        return self.take(pc.indices_nonzero(has_bit(self.held, bit)))

    def without(self, texts: Callable[[pa.Table], pa.Array], out: Sequence[str]) -> Adapted:
        """The rows whose key texts are not among `out`; `texts` gives those of legacy rows, row by row."""
        if not out:
            return self
        gone = pc.is_in(texts(self.legacy), value_set=pa.array(out, pa.string()))
        return self.take(pc.indices_nonzero(pc.invert(gone)))


def has_bit(held: pa.Array, bit: int) -> pa.Array:
    """Return of each row whether a sink holds something for it, by the sink's bit."""
    return pc.not_equal(pc.bit_wise_and(held, pa.scalar(bit, pa.int16())), 0)
