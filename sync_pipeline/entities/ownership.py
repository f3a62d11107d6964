"""Ownership: marks on what we own outside the ledger, so that two deployments never write to one index or prefix.

An index bears the ledger's id in its mapping's `_meta`, a prefix of the new bucket in an object of its own. Both are
read when an entity is opened, not with each batch. Who finds another ledger's id stops with both names. A mark that
we lack the rights to put is missed by `sync-pipeline check`, and stops nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from sync_pipeline.db.sql import Cursor
from sync_pipeline.errors import OwnershipError, UnreachableError
from sync_pipeline.ledger import claims
from sync_pipeline.ledger.identity import read_ledger_id
from sync_pipeline.model.faults import guarded
from sync_pipeline.sinks.media.faults import MISSING, code
from sync_pipeline.sinks.search.requests import reaching
from sync_pipeline.stores.stores import Stores

if TYPE_CHECKING:
    from sync_pipeline.entity import Entity
    from sync_pipeline.sinks.media import MediaBucket

log = logging.getLogger(__name__)

MARK_OBJECT = ".sync-pipeline-owner"
_META = "sync_pipeline"
_DENIED = {"403", "AccessDenied", "Forbidden"}
_EXISTS = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
_UNREADABLE = "unreadable"
_FIRST_KEYS = 100
Item = TypeVar("Item")


@dataclass(frozen=True)
class Mark:
    """What bears a mark (`index text-000001`), and the id of the ledger in it; None where there is no mark."""

    what: str
    ledger: str | None


def ledger_of(stores: Stores) -> str | None:
    """The id of our ledger as it is now: it may have been dropped and made anew. Raises UnreachableError."""
    with stores.target_at_once() as cursor:
        return read_ledger_id(cursor)


def index_meta(stores: Stores, entity: Entity) -> dict[str, Any]:
    """The `_meta` of an index that is made for an entity. Raises UnreachableError."""
    return {_META: {"ledger": ledger_of(stores), "entity": entity.name}}


def claim_table(cursor: Cursor, entity: Entity) -> None:
    """Record that the table is the entity's. Raises OwnershipError where another entity of this ledger has it."""

    def is_empty() -> bool:
        cursor.execute(f"SELECT NOT EXISTS (SELECT FROM {entity.table.quoted})")
        return bool(cursor.fetchone()[0])

    claims.claim(cursor, entity.name, "table", entity.table.name, is_empty)


def claim_index(stores: Stores, entity: Entity) -> None:
    """Mark the indices behind the entity's alias as ours, and record that it has the alias.

    Raises OwnershipError where one belongs to another ledger or entity, UnreachableError.
    """
    marks = index_marks(stores, entity)
    if guarded(99):
        _must_be_ours(stores, entity.name, marks)
    if entity.index and marks:
        _record_alias(stores, entity.name, entity.index.alias)
    for mark in marks:
        if mark.ledger is None and guarded(99):
            _mark_index(stores, entity, mark.what.removeprefix("index "))


def claim_prefix(stores: Stores, sink: MediaBucket, entity: str) -> None:
    """Mark a prefix of the new bucket as ours, and record that the entity has it.

    Raises OwnershipError where it, or a prefix around it, belongs to another ledger or entity, UnreachableError.
    """
    prefix = sink.prefix
    if guarded(100):
        marks = prefix_marks(stores, prefix)
        _must_be_ours(stores, entity, marks)
        if marks[-1].ledger is None and not _mark_prefix(stores, prefix, only_if_free=True):
            _must_be_ours(stores, entity, prefix_marks(stores, prefix))  # another one was quicker
    with stores.target() as cursor:
        is_empty = partial(_is_empty_prefix, stores, prefix)
        claims.claim(cursor, entity, "prefix", prefix, is_empty, shared=sink.shared)
    stores.claimed.add((entity, prefix))


def _record_alias(stores: Stores, entity: str, alias: str) -> None:
    from elasticsearch import ApiError

    def is_empty() -> bool:
        with reaching():
            try:
                stores.search.indices.refresh(index=alias)
                return not stores.search.count(index=alias, terminate_after=1)["count"]
            except ApiError as error:  # a closed index, for example: the next opening looks again
                raise UnreachableError(f"SYNC_SEARCH_URL: {alias} could not be looked at: {error}") from error

    with stores.target() as cursor:
        claims.claim(cursor, entity, "index", alias, is_empty)


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


