"""Collisions: rows that are not written, because another row of the table holds the id that identifies both.

A table may identify parts by an id of their own, while the ledger identifies them by root and id. A part that moves to
another root is another key for the ledger, and the same row for the table. A batch gives a row to another key only if
it deletes the former key itself. This module decides about rows that were not written. It does not compare revisions,
because only a read of both roots tells which of them has the part (ADR 11).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.batch.batch import Batch
from sync_pipeline.db.columns import DIGEST
from sync_pipeline.ledger.sinks import HELD_ROW
from sync_pipeline.model.faults import guarded
from sync_pipeline.model.rows import Reject, has_bit
from sync_pipeline.model.steps import BatchStep

_SHOWN = 3
# whole roots are read of each: few enough for any memory
_PAIRS = 25


class CollisionError(Exception):
    """Rows were not written: by key text, the key text of the row that holds the id.

    `passed` is the batch as the gate and the references have let it through.
    """

    def __init__(self, held: dict[str, str], passed: Batch) -> None:
        super().__init__(f"{len(held)} rows have the id of another row")
        self.held, self.passed = held, passed


def without_repeats(batch: Batch) -> Batch:
    """Reject rows of a batch that are to be written and share an id, because none of them tells which is meant."""
    context, table = batch.context, batch.context.entity.table
    if not table.outer_key or not guarded(144) or batch.adapted.table.num_rows < 2:
        return batch
    rows = batch.adapted.legacy.filter(pc.and_(has_bit(batch.adapted.held, HELD_ROW), batch.rows_to_write))
    own = table.identity_of(context.origin.key)
    ids, texts = own.texts(rows.select(list(own.columns))), batch.texts(rows)
    counted = pc.value_counts(ids)
    repeated = pc.is_in(ids, value_set=counted.field("values").filter(pc.greater(counted.field("counts"), 1)))
    of_id: dict[str, list[str]] = {}
    for each, text in zip(ids.filter(repeated).to_pylist(), texts.filter(repeated).to_pylist(), strict=True):
        of_id.setdefault(each, []).append(text)
    others = {text: [other for other in same if other != text] for same in of_id.values() for text in same}
    return _rejected(batch, others)


def without_collisions(batch: Batch, error: CollisionError) -> Batch:
    """The batch without the rows that were not written, and with the removal of rows that nothing accounts for."""
    found = _Found.of(batch, error.passed)
    for text, holder in error.held.items():
        found.sort(text, holder)
    rest = batch.without([text for text, _ in found.moved])
    rest = replace(rest, moved=(*batch.moved, *found.moved))
    return _with_deleted(_rejected(rest, {text: [holder] for text, holder in found.repeated.items()}), found.leaving)


@dataclass
class _Found:
    """The rows that were not written, sorted by what this batch knows of the rows that hold their ids."""

    batch: Batch
    roots: set[str]  # that this batch has read, and no later one
    there: set[str]  # key texts that the monolith has
    deleted: set[str]  # key texts that this batch deletes
    moved: list[tuple[str, str]] = field(default_factory=list)  # to be read again, together with the holder
    repeated: dict[str, str] = field(default_factory=dict)  # the monolith has both
    leaving: list[str] = field(default_factory=list)  # holders that the monolith does not have any more

    @classmethod
    def of(cls, batch: Batch, passed: Batch) -> _Found:
        """Nothing yet of a batch; `passed` is the same behind the gate."""
        roots = batch.context.origin.root.texts(passed.roots)
        deleted = batch.texts(batch.deleted)
        return cls(batch, set(roots.to_pylist()), set(batch.there.to_pylist()), set(deleted.to_pylist()))

    def sort(self, text: str, holder: str) -> None:
        """Decide about a row and the one that holds its id."""
        if not self.batch.context.origin.key.is_text(holder):  # a row that cannot be named cannot be deleted
            self.repeated[text] = holder
        elif self._root_of(holder) not in self.roots or holder in self.deleted:
            self.moved.append((text, holder))  # its root was not read here, or a newer batch has written it since
        elif holder in self.there:
            self.repeated[text] = holder
        else:
            self.leaving.append(holder)

    def _root_of(self, key: str) -> str:
        origin = self.batch.context.origin
        root: str = origin.root.texts(origin.key.parse([key]).select(list(origin.root.columns)))[0].as_py()
        return root


def pairs_of(batch: Batch) -> Iterator[list[str]]:
    """Key texts of rows that were not written, with those that hold their ids, as they are to be read together."""
    for first in range(0, len(batch.moved), _PAIRS):
        yield list(dict.fromkeys(text for pair in batch.moved[first : first + _PAIRS] for text in pair))


def _rejected(batch: Batch, others: dict[str, list[str]]) -> Batch:
    """Park rows that have the id of others (key texts) which the query gives as well."""
    if not others:
        return batch
    table, legacy = batch.context.entity.table, batch.adapted.legacy
    digests = dict(zip(batch.texts(legacy).to_pylist(), legacy.column(DIGEST).to_pylist(), strict=True))
    rest = batch.without(list(others))
    rest.rejects += [
        Reject(text, BatchStep.ROW, "RepeatedKey", _message(table.name, table.identity, holders), digests.get(text))
        for text, holders in others.items()
    ]
    return rest


def _message(table: str, identity: tuple[str, ...], holders: list[str]) -> str:
    columns, named = ", ".join(identity), "; ".join(holders[:_SHOWN])
    return (
        f"the query gives {named} the same {columns}, and {table} holds one row of it: correct the query, or leave out"
        f" primary_key, so that {table} holds both"
    )


def _with_deleted(batch: Batch, leaving: list[str]) -> Batch:
    """The batch with the removal of rows that the monolith does not have, whatever the ledger knows of them."""
    if not leaving:
        return batch
    rest, keys = batch.without(leaving), batch.context.origin.key.parse(leaving)
    known = batch.texts(batch.keys)
    unknown = keys.filter(pc.invert(pc.is_in(batch.texts(keys), value_set=known)))
    return replace(
        rest,
        keys=pa.concat_tables([rest.keys, unknown.cast(rest.keys.schema)]),
        deleted=pa.concat_tables([rest.deleted, keys.cast(rest.deleted.schema)]),
    )
