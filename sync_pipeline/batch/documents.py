"""Documents of a batch: owed in the rows' transaction, sent after it, closed when the cluster has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.db.sql import Cursor
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import IndexFaultError, UnreachableError
from sync_pipeline.ledger import queue_table
from sync_pipeline.ledger.ledger import raise_revision
from sync_pipeline.ledger.rebuilds import under_way
from sync_pipeline.model.faults import crash_point, guarded
from sync_pipeline.model.reasons import Reason
from sync_pipeline.model.rows import Reject
from sync_pipeline.model.steps import BatchStep
from sync_pipeline.model.unforeseen import describe, is_unforeseen
from sync_pipeline.queue import due, parking
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.search.bulk import BulkResult
from sync_pipeline.sinks.search.requests import look_up, reaching
from sync_pipeline.sinks.table import before_images

# the client costs half a second to import
if TYPE_CHECKING:
    from elasticsearch import Elasticsearch


@dataclass
class Operations:
    """Documents to index or delete, with their keys and versions; they are made when they are sent, many at once."""

    keys: pa.Table
    ids: pa.Array
    versions: pa.Array
    contents: pa.Table  # the index's columns; nothing where a document is to be deleted
    indexed: pa.Array  # bool: index it, or delete it
    owed: list[int] = field(default_factory=list)
    revision: int = 0  # the batch's: a document of a lower version is as it was
    has_shadow: bool = False  # a rebuild fills a shadow index, which is sent them first

    @classmethod
    def none(cls, context: EntityContext) -> Operations:
        """Nothing to send."""
        empty = pa.array([], pa.string())
        return cls(context.origin.key.schema.empty_table(), empty, pa.array([], pa.int64()), pa.table({}), empty)

    @classmethod
    def together(cls, batches: list[Operations]) -> Iterator[Operations]:
        """Several batches, in their order, in as few as their columns' types allow; of a key in more, the last."""
        for run in _runs(batches):
            if len(run) == 1:
                yield run[0]
                continue
            keys = pa.concat_tables([batch.keys for batch in run])
            ids, versions, indexed = (
                pa.chunked_array([getattr(batch, part) for batch in run]).combine_chunks()
                for part in ("ids", "versions", "indexed")
            )
            contents = pa.concat_tables([batch.contents for batch in run], promote_options="default")
            owed = [record for batch in run for record in batch.owed]
            whole = cls(keys, ids, versions, contents, indexed, owed, has_shadow=any(batch.has_shadow for batch in run))
            yield replace(whole._take(_last_of_each(ids)), owed=owed, has_shadow=whole.has_shadow)

    def filter(self, mask: pa.Array) -> Operations:
        """Those of a mask."""
        return self._take(pc.indices_nonzero(mask))

    def take(self, rows: list[int]) -> Operations:
        """Some of them, by position."""
        return self._take(pa.array(rows, pa.int64()))

    def _take(self, at: pa.Array) -> Operations:
        parts = (part.take(at) for part in (self.keys, self.ids, self.versions, self.contents, self.indexed))
        return Operations(*parts)

    def documents(self, index: SearchIndex) -> pa.Array:
        """Each document as JSON text; NULL where it is to be deleted."""
        return pc.if_else(self.indexed, index.documents(self.contents), pa.scalar(None, pa.string()))

    def opaque_id(self, entity: str) -> str:
        """By which the cluster's own logs name the request: entity and revisions."""
        found = pc.min_max(self.versions)
        low, high = found["min"].as_py(), found["max"].as_py()
        return f"sync/{entity}/{low}" if low == high else f"sync/{entity}/{low}-{high}"

    def note(self, cursor: Cursor, entity: str, refused: int) -> None:
        """Write down that the cluster has answered their request."""
        revisions = pc.unique(self.versions).to_pylist()
        values = entity, self.opaque_id(entity), revisions, len(self.ids), refused
        columns = "entity, opaque_id, revisions, documents, refused"
        cursor.defer(f"INSERT INTO sync.request ({columns}) VALUES %s", (values,))

    def owe(self, cursor: Cursor, entity: str, revision: int) -> None:
        """Record them as due, claimed by this worker, in the rows' transaction."""
        self.revision = revision
        self.owed, self.has_shadow = due.owe_documents(cursor, entity, self.ids, revision)


