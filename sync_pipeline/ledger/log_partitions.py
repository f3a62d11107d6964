"""The log's partitions: one for each day, made some days ahead by whoever works, dropped by age."""

from __future__ import annotations

import datetime as dt
import re

from sync_pipeline.db.sql import Cursor, quote
from sync_pipeline.stores.stores import Stores

TABLES = ("batch", "event", "request")
# who works for longer looks again each day
_AHEAD_DAYS = 3
_PATIENCE = "SET LOCAL lock_timeout = '5s'"


def keep_ahead(cursor: Cursor) -> None:
    """Make the partitions of today and of the next days, where they are not there: one look, as a rule."""
    cursor.execute("SELECT (now() AT TIME ZONE 'UTC')::date")
    today = cursor.fetchone()[0]
    last = _partition("request", today + dt.timedelta(days=_AHEAD_DAYS))
    cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (last,))
    if cursor.fetchone()[0]:
        return
    cursor.execute("SELECT pg_advisory_xact_lock(hashtext('sync.days'))")
    for table in TABLES:
        for days in range(_AHEAD_DAYS + 1):
            day = today + dt.timedelta(days=days)
            cursor.execute(
                f"CREATE TABLE IF NOT EXISTS {_partition(table, day)} PARTITION OF sync.{table}"
                f" FOR VALUES FROM ('{day} 00:00Z') TO ('{day + dt.timedelta(days=1)} 00:00Z')"
            )


def make_ahead(stores: Stores) -> None:
    """As `keep_ahead`, in a transaction of its own."""
    with stores.target() as cursor:
        keep_ahead(cursor)


def days_before(cursor: Cursor, keep: float) -> list[dt.date]:
    """Days that ended more than `keep` days ago, and have a partition."""
    cursor.execute(
        "SELECT c.relname, (now() AT TIME ZONE 'UTC')::date FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = ANY(%s::regclass[])",
        ([f"sync.{table}" for table in TABLES],),
    )
    found = {(_day(name), today) for name, today in cursor.fetchall()}
    return sorted(day for day, today in found if (today - day).days > keep)


def drop(cursor: Cursor, days: list[dt.date]) -> None:
    """Forget these days. Waits for no reader for long: who is in the way has it tried again another time."""
    cursor.execute(_PATIENCE)
    for day in days:
        for table in TABLES:
            cursor.execute(f"DROP TABLE IF EXISTS {_partition(table, day)}")


def _partition(table: str, day: dt.date) -> str:
    return f"sync.{quote(f'{table}_{day:%Y%m%d}')}"


def _day(name: str) -> dt.date:
    read = re.fullmatch(r"[a-z]+_(\d{4})(\d\d)(\d\d)", name)
    assert read, name
    return dt.date(*map(int, read.groups()))
