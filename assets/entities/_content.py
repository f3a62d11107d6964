"""What text, video and audio share: all three live in the monolith's table `content`."""

from __future__ import annotations

from functools import reduce

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.sources.table import Table

ADDRESS = ["country", "city", "street", "zip"]

TABLES = (
    Table("content", key=("id",), stamp="updated_at"),
    Table("media_files", key=("content_id",), stamp="updated_at"),
)

COMMENTS = {
    "address": "Country, city, street and zip; NULL where none of them is known.",
    "is_public": "Whether readers see it: true once it is published.",
    "attrs": "What the monolith noted beside its columns, as it is.",
    "cover": "Keys in the new bucket: one at most.",
    "files": "Keys in the new bucket, in the order in which they were added.",
    "version": "Counts the edits in the monolith.",
}


def query(kind: str) -> str:
    """The monolith's rows of one kind, with author, tags and files folded in."""
    return f"""
        SELECT c.id, c.title, c.body, c.country, c.city, c.street, c.zip, c.status, c.price, c.rating,
               c.attrs, c.attrs ->> 'duration' AS duration, c.version, c.created_at, c.updated_at,
               a.name AS author,
               ARRAY(SELECT t.tag FROM content_tags t WHERE t.content_id = c.id
                     ORDER BY t.tag COLLATE "C") AS tags,
               ARRAY(SELECT m.bucket_key FROM media_files m WHERE m.content_id = c.id
                     AND m.kind = 'cover' ORDER BY m.id LIMIT 1) AS cover,
               ARRAY(SELECT m.bucket_key FROM media_files m WHERE m.content_id = c.id
                     AND m.kind <> 'cover' ORDER BY m.id) AS files,
               (SELECT max(m.updated_at) FROM media_files m WHERE m.content_id = c.id) AS files_changed_at
        FROM content c LEFT JOIN authors a ON a.id = c.author_id
        WHERE c.kind = '{kind}' AND c.deleted_at IS NULL"""


def address(legacy: pd.DataFrame) -> pd.Series:
    """The flat address columns as one structure; NULL where all of them are."""
    parts = [pa.array(part) for part in (legacy["country"], legacy["city"], legacy["street"], legacy["zip"])]
    known = reduce(pc.or_, [part.is_valid() for part in parts])
    struct = pc.make_struct(*parts, field_names=ADDRESS)
    known_or_null = pc.if_else(known, struct, pa.scalar(None, struct.type))
    return pd.Series(pd.arrays.ArrowExtensionArray(known_or_null), index=legacy.index)


def whole_number(text: pd.Series) -> pd.Series:
    """Text to int64; raises for anything that is not a whole number."""
    return text.astype(pd.ArrowDtype(pa.int64()))
