"""Garbage: objects of the new bucket that no row names, or whose copier was killed, removed after a grace time.

Whoever takes a name away queues the object in the same transaction (a trigger on `sync.media_ref` and `sync.before`
does it), and so does whoever records a copy. What was queued is looked at once: an object that no row names is marked
as unused. Nothing else is read, however many objects there are.

A row's transaction holds the ledger row of each object it names, and finds it not `deleting`; marking as `deleting`
holds it too, and looks again for who names it. So no row ever names an object that is on its way out. Removing
holds the ledger row until the bucket has done it: a writer that needs the object again first takes the mark away,
which waits for that, and then copies anew.

No object is forgotten. A record of the queue goes only in the statement that looks at its object, and that statement's
snapshot sees all that the record's transaction did. Of two that take the last two names away, the later one to commit
leaves a record that is looked at after both. An object that was marked and is named again is queued by the row that
names it; should the mark come only after that, it is taken away when the object is about to be condemned.
"""

from __future__ import annotations

import logging
import threading
from functools import partial

from botocore.exceptions import BotoCoreError, ClientError

from sync_pipeline.errors import SyncError, UnreachableError
from sync_pipeline.ledger.log_partitions import make_ahead
from sync_pipeline.run.heartbeat import quietly
from sync_pipeline.stores.stores import Stores

log = logging.getLogger(__name__)

# of all processes, one looks so often
EVERY_SECONDS = 10.0
_BATCH = 500
_LOOKED_AT = 1_000
_SCANNED = 5_000
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
# in the order in which writers hold objects
_MARK_OF = f"""
    UPDATE sync.media m SET unused_since = CASE WHEN unused_since IS NULL THEN now() END FROM (
        SELECT target_key FROM sync.media m WHERE target_key IN ({{}}) AND NOT deleting
        AND (unused_since IS NULL) <> {_NAMED} ORDER BY target_key FOR UPDATE
    ) o WHERE m.target_key = o.target_key
"""
_MARK = f"""
    WITH looked_at AS (
        DELETE FROM sync.garbage WHERE id IN (
            SELECT id FROM sync.garbage WHERE look_at <= now() ORDER BY id LIMIT {_LOOKED_AT} FOR UPDATE SKIP LOCKED
        ) RETURNING target_key
    ) {_MARK_OF.format("SELECT target_key FROM looked_at")}
"""
_LOCK = """
    SELECT target_key FROM sync.media WHERE NOT deleting AND unused_since <= now() - %s * interval '1 s'
    ORDER BY unused_since LIMIT %s FOR UPDATE SKIP LOCKED
"""
# a statement of its own: its snapshot shows who came to name them before they were locked
_CONDEMN = f"""
    UPDATE sync.media m SET deleting = true WHERE target_key = ANY(%s) AND NOT {_NAMED}
"""
_NAMED_AGAIN = "UPDATE sync.media SET unused_since = NULL WHERE target_key = ANY(%s) AND NOT deleting"
_TURN = """
    UPDATE sync.upkeep SET collected_at = now() WHERE collected_at < now() - %s * interval '1 s'
"""


def keep_collecting(stores: Stores, stop: threading.Event) -> None:
    """Remove garbage, and make the log's next days, until `stop`; of all processes one does it at a time."""
    while not stop.wait(EVERY_SECONDS):
        try:
            quietly(partial(_take_turn, stores, stop))
        except SyncError as error:  # a setting of the bucket, say: what needs it names it, too
            log.warning("garbage left", extra={"error": str(error)})


def _take_turn(stores: Stores, stop: threading.Event) -> None:
    with stores.target() as cursor:
        cursor.execute(_TURN, (EVERY_SECONDS / 2,))
        if not cursor.rowcount:
            return
    make_ahead(stores)
    while collect(stores) and not stop.is_set():
        pass


def collect(stores: Stores) -> int:
    """Remove what has been garbage for SYNC_GARBAGE_GRACE_SECONDS; the number of objects. Raises UnreachableError."""
    grace = stores.settings.garbage_grace_seconds
    with stores.target() as cursor:
        cursor.execute(_ABANDONED, (grace,))
    while _mark(stores):
        pass
    _scan(stores)
    with stores.target() as cursor:
        cursor.execute(_LOCK, (grace, _BATCH))
        unused = [key for (key,) in cursor.fetchall()]
        if unused:
            cursor.execute(_CONDEMN, (unused,))
            cursor.execute(_NAMED_AGAIN, (unused,))
    with stores.target() as cursor:
        cursor.execute("SELECT target_key FROM sync.media WHERE deleting ORDER BY 1 LIMIT %s", (_BATCH,))
        condemned = [key for (key,) in cursor.fetchall()]
    removed = sum(_remove(stores, key) for key in condemned)
    if removed:
        log.info("garbage removed", extra={"action": "garbage", "files": removed})
    return removed


def _mark(stores: Stores) -> bool:
    """Look at some of what was queued; whether there is more."""
    with stores.target() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM sync.garbage WHERE look_at <= now())")
        if not cursor.fetchone()[0]:
            return False
        cursor.execute(_MARK)
    return True


def _scan(stores: Stores) -> None:
    """Once in a ledger's life, a page at a time: objects that lost their names before there was a queue."""
    with stores.target() as cursor:
        cursor.execute("SELECT coalesce(scan_after, '') FROM sync.upkeep WHERE NOT scanned FOR UPDATE SKIP LOCKED")
        row = cursor.fetchone()
        if row is None:
            return
        page = cursor.mogrify(
            f"SELECT target_key FROM sync.media WHERE target_key > %s ORDER BY 1 LIMIT {_SCANNED}", row
        ).decode()
        cursor.execute(_MARK_OF.format(page))
        cursor.execute(
            f"UPDATE sync.upkeep SET (scan_after, scanned) = (SELECT max(target_key), count(*) < {_SCANNED}"
            f" FROM ({page}) p)"
        )


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
