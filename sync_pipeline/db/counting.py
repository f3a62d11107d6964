"""Row counts: exact where that is cheap, and the planner's estimate where it is not."""

from __future__ import annotations

from sync_pipeline.db.sql import Cursor

# up to so many rows are counted one by one: some tens of milliseconds
COUNTED_ROWS = 100_000


def count_rows(cursor: Cursor, source: str) -> int:
    """How many rows `source` (SQL after FROM) has; where there are many, the estimate, which follows the disk's."""
    cursor.execute(f"EXPLAIN (FORMAT JSON) SELECT FROM {source}")
    estimate = int(cursor.fetchone()[0][0]["Plan"]["Plan Rows"])
    if estimate > COUNTED_ROWS:
        return estimate
    cursor.execute(f"SELECT count(*) FROM (SELECT FROM {source} LIMIT {10 * COUNTED_ROWS}) counted")
    return int(cursor.fetchone()[0])
