"""What keeps the ledger small, and whether it is done."""

from __future__ import annotations

from sync_pipeline.db.sql import Cursor
from sync_pipeline.ledger.log_partitions import days_before

# retention runs every six hours (docs/deploy.md), or once a day without Dagster
_LATE_DAYS = 3


def trimmed(cursor: Cursor) -> None:
    """The log has been trimmed."""
    cursor.execute("UPDATE sync.upkeep SET trimmed_at = now()")


def alerts(cursor: Cursor, history_days: float) -> list[str]:
    """Says where the log is no longer trimmed: it grows by every batch."""
    cursor.execute("SELECT to_regclass('sync.upkeep') IS NOT NULL")
    if not cursor.fetchone()[0]:
        return []
    cursor.execute("SELECT trimmed_at, trimmed_at < now() - %s * interval '1 day' FROM sync.upkeep", (_LATE_DAYS,))
    at, is_late = cursor.fetchone()
    since = f"since {at:%Y-%m-%d %H:%M}" if at else "ever"
    remedy = "run Dagster's job retention, or sync-pipeline ledger trim, once a day"
    if days := days_before(cursor, history_days + _LATE_DAYS):
        return [
            f"the log holds {len(days)} days that are {_LATE_DAYS} days older than SYNC_HISTORY_DAYS"
            f" ({history_days:g}), from {days[0]} on, and was not trimmed {since}: {remedy}"
        ]
    return [f"the log was not trimmed {since}: {remedy}"] if is_late else []
