"""Sends documents to the index behind an alias, and to its shadow while a rebuild fills one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.errors import IndexFaultError, UnreachableError
from sync_pipeline.model.faults import guarded
from sync_pipeline.model.unforeseen import describe, is_unforeseen
from sync_pipeline.sinks.context import SinkContext
from sync_pipeline.sinks.operations import Operations, Sent
from sync_pipeline.sinks.overwritten import above_ledger, versions_of
from sync_pipeline.sinks.search.bulk import Brake, BulkResult
from sync_pipeline.sinks.search.declaration import IndexDeclaration
from sync_pipeline.sinks.search.requests import look_up, reaching

# the client costs half a second to import
if TYPE_CHECKING:
    from elasticsearch import Elasticsearch


@dataclass(frozen=True)
class Made:
    """Documents as JSON texts (NULL: to be deleted), and positions of those that could not be made, with the reason."""

    documents: pa.Array
    faults: Mapping[int, tuple[str, str]] = field(default_factory=dict)

    def check(self, alias: str, brake: Brake) -> None:
        """Raise IndexFaultError where more than a share could not be made: then no single document is at fault."""
        rows, fraction = brake
        if len(self.faults) > rows and len(self.faults) > fraction * len(self.documents):
            _, message = next(iter(self.faults.values()))
            count = f"{len(self.faults)} of {len(self.documents)}"
            raise IndexFaultError(f"{count} documents for {alias} cannot be made, so none is parked: {message}")


def make(operations: Operations, index: IndexDeclaration) -> Made:
    """Make documents; an unforeseen error is found by halving, and is the fault of one."""
    try:
        texts = index.documents(operations.contents)
        return Made(pc.if_else(operations.written, texts, pa.scalar(None, pa.string())))
    except Exception as error:
        if not (is_unforeseen(error) and guarded(95)):
            raise
        total = len(operations)
        if total == 1:
            return Made(pa.nulls(1, pa.string()), {0: (type(error).__name__, describe(error))})
    half = total // 2
    parts = [operations.take([*range(half)]), operations.take([*range(half, total)])]
    first, second = (make(part, index) for part in parts)
    documents = pa.concat_arrays([first.documents.cast(pa.string()), second.documents.cast(pa.string())])
    return Made(documents, {**first.faults, **{half + n: fault for n, fault in second.faults.items()}})


def send(context: SinkContext, index: IndexDeclaration, operations: Operations, shown: Operations, shadow: str) -> Sent:
    """Send `shown` to the alias; before that, all operations to the shadow index, where there is one.

    So readers of the alias never see what its next index does not have yet.
    """
    stores = context.stores
    brake = stores.settings.fault_rows, stores.settings.fault_fraction
    made = make(operations, index)
    shown_made = made if shown is operations else make(shown, index)
    shown_made.check(index.alias, brake)
    search = stores.search.options(opaque_id=operations.request_id(context.entity, index.label))
    _check_alias(context, index, shown)
    missed = _write_shadow(search, index, operations, made) if shadow else []
    result = index.write(
        search,
        shown.ids,
        shown.versions,
        shown_made.documents,
        refusing=index.alias in stores.refusing,
        unmade=shown_made.faults,
        brake=brake,
    )
    _note_answer(context, index, result)
    overwritten = _overwritten(context, index, shown, result.conflicts)
    return Sent(result.retriable, result.rejected, result.conflicts, overwritten, missed, result.faults)


def _check_alias(context: SinkContext, index: IndexDeclaration, operations: Operations) -> None:
    from elasticsearch import ApiError

    with reaching():
        try:
            context.stores.aliases.check(context.stores.search, index.alias, operations.ids.to_pylist())
        except ApiError as error:
            raise UnreachableError(f"SYNC_SEARCH_URL: alias {index.alias} cannot be looked at: {error}") from error


def _note_answer(context: SinkContext, index: IndexDeclaration, result: BulkResult) -> None:
    """After an answer that was not clean, the next bulk's is read item by item, and the alias is looked at."""
    if result.is_clean:
        context.stores.refusing.discard(index.alias)
    else:
        context.stores.refusing.add(index.alias)
        context.stores.aliases.recheck(index.alias)


def _write_shadow(search: Elasticsearch, index: IndexDeclaration, operations: Operations, made: Made) -> list[int]:
    """Write the shadow index that a rebuild fills; positions of what it could not take now.

    What it refuses for good is found when it is compared with the ledger, before anybody reads it.
    """
    ids, versions, alias = operations.ids, operations.versions, index.next_alias
    return index.write(search, ids, versions, made.documents, alias, unmade=made.faults).retriable


def _overwritten(
    context: SinkContext, index: IndexDeclaration, operations: Operations, conflicts: list[int]
) -> list[str]:
    """Documents that another program has written above the ledger's version, or deleted. Our sequence is raised."""
    if not conflicts:
        return []
    refused = operations.take(conflicts)
    written = versions_of(context, refused.keys)
    found = look_up(context.stores.search, index.alias, list(written), source=False)
    above = above_ledger(context, written, {doc["_id"]: doc.get("_version", 0) for doc in found})
    sent = zip(refused.ids.to_pylist(), refused.versions.to_pylist(), refused.written.to_pylist(), strict=True)
    ours = {text for text, version, is_written in sent if is_written and written.get(text) == version}
    gone = {doc["_id"] for doc in found if not doc.get("found")}
    return sorted(above | (gone & ours))