def send(
    context: EntityContext,
    operations: Operations,
    pending: Callable[[], set[str]] = set,
    shown: Operations | None = None,
) -> tuple[int, int]:
    """Send and close; gives (sent, left owed). What is not taken stays due, nothing is raised for it.

    `coming` tells whose later documents the caller is to send after these. `shown` are those that readers lack; the
    others go only to the shadow index that a rebuild fills.
    """
    index, total = context.entity.index, len(operations.ids)
    if index is None or not total:
        return 0, 0
    bodies = make(operations, index)
    shown_bodies = bodies if shown is None else make(shown, index)
    shown = operations if shown is None else shown
    crash_point("documents.before")
    try:
        brake = context.stores.settings.fault_rows, context.stores.settings.fault_fraction
        shown_bodies.check(index.alias, brake)
        with context.stores.search_breaker:
            if index.alias not in context.stores.ensured:
                index.open(context.stores, context.entity.name)
            search = context.stores.search.options(opaque_id=operations.opaque_id(context.entity.name))
            _check_alias(context, index, shown)
            # first, so that whoever reads the alias never sees what its next index does not have yet
            missed = _write_shadow(search, index, operations, bodies) if operations.has_shadow else []
            result = index.write(
                search,
                shown.ids,
                shown.versions,
                shown_bodies.documents,
                refusing=index.alias in context.stores.refusing,
                unmade=shown_bodies.faults,
                brake=brake,
            )
        _note_answer(context, index, result)
        crash_point("documents.after")
        foreign = _foreign(context, index, shown, result.conflicts)
    except UnreachableError as error:
        with context.stores.target() as cursor:
            due.postpone(cursor, operations.owed, UnreachableError(str(error)))
            if isinstance(error, IndexFaultError):
                due.owe(cursor, context.entity.name, Reason.DOCUMENTS, error.suspects)
        return 0, total
    crash_point("close.before")
    with context.stores.target() as cursor:
        # lost with the server, it is done again: rows need not wait for this one's turn at the disk
        cursor.defer("SET LOCAL synchronous_commit = off")
        refused = _refused(context, cursor, shown, result)  # locks first, as a batch does
        age = due.age_of(cursor, operations.owed) if missed or result.retriable else None
        _close(context, cursor, operations, pending)
        if missed and under_way(cursor, context.entity.name):
            _again(context, cursor, missed, age, [])
        _again(context, cursor, [shown.ids[n].as_py() for n in result.retriable], age, result.faults)
        _settle(context, cursor, shown, result, refused, foreign)
    crash_point("close.after")
    return total - len(result.retriable) - len(result.rejected), max(len(result.retriable), len(missed))


@dataclass(frozen=True)
class Made:
    """Documents as JSON texts (NULL: to be deleted), and positions of those that could not be made, with the reason."""

    documents: pa.Array
    faults: dict[int, tuple[str, str]] = field(default_factory=dict)

    def check(self, alias: str, brake: tuple[int, float]) -> None:
        """Raise UnreachableError where more than a share could not be made: then no single document is at fault."""
        rows, fraction = brake
        if len(self.faults) > rows and len(self.faults) > fraction * len(self.documents):
            _, message = next(iter(self.faults.values()))
            count = f"{len(self.faults)} of {len(self.documents)}"
            raise UnreachableError(f"{count} documents for {alias} cannot be made, so none is parked: {message}")


def make(operations: Operations, index: SearchIndex) -> Made:
    """Make documents; what nobody foresaw is found by halving, and is the fault of one."""
    try:
        return Made(operations.documents(index))
    except Exception as error:
        if not (is_unforeseen(error) and guarded(95)):
            raise
        total = len(operations.ids)
        if total == 1:
            return Made(pa.nulls(1, pa.string()), {0: (type(error).__name__, describe(error))})
    half = total // 2
    parts = [operations.take([*range(half)]), operations.take([*range(half, total)])]
    first, second = (make(part, index) for part in parts)
    documents = pa.concat_arrays([first.documents.cast(pa.string()), second.documents.cast(pa.string())])
    return Made(documents, first.faults | {half + n: fault for n, fault in second.faults.items()})


def _check_alias(context: EntityContext, index: SearchIndex, operations: Operations) -> None:
    from elasticsearch import ApiError

    with reaching():
        try:
            context.stores.aliases.check(context.stores.search, index.alias, operations.ids.to_pylist())
        except ApiError as error:
            raise UnreachableError(f"SYNC_SEARCH_URL: alias {index.alias} cannot be looked at: {error}") from error


def _note_answer(context: EntityContext, index: SearchIndex, result: BulkResult) -> None:
    """After an answer that was not clean, the next bulk's is read item by item, and the alias is looked at."""
    if result.is_clean:
        context.stores.refusing.discard(index.alias)
    else:
        context.stores.refusing.add(index.alias)
        context.stores.aliases.recheck(index.alias)


def _runs(batches: list[Operations]) -> Iterator[list[Operations]]:
    """Neighbours whose columns are of the same types; a column that holds nothing is of any."""
    run: list[Operations] = []
    types: dict[str, pa.DataType] = {}
    for batch in batches:
        own = {field.name: field.type for field in batch.contents.schema if not pa.types.is_null(field.type)}
        if run and any(types.get(name, kind) != kind for name, kind in own.items()):
            yield run
            run, types = [], {}
        run.append(batch)
        types |= own
    yield run


