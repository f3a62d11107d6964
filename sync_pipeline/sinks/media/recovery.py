"""The recovery of a prefix after the new side has lost commits: its listing against the ledger, page by page.

Files of lost transactions are not in the ledger, and files that lost transactions removed are in it still.
"""

from __future__ import annotations

from collections.abc import Sequence

from botocore.exceptions import BotoCoreError, ClientError
from psycopg2.extras import execute_values

from sync_pipeline.db.sql import Cursor
from sync_pipeline.errors import UnreachableError
from sync_pipeline.sinks.context import SinkContext
from sync_pipeline.sinks.media.ownership import MARK_OBJECT
from sync_pipeline.sinks.sink import PartPage

_FILES = 1_000
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


def compare_listing(context: SinkContext, prefix: str, position: list[str] | None) -> PartPage:
    """Make files garbage that the ledger does not know, and return those that it knows and that are not there."""
    after = position[0] if position else f"{prefix}/"
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
    return PartPage([until] if until else None, len(listed), lost=lost)


def _listed(context: SinkContext, prefix: str, after: str) -> tuple[list[str], bool]:
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
