"""Keys that a sweep found deleted: they are staged until the sweep ends, and queued in the transaction that ends it.

The brake sees the totals in between, so that a sweep that would delete too much queues nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from sync_pipeline.db.sql import Cursor
from sync_pipeline.ledger import queue_table
from sync_pipeline.model.reasons import Reason
from sync_pipeline.queue.due import KEYS_A_RECORD, PRIORITY


def stage_deleted(cursor: Cursor, entity: str, keys: Sequence[str]) -> None:
    """Keep keys that the monolith no longer has, until the sweep ends. No follower claims them."""
    for first in range(0, len(keys), KEYS_A_RECORD):
        part = list(keys[first : first + KEYS_A_RECORD])
        cursor.defer("INSERT INTO sync.sweep_gone (entity, keys) VALUES (%s, %s)", (entity, part))


def queue_deleted(cursor: Cursor, entity: str, number: int, *, covers_files: bool) -> None:
    """Queue the staged keys, and drop what earlier sweeps queued: the sweep of this number has seen all of it again.

    Files are an exception where it has not listed them: what a listing has queued stays queued.
    """
    queue_table.insert_swept(cursor, entity, number, PRIORITY[Reason.SWEEP])
    cursor.execute("DELETE FROM sync.sweep_gone WHERE entity = %s", (entity,))
    queue_table.delete_swept_before(cursor, entity, number, covers_files=covers_files)
