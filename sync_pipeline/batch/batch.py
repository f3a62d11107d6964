"""A batch on its way: what was read, what is to be written, deleted, left alone or parked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.ledger.ledger import Draw
from sync_pipeline.model.rows import Adapted, Reject
from sync_pipeline.queue import parking
from sync_pipeline.sinks.placing import Placed


@dataclass
class Batch:
    """A batch between its read and its write."""

    context: EntityContext
    draw: Draw
    order: Order
    keys: pa.Table
    adapted: Adapted
    placed: Placed
    deleted: pa.Table  # keys whose row is to be deleted
    unchanged: pa.Table  # keys whose row needs no write, with `_digest`
    rows_to_write: pa.Array  # of adapted rows: true where the row is written, false where only its document is sent
    rejects: list[Reject] = field(default_factory=list)
    fresh: bool = False
    waits: dict[str, parking.Wait] = field(default_factory=dict)  # by key text: neither written nor deleted yet
    roots: pa.Table = field(default_factory=lambda: pa.table({}))
    superseded: list[str] = field(default_factory=list)  # key texts of roots that a higher revision has looked at
    skipped: frozenset[str] = frozenset()  # key texts of rows that were discarded or undone, and are the same still
    rejected_by_shadow: frozenset[str] = frozenset()  # key texts of rows that a table being filled does not take
    steps: tuple[tuple[frozenset[str], bool], ...] = ()  # key texts in the order in which the live table takes them
    put_off: tuple[tuple[str, ...], ...] = ()  # key texts of rows that are written after these, in batches of their own
    there: pa.Array = field(
        default_factory=lambda: pa.array([], pa.string())
    )  # key texts of rows that were read, for collisions
    left_out: frozenset[str] = frozenset()  # key texts that the gate is not to find, because they are not done here
    vanished: tuple[str, ...] = ()  # key texts of parts that only the gate has found to be gone
    moved: tuple[tuple[str, str], ...] = ()  # key texts of rows and of those that hold their ids: to be read together
    is_trial: bool = False  # it is written to be rolled back
    unwanted: Mapping[str, int] = field(default_factory=dict)  # of rows that a sink does not want: what they hold

    @property
    def revision(self) -> int:
        """The number by which the ledger tells batches apart."""
        return self.draw.revision

    def texts(self, table: pa.Table) -> pa.Array:
        """Keys of a table's rows as texts."""
        return self.context.origin.key.texts(table)

    def without(self, texts: list[str]) -> Batch:
        """The batch, some keys left out."""
        out, left_out = pa.array(texts, pa.string()), set(texts)

        def others(table: pa.Table) -> pa.Table:
            return table.filter(pc.invert(pc.is_in(self.texts(table), value_set=out)))

        kept = self.adapted.without(self.context.origin.key.texts, texts)
        at = pc.index_in(self.texts(kept.legacy), value_set=self.texts(self.adapted.legacy))
        return replace(
            self,
            adapted=kept,
            rows_to_write=self.rows_to_write.take(at),
            deleted=others(self.deleted),
            unchanged=others(self.unchanged),
            rejects=[reject for reject in self.rejects if reject.key not in left_out],
            left_out=self.left_out.union(left_out),
            placed=self.placed.without(left_out),
        )

    def ready(self) -> Batch:
        """The batch without rows that wait for others."""
        return self.without(list(self.waits)) if self.waits else self
