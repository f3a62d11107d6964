"""Whose fault an answer of S3 is: one file's, or the store's. A probe decides, before a store is called down.

The probe is the same kind of request for another key. A 403 for one key, while another one answers, is that key's; a
403 for every key is that of the credentials.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, ParamValidationError

from sync_pipeline.errors import MediaDelayedError, MediaMissingError, MediaRefusedError, UnreachableError
from sync_pipeline.model.faults import guarded

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from sync_pipeline.stores.stores import Stores

MISSING = {"404", "NoSuchKey", "NotFound"}
ARCHIVED = "InvalidObjectState"
LEGACY, TARGET = "SYNC_LEGACY_S3", "SYNC_TARGET_S3"
# answers of a store that is busy, or lost the request on its way, to whatever key
_BUSY = {408, 429}
_CLIENT_ERROR, _SERVER_ERROR = 400, 500
# an answer of the probe counts for so long
_PROBE_SECONDS = 1.0
_BUCKET_SECONDS = 60.0
_PROBED_KEYS = 5
# where requests of ours that only try a bucket put their objects
CHECKS_PREFIX = "sync-pipeline-check"


class SideError(Exception):
    """A request for a file has failed, at the side that `args` names; the cause says how."""


@contextmanager
def at(side: str) -> Iterator[None]:
    """Names the side that a failing request was made to."""
    try:
        yield
    except (BotoCoreError, ClientError, HTTPClientError, OSError) as error:
        raise SideError(side) from error


def code(error: BaseException | None) -> str:
    """S3's word for what went wrong."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def fault_of(stores: Stores, key: str, error: SideError) -> MediaMissingError | MediaRefusedError | MediaDelayedError:
    """Whose fault it is that a file could not be read or put. Raises UnreachableError where it is the store's.

    What the store refuses is the file's at once. What may pass by itself is the file's once it was tried a few times,
    which the caller counts.
    """
    (side,), cause = error.args, error.__cause__
    if code(cause) == ARCHIVED:
        return MediaMissingError(f"{key!r} is archived and cannot be read: restore it")
    if isinstance(cause, ParamValidationError):  # no other try will change that
        return MediaRefusedError(f"{key!r} cannot be put as it is: {' '.join(str(cause).split())}")
    if not guarded(94) or not _answers(stores, side, key):
        raise UnreachableError(f"S3 ({side}_*): file {key!r}: {cause}") from error
    status = cause.response["ResponseMetadata"].get("HTTPStatusCode", 0) if isinstance(cause, ClientError) else 0
    refused = _CLIENT_ERROR <= status < _SERVER_ERROR and status not in _BUSY
    message = f"{side} answers for other files, and for {key!r}: {' '.join(str(cause).split())}"
    return MediaRefusedError(message) if refused else MediaDelayedError(message)


def missing(stores: Stores, key: str) -> MediaMissingError:
    """The legacy bucket has no such file. Raises UnreachableError where the bucket itself is not there."""
    answers = stores.media_answers
    if time.monotonic() - answers.bucket_seen > _BUCKET_SECONDS:
        bucket = stores.settings.legacy_bucket.name
        try:
            stores.legacy_s3.head_bucket(Bucket=bucket)
        except ClientError as error:
            if code(error) in MISSING | {"NoSuchBucket"}:
                raise UnreachableError(f"{LEGACY}_BUCKET: there is no bucket {bucket}") from error
        except (BotoCoreError, HTTPClientError) as error:
            raise UnreachableError(f"{LEGACY}_*: {error}") from error
        answers.bucket_seen = time.monotonic()
    return MediaMissingError(f"the legacy bucket holds no file {key!r}")


def _answers(stores: Stores, side: str, key: str) -> bool:
    """Whether the store answers the same kind of request for another key."""
    answers = stores.media_answers
    with answers.lock:
        at, passed = answers.probed.get(side, (float("-inf"), False))
        if time.monotonic() - at > _PROBE_SECONDS:
            probe = _probe_reading if side == LEGACY else _probe_writing
            try:
                passed = probe(stores, key)
            except (BotoCoreError, ClientError, HTTPClientError):
                passed = False
            answers.probed[side] = time.monotonic(), passed
    return passed


def _probe_reading(stores: Stores, key: str) -> bool:
    client, bucket = stores.legacy_s3, stores.settings.legacy_bucket.name
    good = stores.media_answers.good.get(LEGACY)
    if good and good != key and _passes(lambda: client.head_object(Bucket=bucket, Key=good)):
        return True
    others = [other for other in _listed(client, bucket) if other != key]
    return not others or any(_passes(partial(client.head_object, Bucket=bucket, Key=other)) for other in others)


def _probe_writing(stores: Stores, _: str) -> bool:
    client, bucket, key = stores.target_s3, stores.settings.target_bucket.name, f"{CHECKS_PREFIX}/{uuid.uuid4().hex}"
    if not _passes(lambda: client.put_object(Bucket=bucket, Key=key, Body=b"may be deleted")):
        return False
    _passes(lambda: client.delete_object(Bucket=bucket, Key=key))
    return True


def _listed(client: S3Client, bucket: str) -> list[str]:
    found = client.list_objects_v2(Bucket=bucket, MaxKeys=_PROBED_KEYS)
    return [item["Key"] for item in found.get("Contents", [])]


def _passes(act: Callable[[], object]) -> bool:
    try:
        act()
    except (BotoCoreError, ClientError, HTTPClientError):
        return False
    return True
