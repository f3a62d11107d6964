"""The ids of all documents of an index."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sync_pipeline.errors import UnreachableError
from sync_pipeline.sinks.search.requests import reaching

if TYPE_CHECKING:
    from elasticsearch import Elasticsearch

_WALK = 5_000


def all_ids(client: Elasticsearch, index: str) -> Iterator[list[str]]:
    """Ids of all documents of an index or alias, page by page. Refreshes once.

    Raises UnreachableError where it could not be walked to its end: the shards that are left would look like all.
    """
    with reaching():
        client.indices.refresh(index=index)
        pit = client.open_point_in_time(index=index, keep_alive="2m")["id"]
    try:
        after: list[Any] | None = None
        while True:
            hits = _hits(client, pit, after)
            if not hits:
                return
            yield [hit["_id"] for hit in hits]
            after = hits[-1]["sort"]
    finally:
        with reaching():
            client.options(ignore_status=404).close_point_in_time(id=pit)


def _hits(client: Elasticsearch, pit: str, after: list[Any] | None) -> list[dict[str, Any]]:
    from elasticsearch import ApiError

    try:
        with reaching():
            answer = client.search(
                pit={"id": pit, "keep_alive": "2m"},
                size=_WALK,
                sort=["_shard_doc"],
                source=False,
                track_total_hits=False,
                search_after=after,
                allow_partial_search_results=False,
            )
    except ApiError as error:
        raise UnreachableError(f"SYNC_SEARCH_URL: the index could not be walked to its end: {error}") from error
    hits: list[dict[str, Any]] = answer["hits"]["hits"]
    return hits
