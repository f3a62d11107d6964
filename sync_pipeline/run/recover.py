"""The recovery after the new side has lost commits: its indices and files are compared with what its ledger knows.

A database that fails over to a standby, or is restored, may lack its last transactions, while the cluster and the
bucket keep what those had written. The sweep compares the monolith with the ledger, so it does not see what the ledger
knows nothing of. The recovery walks ids and versions of each index, then documents that the ledger counts on, then the
files, page by page, and queues each difference. It keeps its place in the ledger, beside the live delta.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from botocore.exceptions import BotoCoreError, ClientError
from psycopg2.extras import execute_values

from sync_pipeline.db.columns import DIGEST
from sync_pipeline.db.sql import Cursor, copy_out, quote
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import UnreachableError
from sync_pipeline.ledger.ledger import HELD_DOCUMENT, raise_revision
from sync_pipeline.model.reasons import Reason
from sync_pipeline.queue import due
from sync_pipeline.sinks.media.ownership import MARK_OBJECT
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.search.requests import look_up, reaching
from sync_pipeline.stores.stores import SEARCH_SECONDS

log = logging.getLogger(__name__)

REASON = Reason.RECOVERED
# a request that a worker had sent for a lost transaction has arrived by then, or never will
SETTLE_SECONDS = 2.0 * SEARCH_SECONDS
_HITS = 5_000
_IDS = 1_000
_FILES = 1_000
_CLAIM_SECONDS = 120
_CLAIM = f"""
    UPDATE sync.recovery SET claimed_until = clock_timestamp() + interval '{_CLAIM_SECONDS} s'
    WHERE (entity, part) = (
        SELECT entity, part FROM sync.recovery WHERE entity = %s AND done_at IS NULL
            AND asked_at NOT BETWEEN clock_timestamp() - %s * interval '1 s' AND clock_timestamp()
            AND (claimed_until IS NULL OR claimed_until NOT BETWEEN clock_timestamp()
                AND clock_timestamp() + 2 * interval '{_CLAIM_SECONDS} s')
        ORDER BY part DESC LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING part, asked_at, position
"""
_ADVANCE = """
    UPDATE sync.recovery SET position = %s, checked = checked + %s, queued = queued + %s, claimed_until = NULL,
        done_at = CASE WHEN %s THEN clock_timestamp() END
    WHERE (entity, part, asked_at) = (%s, %s, %s) AND position IS NOT DISTINCT FROM %s
"""
# a copy that is recorded after the listing began may not be in it
_LACKING = """
    SELECT target_key FROM sync.media WHERE starts_with(target_key, %(prefix)s) AND NOT deleting
        AND copied_at < %(began)s AND target_key <> ALL(%(listed)s::text[])
        AND target_key > %(after)s AND (%(until)s::text IS NULL OR target_key <= %(until)s)
"""
_UNKNOWN = """
    SELECT k FROM unnest(%s::text[]) k WHERE NOT EXISTS (SELECT FROM sync.media WHERE target_key = k)
        AND NOT EXISTS (SELECT FROM sync.copying WHERE target_key = k)
"""


@dataclass(frozen=True)
class _Place:
    """How far a part has been compared."""

    part: str
    asked_at: object
    position: list[str] | None


@dataclass
class _Page:
    """What a page has found: where the next one begins (None: it was the last), and the keys that differ."""

    position: list[str] | None
    checked: int
    keys: list[str] = field(default_factory=list)
    copied: int = 0  # rows whose files are copied again, which are queued already


def recover(context: EntityContext, halt: threading.Event) -> None:
    """Compare page by page what is left to compare, and queue what differs, until nothing is left or `halt` is set.

    Each page is one worker's. Raises UnreachableError.
    """
    while not halt.is_set() and context.stores.servers.recovers:
        with context.stores.target() as cursor:
            cursor.execute(_CLAIM, (context.entity.name, SETTLE_SECONDS))
            found = cursor.fetchone()
        if not found:
            return
        _compare(context, _Place(*found))


def _compare(context: EntityContext, place: _Place) -> None:
    index, media = context.entity.index, context.entity.media
    if place.part == "files":
        _compare_files(context, place, media.prefix) if media else _end(context, place)
    elif index is None:
        _end(context, place)
    elif place.part == "ledger":
        _compare_ledger(context, place, index)
    else:
        _compare_index(context, place, index.alias if place.part == "index" else index.next_alias)


def _end(context: EntityContext, place: _Place) -> None:
    with context.stores.target() as cursor:
        _advance(context, cursor, place, _Page(None, 0))


def _advance(context: EntityContext, cursor: Cursor, place: _Place, page: _Page) -> None:
    """Note that a page is compared; nothing of it counts where the recovery was asked for anew meanwhile."""
    name = context.entity.name
    due.owe(cursor, name, REASON, page.keys)
    is_last = page.position is None
    values = page.position or place.position, page.checked, len(page.keys) + page.copied, is_last
    cursor.execute(_ADVANCE, (*values, name, place.part, place.asked_at, place.position))
    if cursor.rowcount != 1:
        raise UnreachableError(f"entity {name}: the recovery of its {place.part} was begun anew meanwhile")
    if is_last:
        log.info("recovered", extra={"entity": name, "part": place.part})


def _compare_index(context: EntityContext, place: _Place, alias: str) -> None:
    """Documents that the ledger does not know, or that bear a later version than it has given."""
    hits = _hits(context, place, alias)
    versions = {hit["_id"]: int(hit["_version"]) for hit in hits}
    keys, _ = context.origin.key.parse_known(list(versions))  # what is no key was never ours
    texts = context.origin.key.texts(keys)
    staged = keys.append_column(DIGEST, pa.array([versions[text] for text in texts.to_pylist()], pa.int64()))
    with context.stores.target() as cursor:
        unknown = _staged(context, cursor, staged, "l.held IS NULL OR l.held & 2 = 0 OR l.written < p._digest")
        cursor.execute("SELECT last_value FROM sync.revision")
        is_above = max(versions.values(), default=0) > cursor.fetchone()[0]
    if is_above:
        raise_revision(context.stores, max(versions.values()))
    position = [str(hits[-1]["sort"][0])] if len(hits) == _HITS else None
    with context.stores.target() as cursor:
        _advance(context, cursor, place, _Page(position, len(hits), unknown))


def _hits(context: EntityContext, place: _Place, alias: str) -> list[dict[str, Any]]:
    """The next documents in the order in which they were last written; one that is written meanwhile comes later."""
    from elasticsearch import ApiError, NotFoundError

    first = place.position[0] if place.position else "0"
    search = context.stores.search
    with reaching():
        try:
            if place.position is None:
                search.indices.refresh(index=alias)
            answer = search.search(
                index=alias,
                size=_HITS,
                query={"range": {"_seq_no": {"gte": int(first)}}},
                sort=[{"_seq_no": "asc"}],
                version=True,
                source=False,
                track_total_hits=False,
                allow_partial_search_results=False,
            )
        except NotFoundError:
            return []  # none is filled, or it is made anew: what it lacks is found from the ledger
        except ApiError as error:
            raise UnreachableError(f"SYNC_SEARCH_URL: {alias} could not be walked to its end: {error}") from error
    return list(answer["hits"]["hits"])


def _compare_ledger(context: EntityContext, place: _Place, index: SearchIndex) -> None:
    """Documents that the ledger counts on and the index does not hold, or holds as they were before."""
    key, ledger = context.origin.key, context.ledger.table
    schema = key.schema.append(pa.field(DIGEST, pa.int64()))
    with context.stores.target() as cursor:
        held = copy_out(
            cursor,
            f"SELECT {key.plain('l')}, l.written FROM {ledger} l WHERE {key.after(cursor, 'l', place.position)}"
            f" AND l.held & {HELD_DOCUMENT} <> 0 ORDER BY {key.ordered('l')} LIMIT {_IDS}",
            schema,
        )
    index.open(context.stores, context.entity.name)
    texts = key.texts(held).to_pylist()
    there = {
        doc["_id"]: doc.get("_version") for doc in look_up(context.stores.search, index.alias, texts, source=False)
    }
    written = held.column(DIGEST).to_pylist()
    lacking = [there.get(text) != version for text, version in zip(texts, written, strict=True)]
    position = key.position(held.select(list(key.columns))) if held.num_rows == _IDS else None
    with context.stores.target() as cursor:
        keys = _staged(context, cursor, held.filter(pa.array(lacking, pa.bool_())), "l.written = p._digest")
        _advance(context, cursor, place, _Page(position, held.num_rows, keys))


def _staged(context: EntityContext, cursor: Cursor, staged: pa.Table, differs: str) -> list[str]:
    """Those of the staged keys `p` (with a version as digest) for which a condition on their ledger row `l` holds."""
    key = context.origin.key
    context.ledger.stage_digests(cursor, staged)
    cursor.execute(
        f"SELECT {key.text_expression('p')} FROM pg_temp.{quote('plan_' + context.entity.name)} p"
        f" LEFT JOIN {context.ledger.table} l ON {key.joins('l', key, 'p')} WHERE {differs}"
    )
    return [text for (text,) in cursor.fetchall()]


def _compare_files(context: EntityContext, place: _Place, prefix: str) -> None:
    """Files that the ledger does not know become garbage; rows whose file is not there have it copied again."""
    after = place.position[0] if place.position else f"{prefix}/"
    with context.stores.target_at_once() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        began = cursor.fetchone()[0]
    listed, is_last = _listed(context, f"{prefix}/", after)
    until = None if is_last else listed[-1]
    values = {"prefix": f"{prefix}/", "began": began, "listed": listed, "after": after, "until": until}
    with context.stores.target() as cursor:
        cursor.execute(_UNKNOWN, (_ours_to_judge(listed, f"{prefix}/"),))
        _expire(cursor, [key for (key,) in cursor.fetchall()])
        cursor.execute(_LACKING, values)
        lost = [key for (key,) in cursor.fetchall()]
        copied = _copy_again(cursor, lost) if lost else 0
        _advance(context, cursor, place, _Page([until] if until else None, len(listed), copied=copied))


def _listed(context: EntityContext, prefix: str, after: str) -> tuple[list[str], bool]:
    """The next files under a prefix, and whether they are the last ones."""
    bucket = context.stores.settings.target_bucket.name
    try:
        answer = context.stores.target_s3.list_objects_v2(
            Bucket=bucket, Prefix=prefix, StartAfter=after, MaxKeys=_FILES
        )
    except (BotoCoreError, ClientError) as error:
        raise UnreachableError(f"SYNC_TARGET_S3_BUCKET could not be listed to its end: {error}") from error
    return [item["Key"] for item in answer.get("Contents", ())], not answer.get("IsTruncated")


def _ours_to_judge(listed: Sequence[str], prefix: str) -> list[str]:
    """Keys that a copy of ours may bear: right below the prefix, where we put them, and not that of a mark.

    What lies deeper may be in a prefix of another deployment's, whose mark is on another page.
    """
    return [key for key in listed if "/" not in key.removeprefix(prefix) and key != f"{prefix}{MARK_OBJECT}"]


def _expire(cursor: Cursor, unknown: Sequence[str]) -> None:
    """Files of lost transactions are garbage after the grace time, unless a row comes to name them until then."""
    if unknown:
        rows = [(key,) for key in sorted(unknown)]
        execute_values(cursor, "INSERT INTO sync.copying (target_key) VALUES %s ON CONFLICT DO NOTHING", rows)


def _copy_again(cursor: Cursor, lost: list[str]) -> int:
    """Forget files that were removed by lost transactions, and have all rows that name them copy them."""
    cursor.execute("SELECT DISTINCT entity, key FROM sync.media_ref WHERE target_key = ANY(%s)", (lost,))
    naming: dict[str, list[str]] = {}
    for entity, key in cursor.fetchall():
        naming.setdefault(entity, []).append(key)
    for entity, keys in sorted(naming.items()):
        due.owe(cursor, entity, Reason.MEDIA, sorted(keys))
    cursor.execute("DELETE FROM sync.media WHERE target_key = ANY(%s)", (lost,))
    return sum(map(len, naming.values()))
