"""Whose a prefix of the new bucket is: an object below it bears the ledger's id."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from sync_pipeline.errors import UnreachableError
from sync_pipeline.ledger import claims
from sync_pipeline.model.faults import guarded
from sync_pipeline.model.notices import Notice
from sync_pipeline.model.places import Place
from sync_pipeline.sinks.media.faults import MISSING, code
from sync_pipeline.sinks.ownership import ABOUT, UNMARKED, UNREADABLE, Mark, check_marks, ledger_in, ledger_of
from sync_pipeline.stores.stores import Stores

log = logging.getLogger(__name__)

MARK_OBJECT = ".sync-pipeline-owner"
_REMEDY = "MediaBucket another prefix"
_DENIED = {"403", "AccessDenied", "Forbidden"}
_EXISTS = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
_FIRST_KEYS = 100
Item = TypeVar("Item")


def claim_prefix(stores: Stores, entity: str, place: Place) -> None:
    """Mark a prefix of the new bucket as ours, and record that the entity has it.

    Raises OwnershipError where it, or a prefix around it, belongs to another ledger or entity, UnreachableError.
    """
    prefix = place.name
    if guarded(100):
        marks = prefix_marks(stores, prefix)
        check_marks(stores, entity, marks)
        if marks[-1].ledger is None and not _mark_prefix(stores, prefix, only_if_free=True):
            check_marks(stores, entity, prefix_marks(stores, prefix))  # another one was quicker
    with stores.target() as cursor:
        claims.claim(cursor, entity, place, partial(_is_empty_prefix, stores, prefix))
    stores.claimed.add((entity, prefix))


def take_over_prefix(stores: Stores, prefix: str) -> list[Mark]:
    """Mark a prefix as ours; return the mark that this replaced, if any. Raises UnreachableError."""
    own = prefix_marks(stores, prefix)[-1]
    if own.ledger == ledger_of(stores):
        return []
    if not _mark_prefix(stores, prefix, only_if_free=False):
        raise UnreachableError(f"SYNC_TARGET_S3_BUCKET refuses to mark {own.what}: allow s3:PutObject on it")
    return [own]


def prefix_marks(stores: Stores, prefix: str) -> list[Mark]:
    """The marks of the prefixes around a prefix, from the outermost, and its own last. Raises UnreachableError."""
    parts = prefix.split("/")
    prefixes = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return [Mark(f"prefix {name}/", _read_prefix(stores, name), _REMEDY) for name in prefixes]


def without_marks(listed: Mapping[str, Item], prefix: str) -> dict[str, Item]:
    """Objects of a listing below a prefix that are ours to judge.

    Left out are marks, and what lies below a further mark: a prefix of its own, of another entity or deployment.
    """
    own = f"{prefix}/{MARK_OBJECT}"
    marks = [key for key in listed if key.endswith(f"/{MARK_OBJECT}")]
    inner = tuple(key.removesuffix(MARK_OBJECT) for key in marks if key != own)
    return {key: item for key, item in listed.items() if key != own and not (inner and key.startswith(inner))}


def _is_empty_prefix(stores: Stores, prefix: str) -> bool:
    """Whether nothing but marks lies below a prefix. Raises UnreachableError."""
    try:
        found = stores.target_s3.list_objects_v2(
            Bucket=stores.settings.target_bucket.name, Prefix=f"{prefix}/", MaxKeys=_FIRST_KEYS
        )
    except (BotoCoreError, ClientError) as error:
        raise UnreachableError(f"SYNC_TARGET_S3_BUCKET: {prefix}/ could not be listed: {error}") from error
    listed = {item["Key"]: None for item in found.get("Contents", [])}
    return not without_marks(listed, prefix)


def _read_prefix(stores: Stores, prefix: str) -> str | None:
    """The ledger in a prefix's mark; None where there is none, or none that we may read."""
    key = f"{prefix}/{MARK_OBJECT}"
    try:
        body = stores.target_s3.get_object(Bucket=stores.settings.target_bucket.name, Key=key)["Body"].read()
    except ClientError as error:
        if code(error) in MISSING | _DENIED:
            return None
        raise UnreachableError(f"SYNC_TARGET_S3_BUCKET: {key} could not be read: {error}") from error
    except BotoCoreError as error:
        raise UnreachableError(f"SYNC_TARGET_S3_BUCKET: {key} could not be read: {error}") from error
    try:
        return ledger_in(json.loads(body))
    except ValueError:
        return UNREADABLE


def _mark_prefix(stores: Stores, prefix: str, *, only_if_free: bool) -> bool:
    """Write our mark; False where another one is there already, or where we lack the rights."""
    key, bucket = f"{prefix}/{MARK_OBJECT}", stores.settings.target_bucket.name
    body = json.dumps({"ledger": ledger_of(stores)}).encode()
    condition: Any = {"IfNoneMatch": "*"} if only_if_free else {}
    try:
        stores.target_s3.put_object(Bucket=bucket, Key=key, Body=body, ContentType="application/json", **condition)
    except ClientError as error:
        if code(error) in _EXISTS:
            return False
        if code(error) in _DENIED:
            log.warning("no mark of ownership", extra={"error": f"{bucket}: {key}: {error}"})
            return False
        if only_if_free and code(error) in {"NotImplemented", "501"}:  # a server that knows no conditions
            return _mark_prefix(stores, prefix, only_if_free=False)
        raise UnreachableError(f"SYNC_TARGET_S3_BUCKET: {key} could not be written: {error}") from error
    except BotoCoreError as error:
        raise UnreachableError(f"SYNC_TARGET_S3_BUCKET: {key} could not be written: {error}") from error
    return True


def unmarked_prefix(mark: Mark) -> Iterator[Notice]:
    """What to do for a mark that we could not put."""
    key = f"{mark.what.removeprefix('prefix ')}{MARK_OBJECT}"
    remedy = f"allow s3:GetObject and s3:PutObject on {key}, and start again"
    yield Notice("warning", ABOUT, UNMARKED.format(mark.what), remedy)
