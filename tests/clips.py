"""Clips: a small entity with a table, an index and files, for faults of single rows, files and documents."""

import pandas as pd

from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.sinks.media import MediaBucket
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.table import Table

MONOLITH = """
    CREATE TABLE clips (id bigint PRIMARY KEY, title text, slug text, body text, file text,
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE INDEX ON clips (updated_at);
    GRANT SELECT ON clips TO sync_reader;
"""
COLUMNS = {"id": "bigint", "title": "text", "slug": "text", "body": "text", "file": "text"}
FIELDS = {"id": {"type": "long"}, "title": {"type": "keyword"}, "body": {"type": "text", "index": False}}


def adapt(legacy: pd.DataFrame) -> dict[str, pd.Series]:
    return {column: legacy[column] for column in COLUMNS}


def clip(*, adapt=adapt, on_refused="forward", fields=FIELDS, media=True) -> Entity:
    sinks = (RelationalTable("catalog.clip", key=("id",), columns=COLUMNS), SearchIndex("clip", fields=fields))
    return Entity(
        name="clip",
        owner="team:tests",
        on_refused=on_refused,
        origin=LegacyQuery("SELECT id, title, slug, body, file FROM clips", key=("id",)),
        tables=(Table("clips", key=("id",), stamp="updated_at"),),
        adapt=adapt,
        sinks=(*sinks, MediaBucket(columns=("file",), prefix="clip")) if media else sinks,
        partitions=KeyRanges(2),
    )


def emptied(world) -> None:
    """Take away all that a scene has left."""
    world.legacy("TRUNCATE clips")
    world.target("TRUNCATE catalog.clip, sync.due, sync.ledger_clip, sync.media, sync.media_ref, sync.copying")
    world.document("POST", "clip/_refresh")
    for hit in world.document("GET", "clip/_search?size=1000")["hits"]["hits"]:
        world.document("DELETE", f"clip/_doc/{hit['_id']}")
    for bucket in (world.legacy_bucket, world.target_bucket):
        for found in world.client.list_objects_v2(Bucket=bucket).get("Contents", []):
            world.client.delete_object(Bucket=bucket, Key=found["Key"])
