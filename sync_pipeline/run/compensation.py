"""Compensation: a key whose document the index refuses for good is put back as it was before, if its entity says so.

It is a batch like any other: it takes a revision, reads the legacy rows, and writes under the ledger's locks. A row
that has changed meanwhile is written as ever. One that is still as it was refused is undone: table and references from
their images; readers have the former document still. The ledger takes the refused row for applied, so that it is not
tried again before it is another one, or somebody replays it. Where another index took the document, or an older one may
be on its way, the former document is sent under the new revision; until then the record in `due` stays.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import psycopg2
import pyarrow as pa

from sync_pipeline.batch.order import Order, Outcome, Report
from sync_pipeline.batch.references import ReferenceLocks
from sync_pipeline.db.keys import Key
from sync_pipeline.db.sql import Cursor
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import CompensationError, UnreachableError
from sync_pipeline.ledger import queue_reads, queue_table
from sync_pipeline.ledger.ledger import KEEP, UNDO, WRITE
from sync_pipeline.ledger.rebuilds import under_way
from sync_pipeline.model.faults import crash_point
from sync_pipeline.model.reasons import Reason
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.queue import due, parking
from sync_pipeline.sinks.outer import Seen
from sync_pipeline.sinks.table import before_images
from sync_pipeline.sinks.table.before_images import Image
from sync_pipeline.stores.stores import first_line

log = logging.getLogger(__name__)

# the cause of its batches, in the log
CAUSE = "due: compensation"


def compensate(context: EntityContext, record: due.Owed, report: Report) -> None:
    """Put the record's keys back. What fails stays due and is told; of several, those that do not fail go on."""
    try:
        report(context.entity.name, _Compensation(context, record, _seen_by_readers(context, record.keys)).run())
    except UnreachableError as error:
        with context.stores.target() as cursor:
            due.postpone(cursor, [record.id], error)
    except (psycopg2.Error, CompensationError) as error:
        _failed(context, record, error)


def _failed(context: EntityContext, record: due.Owed, error: Exception) -> None:
    name = context.entity.name
    with context.stores.target() as cursor:
        if len(record.keys) > 1:
            queue_table.delete(cursor, [record.id])
            for text in record.keys:
                due.owe(cursor, name, Reason.COMPENSATION, [text])
            return
        (text,) = record.keys
        due.postpone(cursor, [record.id], error)
        parking.not_undone(cursor, name, text, f"{type(error).__name__}: {first_line(error)}")
    log.error("compensation failed", extra={"entity": name, "action": "compensation", "error": first_line(error)})


def _seen_by_readers(context: EntityContext, texts: list[str]) -> Mapping[str, Seen]:
    """The objects that readers see, in real time."""
    for sink in context.entity.outer_sinks:
        with sink.breaker(context.stores):
            return sink.read(context.of_sinks, texts)
    return {}


