"""Garbage: objects of the new bucket that no row names, or whose copier was killed, removed after a grace time.

A row's transaction holds the ledger row of each object it names, and finds it not `deleting`; marking as `deleting`
holds it too, and looks again for who names it. So no row ever names an object that is on its way out. Removing
holds the ledger row until the bucket has done it: a writer that needs the object again first takes the mark away,
which waits for that, and then copies anew.
"""

from __future__ import annotations

import logging

from botocore.exceptions import BotoCoreError, ClientError

from sync_pipeline.errors import UnreachableError
from sync_pipeline.stores import Stores

log = logging.getLogger(__name__)

_BATCH = 500
# by a row, or by what a row may be put back to
_NAMED = (
    "(EXISTS (SELECT FROM sync.media_ref r WHERE r.target_key = m.target_key) OR m.target_key IN"
    " (SELECT f.value FROM sync.before b, json_each_text(b.files) f))"
)
# a copy that was begun so long ago has no record to come; whoever begins it again waits for the removal
_ABANDONED = """
    WITH abandoned AS (
        DELETE FROM sync.copying WHERE started_at <= now() - %s * interval '1 s' RETURNING target_key
    )
    INSERT INTO sync.media (target_key, source_key, source_etag, size, sha256, target_etag, deleting)
    SELECT target_key, '', '', 0, '', '', true FROM abandoned ORDER BY 1 ON CONFLICT (target_key) DO NOTHING
"""
_MARK = f"""
    UPDATE sync.media m SET unused_since = CASE WHEN {_NAMED} THEN NULL ELSE now() END
    WHERE NOT deleting AND (unused_since IS NULL) <> {_NAMED}
"""
_LOCK = """
    SELECT target_key FROM sync.media WHERE NOT deleting AND unused_since <= now() - %s * interval '1 s'
    ORDER BY target_key LIMIT %s FOR UPDATE SKIP LOCKED
"""
# a statement of its own: its snapshot shows who came to name them before they were locked
_CONDEMN = f"""
    UPDATE sync.media m SET deleting = true WHERE target_key = ANY(%s) AND NOT {_NAMED}
"""


def collect(stores: Stores) -> int:
    """Remove what has been garbage for SYNC_GARBAGE_GRACE_SECONDS; the number of objects. Raises UnreachableError."""
    with stores.target() as cursor:
        cursor.execute(_ABANDONED, (stores.settings.garbage_grace_seconds,))
        cursor.execute(_MARK)
    with stores.target() as cursor:
        cursor.execute(_LOCK, (stores.settings.garbage_grace_seconds, _BATCH))
        cursor.execute(_CONDEMN, ([key for (key,) in cursor.fetchall()],))
    with stores.target() as cursor:
        cursor.execute("SELECT target_key FROM sync.media WHERE deleting ORDER BY 1 LIMIT %s", (_BATCH,))
        condemned = [key for (key,) in cursor.fetchall()]
    removed = sum(_remove(stores, key) for key in condemned)
    if removed:
        log.info("garbage removed", extra={"action": "garbage", "files": removed})
    return removed


def _remove(stores: Stores, key: str) -> bool:
    """Remove one object, unless somebody wants it back or is removing it already."""
    with stores.target() as cursor:
        cursor.execute("SELECT FROM sync.media WHERE target_key = %s AND deleting FOR UPDATE SKIP LOCKED", (key,))
        if not cursor.rowcount:
            return False
        try:
            stores.target_s3.delete_object(Bucket=stores.settings.target_bucket.name, Key=key)
        except (BotoCoreError, ClientError) as error:
            raise UnreachableError(f"SYNC_TARGET_S3_BUCKET: {key} could not be removed: {error}") from error
        cursor.execute("DELETE FROM sync.media WHERE target_key = %s", (key,))
    return True
