"""Files copied between buckets, looked at before and proven afterwards."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

from botocore.exceptions import ClientError

from sync_pipeline.errors import (
    MediaMissingError,
    MediaRefusedError,
    MediaUnforeseenError,
    RowRejectedError,
    UnreachableError,
)
from sync_pipeline.model.faults import guarded
from sync_pipeline.model.files import Copied, Source
from sync_pipeline.model.unforeseen import describe, is_unforeseen
from sync_pipeline.sinks.media.faults import (
    LEGACY,
    MISSING,
    TARGET,
    SideError,
    at,
    code,
    fault_of,
    missing,
)
from sync_pipeline.sinks.media.headers import etag_of, headers_of, metadata_of
from sync_pipeline.stores.stores import Stores

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

Item = TypeVar("Item")
Done = TypeVar("Done")
# what a copy is put with, as boto takes it by keyword: headers, tags, and what users noted with the object
Extra = dict[str, Any]
CHANGED = {"412", "PreconditionFailed"}
_UNSUPPORTED = {"NotImplemented", "501", "AccessDenied", "403"}
_LONGEST_KEY = 1_024
_SHOWN = 80
_MOST_PARTS = 10_000
_MEGABYTE = 1 << 20
# a bucket under an object lock takes no part without one, and the client sends none unasked
_PART_CHECKSUM = "CRC32"
_NO_CHECKSUM = ("content-md5", "checksum")


class _Hashing:
    """A body that is hashed as it is read."""

    def __init__(self, body: StreamingBody) -> None:
        self.body = body
        self.sha256 = hashlib.sha256()
        self.size = 0

    def read(self, amount: int | None = None) -> bytes:
        with at(LEGACY):
            part: bytes = self.body.read(amount)
        self.sha256.update(part)
        self.size += len(part)
        return part


def stream(stores: Stores, source: Source, target_key: str) -> Copied:
    """Raises SideError; MediaRefusedError where the file cannot be carried as it is."""
    found = _get(stores, source)
    with closing(found["Body"]):  # a connection whose body is not read to its end is of no more use
        return _carry_over(stores, source, target_key, found)


def _carry_over(stores: Stores, source: Source, target_key: str, found: GetObjectOutputTypeDef) -> Copied:
    extra: Extra = {"Metadata": metadata_of(found), **_carried(source, found)}
    if found.get("TagCount"):
        with at(LEGACY):
            tags = tags_of(stores.legacy_s3, stores.settings.legacy_bucket.name, source.key)
        extra |= {"Tagging": tags} if tags else {}
    length = found.get("ContentLength")
    if length is None:
        raise MediaRefusedError(f"GET of {source.key!r} has no Content-Length, so its copy could not be proven whole")
    if source.size not in (None, length):
        raise SideError(LEGACY) from OSError(f"HEAD promises {source.size} bytes, GET {length}")
    body = _Hashing(found["Body"])
    if length < stores.settings.multipart_bytes:
        kept, etag = _put(stores, target_key, body, extra)
    else:
        kept, etag = _put_in_parts(stores, target_key, body, extra, length)
    if not body.size == length == kept:
        raise SideError(LEGACY) from OSError(f"promised {length} bytes, read {body.size}, kept {kept}")
    return Copied(source, target_key, body.size, body.sha256.hexdigest(), etag)


def _get(stores: Stores, source: Source) -> GetObjectOutputTypeDef:
    """The answer to a GET of the content that was seen."""
    bucket, client = stores.settings.legacy_bucket.name, stores.legacy_s3
    try:
        with at(LEGACY):
            if guarded(30):
                return client.get_object(Bucket=bucket, Key=source.key, IfMatch=source.etag)
            return client.get_object(Bucket=bucket, Key=source.key)
    except SideError as error:
        if code(error.__cause__) not in CHANGED or head(stores, source.key) != source:
            raise
    # a gateway that marks ETags as weak lets no If-Match hold: then the answer's own ETag says what it is of
    with at(LEGACY):
        found = client.get_object(Bucket=bucket, Key=source.key)
    if etag_of(found) != source.etag:
        found["Body"].close()
        raise SideError(LEGACY) from ClientError({"Error": {"Code": "412"}}, "GetObject")
    return found


def _carried(source: Source, found: GetObjectOutputTypeDef) -> dict[str, str]:
    """Headers for the copy. Raises MediaRefusedError for one that no request can bear."""
    headers = headers_of(found)
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable()):
            raise MediaRefusedError(f"{source.key!r} bears {name} {value[:_SHOWN]!r}, which no S3 takes")
    return headers


def _put(stores: Stores, key: str, body: _Hashing, extra: Extra) -> tuple[int, str]:
    """(size, ETag) of an object written at once: the bucket refuses what does not have the MD5 it is sent with."""
    content = body.read()
    md5 = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
    target = stores.settings.target_bucket.name
    with at(TARGET):
        there = stores.target_s3.put_object(Bucket=target, Key=key, Body=content, ContentMD5=md5, **extra)
    return len(content), there["ETag"]


def _put_in_parts(stores: Stores, key: str, body: _Hashing, extra: Extra, length: int) -> tuple[int, str]:
    """(size, ETag) of an object written part by part, looked at afterwards."""
    from boto3.s3.transfer import TransferConfig

    part = part_bytes(length, stores.settings.multipart_bytes)
    config = TransferConfig(multipart_threshold=part, multipart_chunksize=part, max_concurrency=2)
    target = stores.settings.target_bucket.name
    if stores.media_answers.checksums:
        extra = extra | {"ChecksumAlgorithm": _PART_CHECKSUM}
    with at(TARGET):
        try:
            stores.target_s3.upload_fileobj(body, target, key, ExtraArgs=extra, Config=config)  # type: ignore[arg-type]
        except ClientError as error:
            if stores.media_answers.checksums or not any(word in str(error).lower() for word in _NO_CHECKSUM):
                raise
            stores.media_answers.checksums = True  # the next try of this file, and all others, send them
            raise OSError(f"parts are sent with checksums from now on, because of: {error}") from error
        there = stores.target_s3.head_object(Bucket=target, Key=key)
    return there["ContentLength"], there["ETag"]


def part_bytes(length: int, least: int) -> int:
    """Bytes of each part, so that S3's 10,000 parts are enough for an object."""
    return max(least, math.ceil(length / _MOST_PARTS / _MEGABYTE) * _MEGABYTE)


