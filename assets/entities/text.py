"""An article of the monolith: a catalogue row, its pictures, and a search document once published."""

from __future__ import annotations

import pandas as pd

from assets.entities._content import COMMENTS, TABLES, address, query, whole_number
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import Monthly
from sync_pipeline.sinks.media import MediaBucket
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.table import RelationalTable


def adapt(legacy: pd.DataFrame) -> dict[str, pd.Series]:
    """Legacy columns in, read-side columns out."""
    return {
        "id": legacy["id"],
        "header": legacy["title"],
        "body": legacy["body"],
        "author": legacy["author"],
        "address": address(legacy),
        "tags": legacy["tags"],
        "reading_seconds": whole_number(legacy["duration"]),
        "is_public": legacy["status"].eq("published"),
        "price": legacy["price"],
        "rating": legacy["rating"],
        "attrs": legacy["attrs"],
        "cover": legacy["cover"],
        "files": legacy["files"],
        "version": legacy["version"],
        "created_at": legacy["created_at"],
        "updated_at": legacy["updated_at"],
    }


entity = Entity(
    name="text",
    owner="team:catalogue",
    description="An article of the monolith: a catalogue row, its pictures, and a search document once published.",
    origin=LegacyQuery(query("text"), key=("id",)),
    tables=TABLES,
    adapt=adapt,
    sinks=(
        MediaBucket(columns=("cover", "files"), prefix="text"),
        RelationalTable(
            "catalog.text",
            key=("id",),
            columns={
                "id": "bigint",
                "header": "text",
                "body": "text",
                "author": "text",
                "address": "jsonb",
                "tags": "text[] not null",
                "reading_seconds": "bigint",
                "is_public": "boolean not null",
                "price": "numeric",
                "rating": "double precision",
                "attrs": "jsonb",
                "cover": "text[] not null",
                "files": "text[] not null",
                "version": "integer not null",
                "created_at": "timestamptz",
                "updated_at": "timestamptz",
            },
        ),
        SearchIndex(
            "text",
            where="is_public",
            json_fields=frozenset({"attrs"}),
            fields={
                "id": {"type": "long"},
                "header": {"type": "text"},
                "body": {"type": "text"},
                "author": {"type": "keyword"},
                "address": {"type": "object"},
                "tags": {"type": "keyword"},
                "reading_seconds": {"type": "long"},
                "rating": {"type": "double"},
                "attrs": {"type": "object", "enabled": False},
                "cover": {"type": "keyword", "index": False},
                "updated_at": {"type": "date"},
            },
        ),
    ),
    partitions=Monthly("created_at", start="2019-01"),
    comments=COMMENTS | {"reading_seconds": "How long it takes to read."},
)