@dataclass
class _Compensation:
    """One record of `due` on its way."""

    context: EntityContext
    record: due.Owed
    seen: Mapping[str, Seen]
    former: dict[str, tuple[int, str | None]] = field(default_factory=dict)  # to be sent: version and document
    over: list[str] = field(default_factory=list)  # whose images are of no use any more
    has_shadow: bool = False  # a rebuild fills a shadow index

    def run(self) -> Outcome:
        """Raises UnreachableError; CompensationError and what the database says where a row cannot be put back."""
        crash_point("compensation.before")
        keys = self.context.origin.key.parse(self.record.keys)
        outcome = sync_keys(self.context, keys, Order(acknowledge=True, undo=self._undo, cause=CAUSE))
        crash_point("compensation.undone")
        if self.former:
            self._send_former()
        return outcome

    def _undo(self, locks: ReferenceLocks, revision: int, plan: pa.Table, applied: pa.Table) -> pa.Table:
        """In the rows' transaction: put back what is still as it was refused."""
        cursor, name = locks.cursor, self.context.entity.name
        entries = _ledger_entries(self.context.origin.key, plan, applied)
        kept = before_images.images(cursor, name, self.record.keys)
        refused = queue_reads.refused_documents_among(cursor, name, self.record.keys)
        self.former, self.over = {}, []
        self.has_shadow = _has_shadow_index(cursor, name)
        found = (self._chosen(text, kept[text], entries.get(text), text in refused) for text in kept)
        chosen = [image for image in found if image]
        if chosen:
            self._revert(locks, revision, chosen, {image.key for image in chosen if len(kept[image.key]) > 1})
        over = pa.array(self.over, pa.string())
        before_images.forget(cursor, name, over, pa.repeat(pa.scalar(revision, pa.int64()), len(over)))
        # a later batch has looked at them: again, under a higher revision
        due.owe(cursor, name, Reason.COMPENSATION, sorted(kept.keys() - entries.keys()))
        if not self.former:
            queue_table.delete(cursor, [self.record.id])
        return _with_undone(plan, {entries[image.key].n: image.held for image in chosen})

    def _chosen(self, text: str, kept: list[Image], entry: _LedgerEntry | None, is_refused: bool) -> Image | None:
        """What a key is to be put back to, if it is."""
        last, seen = kept[-1], self.seen.get(text)
        if entry is None or entry.action == WRITE:
            return None
        if last.restored == entry.written:  # the worker that put it back was killed before its document was sent
            self.former[text] = (entry.written, last.document)
            return None
        version = seen.version if seen else None
        if last.revision < entry.written or version == entry.written:
            self.over.append(text)  # written since without a document; or another index behind the alias has taken it
            return None
        if entry.overtaken:
            return None
        if entry.action != KEEP:
            raise CompensationError(f"{text} has changed, and is refused before its row could be written")
        if not is_refused:
            return None  # written since, and its document is still to be sent
        bits = [self.context.bits[sink.id] for sink in self.context.entity.outer_sinks]
        return before_images.last_whole(kept, version, sum(bits))

    def _revert(self, locks: ReferenceLocks, revision: int, chosen: list[Image], late: set[str]) -> None:
        """Rows, references, ledger and letters; `late` are keys of which older documents may be on their way."""
        context, cursor, name = self.context, locks.cursor, self.context.entity.name
        key, texts = context.origin.key, [image.key for image in chosen]
        before_images.revert(cursor, name, locks.tables, key, chosen)
        if not locks.are_alone and (why := locks.broken(key.parse(texts))):
            raise CompensationError(why)
        context.ledger.undo(cursor, {image.key: image.held for image in chosen}, revision)
        parking.undone(cursor, name, texts, revision)
        documents = {text: self.seen[text].body if text in self.seen else None for text in texts}
        sent = set(texts) if self.has_shadow else late
        before_images.note_reverted(cursor, name, [image for image in chosen if image.key in sent], revision, documents)
        self.over += [text for text in texts if text not in sent]
        self.former |= {text: (revision, documents[text]) for text in sent}

    def _send_former(self) -> None:
        """Documents as readers have them, under the revision that has put their rows back."""
        name = self.context.entity.name
        ids = pa.array(self.former, pa.string())
        versions = pa.array([version for version, _ in self.former.values()], pa.int64())
        for sink in self.context.entity.outer_sinks:
            with sink.breaker(self.context.stores):
                sink.restore(self.context.of_sinks, self.former, has_shadow=self.has_shadow)
        crash_point("compensation.sent")
        with self.context.stores.target() as cursor:
            before_images.forget(cursor, name, ids, versions)
            queue_table.delete(cursor, [self.record.id])


@dataclass(frozen=True)
class _LedgerEntry:
    """How the ledger left a key: its number and action in the plan, and who wrote it last."""

    n: int
    action: int
    written: int
    overtaken: bool


def _ledger_entries(key: Key, plan: pa.Table, applied: pa.Table) -> dict[str, _LedgerEntry]:
    """Of the keys (texts) that the ledger has let through."""
    n = applied.column("n").combine_chunks()
    through = plan.take(n)
    columns = (n, through.column("action"), applied.column("written"), applied.column("overtaken"))
    values = zip(*(column.to_pylist() for column in columns), strict=True)
    return {text: _LedgerEntry(*row) for text, row in zip(key.texts(through).to_pylist(), values, strict=True)}


def _with_undone(plan: pa.Table, held: dict[int, int]) -> pa.Table:
    """The plan as it was carried out, for the log; what sinks hold by number."""
    actions = [UNDO if n in held else action for n, action in enumerate(plan.column("action").to_pylist())]
    holds = [held.get(n, was) for n, was in enumerate(plan.column("held").to_pylist())]
    for name, values in (("action", actions), ("held", holds)):
        plan = plan.set_column(plan.column_names.index(name), name, pa.array(values, pa.int16()))
    return plan


def _has_shadow_index(cursor: Cursor, entity: str) -> bool:
    rebuild = under_way(cursor, entity)
    return rebuild is not None and (rebuild.kind, rebuild.state) == ("index", "filling")
