"""References between entities: a row goes in after those it refers to, and goes out after those that refer to it.

A batch holds its own entity's lock and those of the entities it refers to, all shared, from before it looks until it
commits. Who finds that a parent is missing, or is about to delete one, looks again with all of them exclusive: nobody
else's row is then on its way in or out, and whatever is awaited will meet the record of the wait when it is written.
Locks are taken at once, in one order, before any row's, so that two batches never wait for each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.db.columns import DIGEST, text_of
from sync_pipeline.db.keys import Key
from sync_pipeline.db.sql import Cursor
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import DeclarationError
from sync_pipeline.ledger.ledger import key_of, table_of
from sync_pipeline.ledger.sinks import HELD_ROW
from sync_pipeline.model.faults import guarded
from sync_pipeline.model.reasons import Reason
from sync_pipeline.model.rows import Adapted, has_bit
from sync_pipeline.queue.parking import Wait
from sync_pipeline.sinks.table import Reference
from sync_pipeline.sinks.table.references import Dependent, enter
from sync_pipeline.sinks.table.target_table import TargetTable


class StricterError(Exception):
    """A row must wait for another, or is awaited by none: to be looked at again under exclusive locks."""


@dataclass(frozen=True)
class ReferenceLocks:
    """What holds an entity's batch in a transaction: who refers to it, under which locks."""

    context: EntityContext
    cursor: Cursor
    dependents: list[Dependent]
    tables: list[TargetTable]  # that rows are written to
    strict: bool

    @classmethod
    def enter(cls, context: EntityContext, cursor: Cursor, *, strict: bool = False) -> ReferenceLocks:
        """Take the locks, before anything else in the rows' transaction."""
        entity = context.entity
        parents = {reference.entity for reference in entity.table.references}
        strict = guarded(22) and (strict or entity.name in parents)  # rows of a batch may rely on each other
        locks = cls(context, cursor, *enter(cursor, entity.name, entity.table, parents, exclusive=strict), strict)
        if locks.dependents and (refusal := entity.refuse_reference_from(locks.dependents[0].entity)):
            raise DeclarationError(refusal)
        return locks

    @property
    def are_alone(self) -> bool:
        """Whether the entity neither refers nor is referred to."""
        return not self.dependents and not self.context.entity.table.references

    def waits(self, adapted: Adapted, deleted: pa.Table, revision: int) -> dict[str, Wait]:
        """Which rows (key texts) cannot be written or deleted yet. Raises StricterError where the locks do not do."""
        columns = list(self.context.origin.key.columns)
        wanted = adapted.legacy.select(columns)
        has_row = has_bit(adapted.held, HELD_ROW)
        arriving = wanted.filter(has_row)
        leaving = pa.concat_tables([deleted, wanted.filter(pc.invert(has_row))])
        if self._refers_to_itself:
            arriving, leaving = (self._not_overtaken(keys, revision) for keys in (arriving, leaving))
        found = self._orphans(adapted, arriving, leaving)
        goes = bool(self.dependents and leaving.num_rows)
        if (found or goes) and not self.strict and guarded(22):
            raise StricterError
        return found | self._needed(leaving)

    def broken(self, keys: pa.Table) -> str:
        """Why these rows cannot stay as this transaction leaves them: they refer in vain, or are referred to so."""
        table, own = self.context.entity.table, self.context.origin.key
        target = own.named(table.key)
        for reference in table.references:
            parent = key_of(self.cursor, reference.entity)
            if parent is None:
                continue
            named = parent.with_text_types(reference.columns)
            self.cursor.execute(
                f"SELECT {target.text_expression('t')}, {named.text_expression('t')} FROM {table.quoted} t"
                f" WHERE {target.is_in(self.cursor, 't', keys)} AND ({named.plain('t')}) IS NOT NULL AND NOT EXISTS"
                f" (SELECT FROM {table_of(reference.entity)} l WHERE {parent.joins('l', named, 't')}"
                f" AND l.held & {HELD_ROW} <> 0) LIMIT 1"
            )
            if found := self.cursor.fetchone():
                return f"{found[0]} refers to {reference.entity} {found[1]}, which is no longer in the new side"
        self.cursor.execute(
            f"SELECT {target.text_expression('t')} FROM {table.quoted} t WHERE {target.is_in(self.cursor, 't', keys)}"
        )
        left = self._needed(_without(own, keys, [text for (text,) in self.cursor.fetchall()]))
        return next((f"{w.entity} {w.awaited} refers to {text} in the new side" for text, w in left.items()), "")

    @property
    def _refers_to_itself(self) -> bool:
        return any(reference.entity == self.context.entity.name for reference in self.context.entity.table.references)

    def _not_overtaken(self, keys: pa.Table, revision: int) -> pa.Table:
        """Those that the ledger will let through: no higher revision has looked at them."""
        key = self.context.origin.key
        self.cursor.execute(
            f"SELECT {key.text_expression('l')} FROM {self.context.ledger.table} l"
            f" WHERE {key.is_in(self.cursor, 'l', keys)} AND l.seen >= {revision}"
        )
        return _without(key, keys, [text for (text,) in self.cursor.fetchall()])

    def _orphans(self, adapted: Adapted, arriving: pa.Table, leaving: pa.Table) -> dict[str, Wait]:
        """Rows whose parent is not in the new side, and does not come in this batch, or goes in it."""
        found: dict[str, Wait] = {}
        references, key = self.context.entity.table.references, self.context.origin.key
        rows = adapted.take(pc.indices_nonzero(adapted.held)) if references else adapted.take(pa.array([], pa.int64()))
        come, go = (set(key.texts(keys).to_pylist()) for keys in (arriving, leaving))
        while True:
            now: dict[str, Wait] = {}
            for reference in references:
                named = _named(reference, rows.table)
                there = self._there(reference, named)
                if reference.entity == self.context.entity.name:
                    there = (there - go) | (come - found.keys())
                digests = rows.legacy.column(DIGEST).to_pylist()
                waiting = zip(key.texts(rows.legacy).to_pylist(), named.to_pylist(), digests, strict=True)
                now |= {
                    text: Wait(text, Reason.PARENT, reference.entity, parent, digest)
                    for text, parent, digest in waiting
                    if parent is not None and parent not in there
                }
            if not now:
                return found
            found |= now
            rows = rows.without(key.texts, list(now))

    def _there(self, reference: Reference, named: pa.Array) -> set[str]:
        """Those of the parents that the new side holds."""
        key = key_of(self.cursor, reference.entity)
        parents = named.drop_null().unique().to_pylist()
        if key is None or not parents:
            return set()
        self.cursor.execute(
            f"SELECT {key.text_expression('l')} FROM {table_of(reference.entity)} l"
            f" WHERE {key.is_in(self.cursor, 'l', key.parse(parents))} AND l.held & {HELD_ROW} <> 0"
        )
        return {text for (text,) in self.cursor.fetchall()}

    def _needed(self, leaving: pa.Table) -> dict[str, Wait]:
        """Rows that are to go, and that others still refer to which do not go with them."""
        found: dict[str, Wait] = {}
        while leaving.num_rows:
            now: dict[str, Wait] = {}
            for dependent in self.dependents:
                now |= self._referred(dependent, leaving)
            if not now:
                break
            found |= now
            leaving = _without(self.context.origin.key, leaving, list(now))
        return found

    def _referred(self, dependent: Dependent, leaving: pa.Table) -> dict[str, Wait]:
        own = self.context.origin.key
        parent, child = own.named(dependent.columns), Key(tuple(dependent.key), ("",) * len(dependent.key))
        stays = "true"
        if dependent.entity == self.context.entity.name:
            stays = f"NOT {own.named(dependent.key).is_in(self.cursor, 't', leaving)}"
        self.cursor.execute(
            f"SELECT {parent.text_expression('t')}, min({child.text_expression('t')}) FROM {dependent.relation} t"
            f" WHERE {parent.is_in(self.cursor, 't', leaving)} AND {stays} GROUP BY 1"
        )
        return {text: Wait(text, Reason.CHILDREN, dependent.entity, child) for text, child in self.cursor.fetchall()}


def _named(reference: Reference, table: pa.Table) -> pa.Array:
    """The parents' keys as texts; NULL where any part of one is."""
    columns = [table.column(name) for name in reference.columns]
    texts = Key(reference.columns, ("",) * len(columns)).texts(table.select(list(reference.columns)))
    for column in columns:
        texts = pc.if_else(text_of(column).is_valid(), texts, pa.scalar(None, pa.string()))
    return texts


def _without(key: Key, keys: pa.Table, texts: list[str]) -> pa.Table:
    """The keys but those."""
    return keys.filter(pc.invert(pc.is_in(key.texts(keys), value_set=pa.array(texts, pa.string()))))