def _last_of_each(ids: pa.Array) -> pa.Array:
    """Where each id stands last, in order."""
    rows = pa.table({"id": ids, "row": pa.array(range(len(ids)))})
    last = rows.group_by("id").aggregate([("row", "max")]).column("row_max").combine_chunks()
    return last.take(pc.sort_indices(last))


def _write_shadow(search: Elasticsearch, index: SearchIndex, operations: Operations, bodies: Made) -> list[str]:
    """Write the shadow index that a rebuild fills; ids that it could not take now.

    What it refuses for good is found when it is compared with the ledger, before anybody reads it.
    """
    ids, versions, alias = operations.ids, operations.versions, index.next_alias
    result = index.write(search, ids, versions, bodies.documents, alias, unmade=bodies.faults)
    return [operations.ids[n].as_py() for n in result.retriable]


def _refused(context: EntityContext, cursor: Cursor, operations: Operations, result: BulkResult) -> list[Reject]:
    """What the index does not take as it is still. Nothing of a row that was written, or put back, since."""
    if not result.rejected:
        return []
    those = operations.take([*result.rejected])
    context.ledger.hold(cursor, those.keys)
    later = context.origin.key.texts(context.ledger.later_than(cursor, those.keys, those.versions)).to_pylist()
    rejects = [Reject(operations.ids[n].as_py(), BatchStep.DOCUMENT, *why) for n, why in result.rejected.items()]
    return [reject for reject in rejects if reject.key not in later]


def _close(context: EntityContext, cursor: Cursor, operations: Operations, pending: Callable[[], set[str]]) -> None:
    name = context.entity.name
    if operations.has_shadow:
        queue_table.delete(cursor, operations.owed)
    else:  # it may have been on the way when a rebuild began
        queue_table.delete_sent(cursor, operations.owed)
    # a delete's tombstone may be gone by the time a late bulk arrives: what was overtaken is owed again
    later = context.origin.key.texts(
        context.ledger.later_than(cursor, operations.keys, operations.versions)
    ).to_pylist()
    later = later if guarded(24) else []
    due.owe(cursor, name, Reason.DOCUMENTS, sorted(set(later) - pending()) if later else [])


def _settle(
    context: EntityContext,
    cursor: Cursor,
    operations: Operations,
    result: BulkResult,
    rejects: list[Reject],
    foreign: list[str],
) -> None:
    name = context.entity.name
    if len(operations.ids):
        operations.note(cursor, name, len(result.retriable) + len(result.rejected))
    due.owe(cursor, name, Reason.OVERTAKEN, foreign)
    parking.park(cursor, name, rejects, 0, context.stores.settings.retry_limit)
    if context.entity.compensates:
        due.owe(cursor, name, Reason.COMPENSATION, [reject.key for reject in rejects])
        refused = {*result.conflicts, *result.retriable, *result.rejected}
        taken = pa.array([n for n in range(len(operations.ids)) if n not in refused], pa.int64())
        before_images.forget(cursor, name, operations.ids.take(taken), operations.versions.take(taken))


def _again(
    context: EntityContext, cursor: Cursor, texts: list[str], age: due.Age | None, faults: Sequence[str]
) -> None:
    """Owe documents that could not be taken now, and note why."""
    if texts:
        owed = due.owe(cursor, context.entity.name, Reason.DOCUMENTS, texts)
        due.as_old(cursor, owed, age)
        index = context.entity.index
        why = f"{index.alias if index else ''}: {'; '.join(faults)}" if faults else "the cluster is busy"
        due.postpone(cursor, owed, UnreachableError(why))


def _foreign(context: EntityContext, index: SearchIndex, operations: Operations, conflicts: list[int]) -> list[str]:
    """Documents that somebody else has written above the ledger's version, or deleted. Our sequence is raised."""
    if not conflicts:
        return []
    refused = operations.take(conflicts)
    with context.stores.target() as cursor:
        prior = context.ledger.prior(cursor, refused.keys)
    texts = context.origin.key.texts(prior).to_pylist()
    written = dict(zip(texts, prior.column("written").to_pylist(), strict=True))
    found = look_up(context.stores.search, index.alias, list(written), source=False)
    above = {doc["_id"]: doc["_version"] for doc in found if doc.get("_version", 0) > written[doc["_id"]]}
    if above:
        raise_revision(context.stores, max(above.values()))
    sent = zip(refused.ids.to_pylist(), refused.versions.to_pylist(), refused.indexed.to_pylist(), strict=True)
    ours = {text for text, version, indexed in sent if indexed and written.get(text) == version}
    gone = {doc["_id"] for doc in found if not doc.get("found")}
    return sorted(above.keys() | (gone & ours))
