"""A streaming replica of the monolith: rows may be read there once it has replayed what the primary had written.

What was committed at the primary when its position was taken is below it, and visible at the replica once that is
replayed. So whatever a source has reported, and all that a window counts as committed, the replica shows, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sync_pipeline.errors import UnreachableError

SETTING = "SYNC_LEGACY_REPLICA_DB"
_PAGE_BYTES = 8192
_PAGE_HEADS = {24, 40}
_LOOK_SECONDS = 0.002
_PATIENCE_SECONDS = 0.02
_POSITIONS = "SELECT pg_is_in_recovery(), coalesce(pg_last_wal_replay_lsn() - '0/0', 0)"
_IDENTITY = "SELECT system_identifier, d.oid FROM pg_control_system(), pg_database d WHERE datname = current_database()"


def written_end(position: int) -> int:
    """The end of the last record: at a page's edge a position counts the next page's head, and a reader's does not."""
    edge = position % _PAGE_BYTES
    return position - (edge if edge in _PAGE_HEADS else 0)


def position_of(primary: Any) -> int:
    """How far the primary has written its log."""
    primary.execute("SELECT pg_current_wal_insert_lsn() - '0/0'")
    return written_end(int(primary.fetchone()[0]))


def identity_of(cursor: Any) -> tuple[int, int]:
    """Which server's database it is, at the primary and at its replicas alike."""
    cursor.execute(_IDENTITY)
    system, database = cursor.fetchone()
    return int(system), int(database)


def flush(primary: Any, position: int) -> None:
    """Have the log written out: what no commit waits for may stay in memory, and no replica gets it."""
    primary.execute("SELECT pg_current_wal_flush_lsn() - '0/0'")
    if int(primary.fetchone()[0]) < position:
        primary.execute("SELECT pg_logical_emit_message(true, 'sync-pipeline', '')")


def await_replay(cursor: Any, position: int, seconds: float, nudge: Callable[[], None]) -> None:
    """Wait until the replica has replayed a position; `nudge` is called once when that takes long.

    Raises UnreachableError when it takes too long, or when the server is no replica.
    """
    began = time.monotonic()
    nudged = False
    while (behind := position - replayed(cursor)) > 0:
        waited = time.monotonic() - began
        if waited > seconds:
            raise UnreachableError(
                f"{SETTING}: the replica is {behind:,} bytes behind the primary after {seconds:g} s"
                " (SYNC_REPLICA_SECONDS)"
            )
        if waited > _PATIENCE_SECONDS and not nudged:
            nudge()
            nudged = True
        # PostgreSQL has no event for a replayed position, so the replica is asked again
        time.sleep(_LOOK_SECONDS if waited < 1 else _PATIENCE_SECONDS)


def replayed(cursor: Any) -> int:
    """How far the replica has replayed the primary's log. Raises UnreachableError when it is none."""
    cursor.execute(_POSITIONS)
    in_recovery, position = cursor.fetchone()
    if not in_recovery:
        raise UnreachableError(f"{SETTING}: this server is no replica, or has been promoted")
    return int(position)