def take_over(stores: Stores, entity: Entity) -> list[Mark]:
    """Mark the entity's indices and prefix as ours, also where they are another ledger's; return what this replaced.

    Table, alias and prefix are the entity's from now on, with all that lies there. Raises UnreachableError where a mark
    cannot be read or written.
    """
    claimed = _take_over_claims(stores, entity)
    ours = ledger_of(stores)
    replaced = [mark for mark in index_marks(stores, entity) if mark.ledger != ours]
    for mark in replaced:
        if not _mark_index(stores, entity, mark.what.removeprefix("index ")):
            raise UnreachableError(f"SYNC_SEARCH_URL: the cluster refuses to mark {mark.what}: allow `manage` on it")
    own = prefix_marks(stores, entity.media.prefix)[-1:] if entity.media else []
    for mark in own:
        if mark.ledger != ours:
            if not _mark_prefix(stores, mark.what.removeprefix("prefix ").rstrip("/"), only_if_free=False):
                raise UnreachableError(f"SYNC_TARGET_S3_BUCKET refuses to mark {mark.what}: allow s3:PutObject on it")
            replaced.append(mark)
    return [*replaced, *claimed]


def claimed_places(entity: Entity) -> dict[str, tuple[claims.Kind, str]]:
    """The place that each sink of an entity claims: its kind and name, by the sink's name in a verdict."""
    places: dict[str, tuple[claims.Kind, str]] = {"relational": ("table", entity.table.name)}
    if entity.index:
        places["search"] = "index", entity.index.alias
    if entity.media:
        places["media"] = "prefix", entity.media.prefix
    return places


def _take_over_claims(stores: Stores, entity: Entity) -> list[Mark]:
    """Record all places as the entity's; those that were not, and whose they were."""
    shared = {"media": entity.media is not None and entity.media.shared}
    with stores.target() as cursor:
        return [
            Mark(claims.SHOWN[kind].format(name), former)
            for sink, (kind, name) in claimed_places(entity).items()
            for former in claims.take_over(cursor, entity.name, kind, name, shared=shared.get(sink, False))
        ]


def index_marks(stores: Stores, entity: Entity) -> list[Mark]:
    """The marks of the indices behind the entity's alias; none where it has no index yet. Raises UnreachableError."""
    from elasticsearch import NotFoundError

    if entity.index is None:
        return []
    try:
        return [
            Mark(f"index {name}", _ledger_in(found["mappings"].get("_meta", {}).get(_META)))
            for name, found in _mappings(stores, entity.index.alias).items()
        ]
    except NotFoundError:
        return []


def prefix_marks(stores: Stores, prefix: str) -> list[Mark]:
    """The marks of the prefixes around a prefix, from the outermost, and its own last. Raises UnreachableError."""
    parts = prefix.split("/")
    prefixes = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return [Mark(f"prefix {name}/", _read_prefix(stores, name)) for name in prefixes]


def refusal(entity: str, mark: Mark, ours: str | None) -> tuple[str, str]:
    """What is wrong with another ledger's mark, and what to do."""
    sink = "SearchIndex another alias" if mark.what.startswith("index ") else "MediaBucket another prefix"
    what = f"{mark.what} belongs to the deployment with ledger {mark.ledger}, ours is {ours or 'not made yet'}"
    remedy = (
        f"give the entity's {sink}; or, if that deployment is gone for good and this one takes its place,"
        f" sync-pipeline ledger take-over {entity}"
    )
    return what, remedy


def without_marks(listed: Mapping[str, Item], prefix: str) -> dict[str, Item]:
    """Objects of a listing below a prefix that are ours to judge.

    Left out are marks, and what lies below a further mark: a prefix of its own, of another entity or deployment.
    """
    own = f"{prefix}/{MARK_OBJECT}"
    marks = [key for key in listed if key.endswith(f"/{MARK_OBJECT}")]
    inner = tuple(key.removesuffix(MARK_OBJECT) for key in marks if key != own)
    return {key: item for key, item in listed.items() if key != own and not (inner and key.startswith(inner))}


def _must_be_ours(stores: Stores, entity: str, marks: Iterable[Mark]) -> None:
    ours = ledger_of(stores)
    for mark in marks:
        if mark.ledger not in (None, ours):
            raise OwnershipError(f"entity {entity}: {': '.join(refusal(entity, mark, ours))}")


def _ledger_in(meta: Any) -> str | None:
    if meta is None:
        return None
    return str(meta.get("ledger", _UNREADABLE)) if isinstance(meta, Mapping) else _UNREADABLE


def _mappings(stores: Stores, name: str) -> dict[str, Any]:
    with reaching():
        return dict(stores.search.indices.get_mapping(index=name).body)


def _mark_index(stores: Stores, entity: Entity, name: str) -> bool:
    """Put our mark beside whatever `_meta` holds; False where we lack the rights."""
    from elasticsearch import AuthorizationException

    kept = _mappings(stores, name)[name]["mappings"].get("_meta", {})
    try:
        stores.search.indices.put_mapping(index=name, meta={**kept, **index_meta(stores, entity)})
    except AuthorizationException as error:
        log.warning("no mark of ownership", extra={"entity": entity.name, "error": f"index {name}: {error}"})
        return False
    except Exception as error:
        with reaching():
            raise error
    return True


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
        return _ledger_in(json.loads(body))
    except ValueError:
        return _UNREADABLE


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
