"""Documents as readers see them, and former ones put back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson
import pyarrow as pa

from sync_pipeline.errors import UnreachableError
from sync_pipeline.sinks.context import SinkContext
from sync_pipeline.sinks.outer import Seen
from sync_pipeline.sinks.search.declaration import IndexDeclaration
from sync_pipeline.sinks.search.requests import look_up


def documents_of(context: SinkContext, index: IndexDeclaration, ids: Sequence[str]) -> dict[str, Seen]:
    """Return the documents behind the alias, in real time. Raises UnreachableError."""
    found = look_up(context.stores.search, index.alias, ids)
    return {doc["_id"]: Seen(doc["_version"], orjson.dumps(doc["_source"]).decode()) for doc in found if doc["found"]}


def restore(
    context: SinkContext, index: IndexDeclaration, former: Mapping[str, tuple[int, str | None]], *, has_shadow: bool
) -> None:
    """Write documents (version, JSON or None to delete) by id. Raises UnreachableError where one is not taken now."""
    ids = pa.array(former, pa.string())
    versions = pa.array([version for version, _ in former.values()], pa.int64())
    documents = pa.array([document for _, document in former.values()], pa.string())
    context.stores.aliases.check(context.stores.search, index.alias, list(former))
    for alias in (index.next_alias, index.alias) if has_shadow else (index.alias,):
        if index.write(context.stores.search, ids, versions, documents, alias).retriable:
            raise UnreachableError("SYNC_SEARCH_URL: the cluster is busy")
