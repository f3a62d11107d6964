"""Files: what rows name against a listing of the new bucket, and suspects by their bytes."""

from __future__ import annotations

import hashlib

from botocore.exceptions import BotoCoreError, ClientError

from sync_pipeline.errors import UnreachableError
from sync_pipeline.lane import Lane
from sync_pipeline.reconcile.verdict import Finding
from sync_pipeline.sinks.media_bucket import MediaBucket
from sync_pipeline.stores import Stores

_NAMED = """
    SELECT DISTINCT m.target_key, m.size, m.target_etag, m.sha256
    FROM sync.media_ref r JOIN sync.media m USING (target_key)
    WHERE r.entity = %s
"""


def compare_files(lane: Lane, sink: MediaBucket) -> list[Finding]:
    """Mismatches of the objects that the entity's rows name, and objects we never put there.

    An object whose size and ETag are those of our copy is taken as whole; any other is read and hashed.
    Raises UnreachableError when the bucket cannot be listed to its end.
    """
    listed = _listing(lane.stores, f"{sink.prefix}/")
    with lane.stores.target() as cursor:
        cursor.execute(_NAMED, (lane.entity.name,))
        named = {key: (size, etag, sha256) for key, size, etag, sha256 in cursor.fetchall()}
        cursor.execute("SELECT target_key FROM sync.media WHERE target_key = ANY(%s)", (list(listed),))
        ours = {key for (key,) in cursor.fetchall()}
    found = [Finding("media", "missing", key) for key in named.keys() - listed.keys()]
    found += [Finding("media", "extra", key) for key in listed.keys() - ours - named.keys()]
    for key in named.keys() & listed.keys():
        size, etag, sha256 = named[key]
        if listed[key] != (size, etag) and _sha256(lane.stores, key) != sha256:
            found.append(Finding("media", "corrupt", key, f"{size} bytes were copied, other bytes are there"))
    return found


def _listing(stores: Stores, prefix: str) -> dict[str, tuple[int, str]]:
    pages = stores.target_s3.get_paginator("list_objects_v2")
    try:
        return {
            item["Key"]: (item["Size"], item["ETag"])
            for page in pages.paginate(Bucket=stores.settings.target_bucket.name, Prefix=prefix)
            for item in page.get("Contents", [])
        }
    except (BotoCoreError, ClientError) as error:
        raise UnreachableError(f"SYNC_TARGET_S3_BUCKET could not be listed to its end: {error}") from error


def _sha256(stores: Stores, key: str) -> str:
    digest = hashlib.sha256()
    try:
        body = stores.target_s3.get_object(Bucket=stores.settings.target_bucket.name, Key=key)["Body"]
        for part in body.iter_chunks(1 << 20):
            digest.update(part)
    except (BotoCoreError, ClientError) as error:
        raise UnreachableError(f"SYNC_TARGET_S3_BUCKET: {key} could not be read: {error}") from error
    return digest.hexdigest()
