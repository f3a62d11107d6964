"""The recovery of an index after the new side has lost commits: versions of documents against the ledger, page by page.

Documents of lost transactions bear versions that the ledger has not given, or does not know.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from sync_pipeline.db.columns import DIGEST
from sync_pipeline.errors import UnreachableError
from sync_pipeline.ledger.ledger import raise_revision
from sync_pipeline.sinks.context import SinkContext
from sync_pipeline.sinks.search.declaration import IndexDeclaration
from sync_pipeline.sinks.search.requests import look_up, reaching
from sync_pipeline.sinks.sink import PartPage

_HITS = 5_000
_IDS = 1_000


def compare_index(context: SinkContext, index: IndexDeclaration, position: list[str] | None, alias: str) -> PartPage:
    """Find documents that the ledger does not know, or that bear a later version than it has given."""
    hits = _hits(context, position, alias)
    versions = {hit["_id"]: int(hit["_version"]) for hit in hits}
    keys, _ = context.key.parse_known(list(versions))  # what is no key was never ours
    texts = context.key.texts(keys)
    staged = keys.append_column(DIGEST, pa.array([versions[text] for text in texts.to_pylist()], pa.int64()))
    is_held = f"l.held & {context.bits[index.id]} <> 0"
    with context.stores.target() as cursor:
        unknown = context.ledger.where(cursor, staged, f"l.held IS NULL OR NOT {is_held} OR l.written < p.{DIGEST}")
        cursor.execute("SELECT last_value FROM sync.revision")
        is_above = max(versions.values(), default=0) > cursor.fetchone()[0]
    if is_above:
        raise_revision(context.stores, max(versions.values()))
    return PartPage([str(hits[-1]["sort"][0])] if len(hits) == _HITS else None, len(hits), unknown)


def _hits(context: SinkContext, position: list[str] | None, alias: str) -> list[dict[str, Any]]:
    """The next documents in the order in which they were last written; one that is written meanwhile comes later."""
    from elasticsearch import ApiError, NotFoundError

    search = context.stores.search
    with reaching():
        try:
            if position is None:
                search.indices.refresh(index=alias)
            answer = search.search(
                index=alias,
                size=_HITS,
                query={"range": {"_seq_no": {"gte": int(position[0] if position else "0")}}},
                sort=[{"_seq_no": "asc"}],
                version=True,
                source=False,
                track_total_hits=False,
                allow_partial_search_results=False,
            )
        except NotFoundError:
            return []  # none is filled, or it is made anew: what it lacks is found from the ledger
        except ApiError as error:
            raise UnreachableError(f"SYNC_SEARCH_URL: {alias} could not be walked to its end: {error}") from error
    return list(answer["hits"]["hits"])


def compare_ledger(context: SinkContext, index: IndexDeclaration, position: list[str] | None) -> PartPage:
    """Find documents that the ledger counts on and the index does not hold, or holds as they were before."""
    key, ledger = context.key, context.ledger
    with context.stores.target() as cursor:
        held, following = ledger.page(cursor, f"l.held & {context.bits[index.id]} <> 0", position, _IDS)
    texts, written = key.texts(held).to_pylist(), held.column("written").to_pylist()
    found = look_up(context.stores.search, index.alias, texts, source=False)
    there = {doc["_id"]: doc.get("_version") for doc in found}
    lacking = [there.get(text) != version for text, version in zip(texts, written, strict=True)]
    staged = held.rename_columns([*key.columns, DIGEST]).filter(pa.array(lacking, pa.bool_()))
    with context.stores.target() as cursor:
        keys = ledger.where(cursor, staged, f"l.written = p.{DIGEST}")
    return PartPage(following, held.num_rows, keys)