def tags_of(client: S3Client, bucket: str, key: str) -> str:
    """An object's tags, as a copy is put with them; none where the server knows no tags, or may not tell."""
    try:
        found = client.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
    except ClientError as error:
        if code(error) in _UNSUPPORTED:
            return ""
        raise
    return urlencode(sorted((tag["Key"], tag["Value"]) for tag in found))


def head(stores: Stores, key: str) -> Source | RowRejectedError:
    """A legacy object as it is now, or why there is none. Raises UnreachableError."""
    # a client would not even ask, and servers answer anything: it is the row that is at fault, and not the bucket
    if not 1 <= len(key.encode()) <= _LONGEST_KEY:
        shown = key[:_SHOWN]
        return MediaMissingError(f"no file can be called {shown!r}: a key has 1 to {_LONGEST_KEY:,} bytes")
    try:
        with at(LEGACY):
            found = stores.legacy_s3.head_object(Bucket=stores.settings.legacy_bucket.name, Key=key)
    except SideError as error:
        return missing(stores, key) if code(error.__cause__) in MISSING else fault_of(stores, key, error)
    except Exception as error:
        return unforeseen_file(key, error)
    etag = etag_of(found)
    if etag is None:
        return MediaRefusedError(f"{key!r} is answered without an ETag, as directory markers are: no file to copy")
    stores.media_answers.good[LEGACY] = key
    return Source(key, etag, found.get("ContentLength"))


def unforeseen_file(key: str, error: Exception) -> RowRejectedError:
    """An error that nobody foresaw is that of the file that was handled."""
    if not is_unforeseen(error):
        raise error
    return MediaUnforeseenError(f"file {key!r}: {describe(error)}")


def each(
    stores: Stores,
    items: list[Item],
    act: Callable[[Item], Done],
    note: Callable[[list[Done]], None] = lambda _: None,
) -> list[Done]:
    """What `act` gives for each item, side by side; `note` is told of results as they come.

    Raises UnreachableError once those under way have ended: the others are not begun.
    """
    if len(items) == 1:
        outcome = act(items[0])
        note([outcome])
        return [outcome]
    down: list[UnreachableError] = []
    with ThreadPoolExecutor(max(1, min(stores.settings.media_workers, len(items))), "media") as pool:
        futures = [pool.submit(act, item) for item in items]
        pending = set(futures)
        while pending:
            ended, pending = wait(pending, return_when=FIRST_COMPLETED)
            down += [error for future in ended if isinstance(error := _error_of(future), UnreachableError)]
            note([future.result() for future in ended if _error_of(future) is None and not future.cancelled()])
            if down:
                pending = {future for future in pending if not future.cancel()}
    if down:
        raise down[0]
    return [future.result() for future in futures]


def _error_of(future: Future[Done]) -> BaseException | None:
    return None if future.cancelled() else future.exception()
