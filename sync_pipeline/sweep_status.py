"""How far an entity's sweep is, and whether sweeps still come to their end."""

from __future__ import annotations

from typing import Any

from sync_pipeline.ledger.ledger import table_of
from sync_pipeline.sql import Cursor, named

# a whole sweep that is older than so many periods is late; shorter ones than this are not worth a call
_PERIODS = 4
_AT_LEAST_SECONDS = 900.0
_PROGRESS = """
    SELECT state, phase, began_at, started_at, paged_at, compared, changed, gone, files, owner,
        coalesce(lease_until > now(), false) AS at_work, waits_since IS NOT NULL AND waits_until > now() AS waits,
        extract(epoch FROM paged_at - started_at)::float8 AS seconds,
        greatest(0, (SELECT reltuples FROM pg_class WHERE oid = to_regclass(%(table)s)))::bigint AS about
    FROM sync.sweep WHERE entity = %(entity)s AND number > 0
"""
_AGE = """
    SELECT swept_at >= filled_at AS is_whole, swept_at, filled_at, extract(epoch FROM now() - greatest(filled_at,
        swept_at))::float8 AS seconds FROM sync.cursor WHERE entity = %(entity)s AND filled_at IS NOT NULL
"""


def sweep_progress(cursor: Cursor, entity: str) -> dict[str, Any] | None:
    """The sweep under way, or the last one; None before the first. `keys_a_second` is its pace while it compares keys.

    `about` is how many keys the ledger holds, as far as statistics of its table say.
    """
    cursor.execute("SELECT to_regclass('sync.sweep') IS NOT NULL")
    if not cursor.fetchone()[0]:
        return None
    found = named(cursor, _PROGRESS, {"entity": entity, "table": table_of(entity)})
    if not found:
        return None
    seconds = found[0].pop("seconds")
    return {**found[0], "keys_a_second": round(found[0]["compared"] / seconds, 1) if seconds else None}


def sweep_alerts(cursor: Cursor, entity: str, progress: dict[str, Any] | None, period: float) -> list[str]:
    """Says that the last whole sweep is too long ago: hard deletes and edits without a stamp wait for it."""
    ages = named(cursor, _AGE, {"entity": entity})
    late = max(_PERIODS * period, _AT_LEAST_SECONDS)
    if not ages or ages[0]["seconds"] <= late:
        return []
    (age,) = ages
    last = (
        f"ended at {age['swept_at']:%Y-%m-%d %H:%M:%S}" if age["is_whole"] else "has not ended since the history is in"
    )
    return [f"the last whole sweep {last} (SYNC_SWEEP_SECONDS is {period:g}): {_what_it_does(progress)}"]


def _what_it_does(progress: dict[str, Any] | None) -> str:
    if progress is None or progress["state"] == "ended":
        return "none is under way; is the entity followed?"
    if progress["state"] == "held":
        return f"the brake holds one that found {progress['gone']:,} rows gone"
    at = (
        "goes on" if progress["at_work"] else "waits for a place (SYNC_SWEEP_WORKERS)" if progress["waits"] else "rests"
    )
    return (
        f"one {at}, begun {progress['began_at']:%Y-%m-%d %H:%M:%S}, phase {progress['phase']}, {progress['compared']:,}"
        f" of about {progress['about']:,} keys"
    )
