"""The media sink: files of an entity, copied between buckets by content identity."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MediaBucket:
    """Files named by the adapted frame's `columns` (a key, or a list of keys, in the legacy bucket).

    Each is copied to `{prefix}/{identity}{extension}` in the new bucket, never overwritten; rows and documents
    then name the new key in that column.
    """

    columns: tuple[str, ...]
    prefix: str
