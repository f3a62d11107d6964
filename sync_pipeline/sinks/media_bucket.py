"""The media sink: files of an entity, copied between buckets by content identity.

The new key contains the source's key and ETag and is never overwritten by other content, so a late copy harms
nobody. Equality is proven by the SHA-256 taken while the bytes pass, never by comparing ETags of two buckets:
a multipart copy's ETag differs from its source's.
"""

from __future__ import annotations

import base64
import hashlib
import posixpath
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, ParamValidationError

from sync_pipeline.errors import MediaMissingError, UnreachableError
from sync_pipeline.faults import guarded
from sync_pipeline.stores import Stores

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MISSING = {"404", "NoSuchKey", "NotFound"}
_CHANGED = {"412", "PreconditionFailed"}
_UNSUPPORTED = {"NotImplemented", "501", "AccessDenied", "403"}
_ARCHIVED = "InvalidObjectState"
_LONGEST_KEY = 1_024
_SHOWN = 80
# what an object is besides its bytes and its own metadata
HEADERS = ("ContentType", "CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage")


@dataclass(frozen=True)
class Source:
    """A legacy object as it is now: its identity is (key, etag)."""

    key: str
    etag: str


@dataclass(frozen=True)
class Copied:
    """An object in the new bucket; size in bytes, sha256 in hex."""

    source: Source
    target_key: str
    size: int
    sha256: str
    target_etag: str


@dataclass(frozen=True)
class MediaBucket:
    """Files named by the adapted frame's `columns` (a key, or a list of keys, in the legacy bucket).

    Each is copied to `{prefix}/{identity}{extension}` in the new bucket, never overwritten; rows and
    documents then name the new key in that column.
    """

    columns: tuple[str, ...]
    prefix: str

    def target_key(self, source: Source) -> str:
        """The new bucket's key of a source's present content."""
        identity = hashlib.sha256(f"{source.key}\0{source.etag}".encode()).hexdigest()[:40]
        extension = posixpath.splitext(source.key)[1]
        return f"{self.prefix}/{identity}{extension if extension.isascii() and len(extension) <= 10 else ''}"

    def sources(self, stores: Stores, keys: Iterable[str]) -> dict[str, Source | MediaMissingError]:
        """Each key's present identity, or why it has none. Raises UnreachableError."""
        return dict(_each(stores, sorted(set(keys)), lambda key: (key, _head(stores, key))))

    def copy(self, stores: Stores, sources: Iterable[Source]) -> list[Copied | Source | MediaMissingError]:
        """Copy each source's content under its target key. Raises UnreachableError.

        What was overwritten meanwhile is given back as it is now: its copy bears another name, which is to be begun.
        """
        return _each(stores, list(sources), lambda source: self._copy_one(stores, source))

    def _copy_one(self, stores: Stores, source: Source) -> Copied | Source | MediaMissingError:
        try:
            return _stream(stores, source, self.target_key(source))
        except ClientError as error:
            if code(error) == _ARCHIVED:
                return MediaMissingError(f"{source.key!r} is archived and cannot be read: restore it")
            if code(error) not in _CHANGED | MISSING:
                raise _unreachable(error) from error
        except ParamValidationError as error:  # what it bears, S3 does not take: no other try will change that
            return MediaMissingError(f"{source.key!r} cannot be put as it is: {' '.join(str(error).split())}")
        except (BotoCoreError, HTTPClientError) as error:
            raise _unreachable(error) from error
        return _head(stores, source.key)


class _Hashing:
    """A body that is hashed as it is read."""

    def __init__(self, body: Any) -> None:
        self.body = body
        self.sha256 = hashlib.sha256()
        self.size = 0

    def read(self, amount: int | None = None) -> bytes:
        part: bytes = self.body.read(amount)
        self.sha256.update(part)
        self.size += len(part)
        return part


