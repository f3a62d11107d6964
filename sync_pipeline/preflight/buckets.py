"""The buckets: may we read the legacy one, and list, write and delete in the new one?"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

from botocore.exceptions import BotoCoreError, ClientError

from sync_pipeline.errors import UnreachableError
from sync_pipeline.model.notices import Notice
from sync_pipeline.sinks.media.faults import CHECKS_PREFIX
from sync_pipeline.sinks.media.headers import NOT_CARRIED
from sync_pipeline.stores.stores import Stores

LEGACY, TARGET = "legacy bucket", "target bucket"
_NOT_CARRIED = ", ".join(NOT_CARRIED)
_NO_BUCKET = {"NoSuchBucket", "404", "NotFound"}
_DENIED = {"AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch"}


def check_legacy_bucket(stores: Stores) -> Iterator[Notice]:
    """Lists, and reads the first byte of what is listed first; writes nothing."""
    client, bucket = stores.legacy_s3, stores.settings.legacy_bucket.name
    keys: list[str] = []

    def listing() -> None:
        listed = client.list_objects_v2(Bucket=bucket, MaxKeys=1)
        keys.extend(item["Key"] for item in listed.get("Contents", []))

    denied = _tried(LEGACY, bucket, "s3:ListBucket", listing)
    if denied is None and keys:
        denied = _tried(LEGACY, bucket, "s3:GetObject", lambda: client.head_object(Bucket=bucket, Key=keys[0]))
    yield denied or Notice("ok", LEGACY, f"{bucket} can be listed and read")
    yield Notice("ok", LEGACY, f"a file goes over with its headers, metadata and tags, and without {_NOT_CARRIED}")


def check_target_bucket(stores: Stores) -> Iterator[Notice]:
    """Lists, writes an object of its own and deletes it again."""
    client, bucket = stores.target_s3, stores.settings.target_bucket.name
    key = f"{CHECKS_PREFIX}/{uuid.uuid4().hex}"
    steps: tuple[tuple[str, Callable[[], object]], ...] = (
        ("s3:ListBucket", lambda: client.list_objects_v2(Bucket=bucket, MaxKeys=1)),
        ("s3:PutObject", lambda: client.put_object(Bucket=bucket, Key=key, Body=b"may be deleted")),
        ("s3:GetObject", lambda: client.head_object(Bucket=bucket, Key=key)),
        ("s3:DeleteObject", lambda: client.delete_object(Bucket=bucket, Key=key)),
    )
    denied = (_tried(TARGET, bucket, permission, act) for permission, act in steps)
    first = next((notice for notice in denied if notice), None)
    yield first or Notice("ok", TARGET, f"{bucket} can be listed, written, read and deleted from")


def _tried(about: str, bucket: str, permission: str, act: Callable[[], object]) -> Notice | None:
    """What is wrong with an act, if anything. Raises UnreachableError when the store does not answer."""
    try:
        act()
    except ClientError as error:
        return _refusal(about, bucket, permission, error)
    except BotoCoreError as error:
        setting = "SYNC_LEGACY_S3_ENDPOINT" if about == LEGACY else "SYNC_TARGET_S3_ENDPOINT"
        raise UnreachableError(f"{setting}: {error}") from error
    return None


def _refusal(about: str, bucket: str, permission: str, error: ClientError) -> Notice:
    code = str(error.response.get("Error", {}).get("Code", ""))
    setting = "SYNC_LEGACY_S3_BUCKET" if about == LEGACY else "SYNC_TARGET_S3_BUCKET"
    if code in _NO_BUCKET:
        return Notice("error", about, f"there is no bucket {bucket}", f"make it, or mend {setting}")
    if code in _DENIED:
        by = setting.replace("_BUCKET", "_ACCESS_KEY_ID")
        remedy = f"allow {permission} on it to the key of {by}, or of AWS_ACCESS_KEY_ID where that is not set"
        return Notice("error", about, f"{bucket} refuses {permission} ({code})", remedy)
    return Notice("error", about, f"{bucket}: {permission} failed: {error}")
