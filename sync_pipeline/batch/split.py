"""Batches that are too large for a page: they are carried out in parts, and the last part moves the cursor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.batch.order import Order, Outcome
from sync_pipeline.batch.versions import Expected
from sync_pipeline.db.sql import Cursor
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.model.faults import guarded


@dataclass(frozen=True)
class Part:
    """Some of the roots of a batch with the keys that were named of them."""

    roots: pa.Table
    named: pa.Table

    def cut(self, context: EntityContext, at: int) -> tuple[Part, Part]:
        """Returns the first `at` roots and the others."""
        return tuple(  # type: ignore[return-value]
            Part(roots, self._of(context, roots)) for roots in (self.roots.slice(0, at), self.roots.slice(at))
        )

    def _of(self, context: EntityContext, roots: pa.Table) -> pa.Table:
        root = context.origin.root
        theirs = root.texts(self.named.select(list(root.columns)))
        return self.named.filter(pc.is_in(theirs, value_set=root.texts(roots)))


@dataclass
class SplitOrder:
    """An order whose batch may be carried out in parts."""

    order: Order
    _is_split: bool = False
    _versions: list[Expected] = field(default_factory=list)

    def of_part(self, context: EntityContext, part: Part, *, is_last: bool) -> Order:
        """Returns the order of one part: only the last one commits what the order adds."""
        if is_last and not self._is_split:
            return self.order
        self._is_split = True
        order = replace(self.order, expected=self._expected(context, part))
        return replace(order, commit=self._commit if (is_last or not guarded(89)) and self.order.commit else None)

    def _expected(self, context: EntityContext, part: Part) -> Expected | None:
        whole = self.order.expected
        if whole is None:
            return None
        own = set(context.origin.key.texts(part.named).to_pylist())
        expected = Expected(whole.column, {key: each for key, each in whole.event_versions.items() if key in own})
        self._versions.append(expected)
        return expected

    def _commit(self, cursor: Cursor, outcome: Outcome) -> None:
        if self.order.expected:
            self.order.expected.future = [key for part in self._versions for key in part.future]
            self.order.expected.ended = [key for part in self._versions for key in part.ended]
        assert self.order.commit
        self.order.commit(cursor, outcome)

    def forget(self, order: Order) -> None:
        """The part of this order is not carried out: it was too large, and is cut once more."""
        self._versions = [each for each in self._versions if each is not order.expected]


def add_up(outcomes: Iterator[Outcome]) -> Outcome:
    """Returns the outcome of all parts together."""
    total = Outcome()
    for outcome in outcomes:
        for each in fields(Outcome):
            if each.name != "position":
                setattr(total, each.name, getattr(total, each.name) + getattr(outcome, each.name))
    return total
