"""Files: what rows name against a listing of the new bucket, each beside its source, and suspects by their bytes."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from sync_pipeline.errors import UnreachableError
from sync_pipeline.model.faults import guarded
from sync_pipeline.model.files import Source
from sync_pipeline.model.findings import Finding, FindingKind
from sync_pipeline.sinks.context import SinkContext
from sync_pipeline.sinks.media.copy import tags_of
from sync_pipeline.sinks.media.declaration import BucketDeclaration
from sync_pipeline.sinks.media.faults import MISSING, code
from sync_pipeline.sinks.media.headers import HEADERS, etag_of, headers_of, metadata_of
from sync_pipeline.sinks.media.ownership import without_marks
from sync_pipeline.stores.stores import Stores

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from sync_pipeline.sinks.media.headers import Answer

_NAMED = """
    SELECT DISTINCT r.target_key, m.source_key, m.source_etag, m.size, m.target_etag, m.sha256
    FROM sync.media_ref r LEFT JOIN sync.media m USING (target_key)
    WHERE (r.entity, r.sink) = (%s, %s) AND r.target_key <> ''
"""
_WITHOUT_OBJECT = """
    SELECT DISTINCT source_key FROM sync.media_ref WHERE (entity, sink) = (%s, %s) AND target_key = '' ORDER BY 1
"""
# those that a killed copier left will be removed as garbage
_OURS = """
    SELECT target_key FROM (TABLE sync.copying UNION ALL SELECT target_key, NULL FROM sync.media) o
    WHERE target_key = ANY(%s)
"""
_FORGOTTEN = "what was copied there is not in the ledger any more"
_COME = "the file is there by now, and the row was written without it"


@dataclass(frozen=True)
class _Copy:
    """What the ledger says of an object that rows name."""

    key: str
    source_key: str
    source_etag: str
    size: int
    etag: str
    sha256: str


def compare_files(context: SinkContext, bucket: BucketDeclaration) -> list[Finding]:
    """Mismatches of the objects that the entity's rows name, and objects we never put there.

    An object whose size and ETag are those of our copy has its bytes; any other is read and hashed. Raises
    UnreachableError when a bucket could not be looked at to its end.
    """
    sink = bucket.id
    listed = without_marks(_listing(context.stores, f"{bucket.prefix}/"), bucket.prefix)
    with context.stores.target() as cursor:
        cursor.execute(_NAMED, (context.entity, bucket.id))
        rows = cursor.fetchall()
        named = {row[0]: _Copy(*row) for row in rows if row[1] is not None}
        forgotten = {key for key, source, *_ in rows if source is None}  # by a repair that was cut off
        cursor.execute(_WITHOUT_OBJECT, (context.entity, bucket.id))
        without = [name for (name,) in cursor.fetchall()]
        cursor.execute(_OURS, (list(listed),))
        ours = {key for (key,) in cursor.fetchall()}
    wanted = named.keys() | forgotten
    found = [Finding(sink, FindingKind.MISSING, key) for key in wanted - listed.keys()]
    found += [Finding(sink, FindingKind.EXTRA, key) for key in listed.keys() - ours - wanted]
    found += [Finding(sink, FindingKind.CORRUPT, key, _FORGOTTEN) for key in forgotten & listed.keys()]
    come = [name for name, source in bucket.sources(context.stores, without).items() if isinstance(source, Source)]
    found += [Finding(sink, FindingKind.STALE, name, _COME) for name in come]
    there = [named[key] for key in sorted(named.keys() & listed.keys())]
    with ThreadPoolExecutor(context.stores.settings.media_workers, "compare") as pool:
        compared = pool.map(lambda copy: _compare_copy(context.stores, sink, copy, listed[copy.key]), there)
        return found + [finding for finding in compared if finding]


def _compare_copy(stores: Stores, sink: str, copy: _Copy, listed: tuple[int, str]) -> Finding | None:
    source = _head(stores.legacy_s3, stores.settings.legacy_bucket.name, copy.source_key)
    if source and etag_of(source) != copy.source_etag.removeprefix("W/"):
        return Finding(sink, FindingKind.STALE, copy.key, f"{copy.source_key} has been overwritten since")
    if not _has_its_bytes(stores, copy, *listed):
        return Finding(sink, FindingKind.CORRUPT, copy.key, f"{copy.size} bytes were copied, other bytes are there")
    target = _head(stores.target_s3, stores.settings.target_bucket.name, copy.key)
    if target is None:
        return Finding(sink, FindingKind.MISSING, copy.key)
    differ = _differing(source, target) if source else []
    if source and not _same_tags(stores, copy, source, target):
        differ.append("tags")
    return Finding(sink, FindingKind.CORRUPT, copy.key, f"{', '.join(differ)} of the source differ") if differ else None


def _differing(source: Answer, target: Answer) -> list[str]:
    """Names of what an object bears beside its bytes, where the two differ."""
    ours, theirs = headers_of(source), headers_of(target)
    differ = [name for name in HEADERS if ours.get(name) != theirs.get(name)]
    return differ if metadata_of(source) == metadata_of(target) else [*differ, "Metadata"]


def _same_tags(stores: Stores, copy: _Copy, source: Answer, target: Answer) -> bool:
    """Asked for only where the headers of both count as many."""
    if not source.get("TagCount"):
        return True
    if source["TagCount"] != target.get("TagCount"):
        return False
    try:
        here = tags_of(stores.target_s3, stores.settings.target_bucket.name, copy.key)
        return here == tags_of(stores.legacy_s3, stores.settings.legacy_bucket.name, copy.source_key)
    except (BotoCoreError, ClientError) as error:
        raise UnreachableError(f"tags of {copy.key} could not be looked at: {error}") from error


def _has_its_bytes(stores: Stores, copy: _Copy, size: int, etag: str) -> bool:
    if not guarded(28):
        return etag == copy.source_etag
    return (size, etag) == (copy.size, copy.etag) or _sha256(stores, copy.key) == copy.sha256


def _head(client: S3Client, bucket: str, key: str) -> Answer | None:
    """An object's headers; None when it is not there."""
    try:
        return client.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if code(error) in MISSING:
            return None
        raise UnreachableError(f"{bucket}: {key} could not be looked at: {error}") from error
    except BotoCoreError as error:
        raise UnreachableError(f"{bucket}: {key} could not be looked at: {error}") from error


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
