"""Holdings: how much each sink of an entity holds now, counted where that is cheap and estimated where it is not."""

from __future__ import annotations

from dataclasses import dataclass

from sync_pipeline.db.sql import Cursor
from sync_pipeline.entity import Entity
from sync_pipeline.sinks.media import MediaBucket
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.search.requests import reaching
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.stores.stores import Stores

# up to so many rows are counted one by one: some tens of milliseconds
_COUNTED_ROWS = 100_000
# all keys that begin with `prefix/`: the keys' order is that of bytes, in which "0" follows "/"
_OBJECTS = "sync.media WHERE NOT deleting AND target_key >= %s AND target_key < %s"


@dataclass(frozen=True)
class SinkSize:
    """Rows, documents or files, and the bytes they take up."""

    rows: int
    size: int


def sink_sizes(stores: Stores, entity: Entity) -> dict[str, SinkSize]:
    """What each sink holds, by its name in a verdict; what is not made yet is absent. Raises UnreachableError."""
    with stores.target() as cursor:
        found = {"relational": _of_table(cursor, entity.table)}
        if entity.media:
            found["media"] = _of_media(cursor, entity.media)
    if entity.index:
        found["search"] = _of_index(stores, entity.index)
    return {sink: holding for sink, holding in found.items() if holding}


def _of_table(cursor: Cursor, table: RelationalTable) -> SinkSize | None:
    cursor.execute("SELECT pg_total_relation_size(to_regclass(%s))", (table.quoted,))
    size = cursor.fetchone()[0]
    return None if size is None else SinkSize(_rows(cursor, table.quoted), size)


def _of_media(cursor: Cursor, media: MediaBucket) -> SinkSize | None:
    """Files by the ledger. Keys are hashes, so that the first of them are as good a sample of sizes as any."""
    cursor.execute("SELECT to_regclass('sync.media') IS NOT NULL")
    if not cursor.fetchone()[0]:
        return None
    within = cursor.mogrify(_OBJECTS, (f"{media.prefix}/", f"{media.prefix}0")).decode()
    files = _rows(cursor, within)
    cursor.execute(
        "SELECT coalesce(avg(size), 0) FROM"
        f" (SELECT size FROM {within} ORDER BY target_key LIMIT {_COUNTED_ROWS}) sample"
    )
    return SinkSize(files, round(files * cursor.fetchone()[0]))


def _of_index(stores: Stores, index: SearchIndex) -> SinkSize | None:
    with reaching():
        if not stores.search.indices.exists_alias(name=index.alias):
            return None
        count = stores.search.count(index=index.alias)["count"]
        stats = stores.search.indices.stats(index=index.alias, metric="store")
    return SinkSize(count, stats["_all"]["primaries"]["store"]["size_in_bytes"])


def _rows(cursor: Cursor, source: str) -> int:
    """How many rows there are; the planner's estimate, which follows the size on disk, where there are many."""
    cursor.execute(f"EXPLAIN (FORMAT JSON) SELECT FROM {source}")
    estimate = int(cursor.fetchone()[0][0]["Plan"]["Plan Rows"])
    if estimate > _COUNTED_ROWS:
        return estimate
    cursor.execute(f"SELECT count(*) FROM (SELECT FROM {source} LIMIT {10 * _COUNTED_ROWS}) counted")
    return int(cursor.fetchone()[0])