def _stream(stores: Stores, source: Source, target_key: str) -> Copied:
    bucket = stores.settings.legacy_bucket.name
    as_it_was: Any = {"IfMatch": source.etag} if guarded(30) else {}
    found: Any = stores.legacy_s3.get_object(Bucket=bucket, Key=source.key, **as_it_was)
    extra: dict[str, Any] = {"Metadata": found.get("Metadata", {})}
    for name in HEADERS:
        if name in found:
            extra[name] = found[name]
    tags = tags_of(stores.legacy_s3, bucket, source.key) if found.get("TagCount") else ""
    if tags:
        extra["Tagging"] = tags
    body = _Hashing(found["Body"])
    small = found["ContentLength"] < stores.settings.multipart_bytes
    kept, etag = (_put if small else _put_in_parts)(stores, target_key, body, extra)
    if not body.size == found["ContentLength"] == kept:
        raise UnreachableError(f"{source.key}: promised {found['ContentLength']} bytes, read {body.size}, kept {kept}")
    return Copied(source, target_key, body.size, body.sha256.hexdigest(), etag)


def _put(stores: Stores, key: str, body: _Hashing, extra: dict[str, Any]) -> tuple[int, str]:
    """(size, ETag) of an object written at once: the bucket refuses what does not have the MD5 it is sent with."""
    content = body.read()
    md5 = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
    target = stores.settings.target_bucket.name
    there = stores.target_s3.put_object(Bucket=target, Key=key, Body=content, ContentMD5=md5, **extra)
    return len(content), there["ETag"]


def _put_in_parts(stores: Stores, key: str, body: _Hashing, extra: dict[str, Any]) -> tuple[int, str]:
    """(size, ETag) of an object written part by part, looked at afterwards."""
    from boto3.s3.transfer import TransferConfig

    part = stores.settings.multipart_bytes
    config = TransferConfig(multipart_threshold=part, multipart_chunksize=part, max_concurrency=2)
    target = stores.settings.target_bucket.name
    stores.target_s3.upload_fileobj(body, target, key, ExtraArgs=extra, Config=config)  # type: ignore[arg-type]
    there = stores.target_s3.head_object(Bucket=target, Key=key)
    return there["ContentLength"], there["ETag"]


def tags_of(client: S3Client, bucket: str, key: str) -> str:
    """An object's tags, as a copy is put with them; none where the server knows no tags, or may not tell."""
    try:
        found = client.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
    except ClientError as error:
        if code(error) in _UNSUPPORTED:
            return ""
        raise
    return urlencode(sorted((tag["Key"], tag["Value"]) for tag in found))


def _head(stores: Stores, key: str) -> Source | MediaMissingError:
    # a client would not even ask, and servers answer anything: it is the row that is at fault, and not the bucket
    if not 1 <= len(key.encode()) <= _LONGEST_KEY:
        return MediaMissingError(f"no file can be called {key[:_SHOWN]!r}: a key has 1 to {_LONGEST_KEY:,} bytes")
    try:
        found = stores.legacy_s3.head_object(Bucket=stores.settings.legacy_bucket.name, Key=key)
    except ClientError as error:
        if code(error) in MISSING:
            return MediaMissingError(f"the legacy bucket holds no file {key!r}")
        raise _unreachable(error) from error
    except (BotoCoreError, HTTPClientError) as error:
        raise _unreachable(error) from error
    return Source(key, found["ETag"])


def _each(stores: Stores, items: list[Any], act: Any) -> list[Any]:
    if len(items) <= 1:
        return [act(item) for item in items]
    with ThreadPoolExecutor(min(stores.settings.media_workers, len(items)), "media") as pool:
        return list(pool.map(act, items))


def code(error: ClientError) -> str:
    """S3's word for what went wrong."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _unreachable(error: Exception) -> UnreachableError:
    return UnreachableError(f"S3 (SYNC_LEGACY_S3_*, SYNC_TARGET_S3_*): {error}")
