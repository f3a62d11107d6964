"""How far an entity's sweep is, whether sweeps still come to their end, and how often they list the legacy bucket."""

from __future__ import annotations

from typing import Any

from sync_pipeline.db.sql import Cursor, named
from sync_pipeline.ledger.ledger import table_of
from sync_pipeline.ledger.sweeps import LISTING_PERIOD
from sync_pipeline.settings import Settings

# a whole sweep that is older than so many periods is late; shorter ones than this are not worth a call
_PERIODS = 4
_AT_LEAST_SECONDS = 900.0
_PROGRESS = """
    SELECT state, phase, began_at, started_at, paged_at, compared, changed, gone, files, rebased, owner,
        coalesce(lease_until > now(), false) AS at_work, waits_since IS NOT NULL AND waits_until > now() AS waits,
        extract(epoch FROM paged_at - started_at)::float8 AS seconds,
        greatest(0, (SELECT reltuples FROM pg_class WHERE oid = to_regclass(%(table)s)))::bigint AS about
    FROM sync.sweep WHERE entity = %(entity)s AND number > 0
"""
_AGE = """
    SELECT swept_at >= filled_at AS is_whole, swept_at, filled_at, extract(epoch FROM now() - greatest(filled_at,
        swept_at))::float8 AS seconds FROM sync.cursor WHERE entity = %(entity)s AND filled_at IS NOT NULL
"""
_LISTING = f"""
    SELECT listed_at, listing_seconds AS seconds,
        greatest({LISTING_PERIOD}, %(period)s)::float8 AS every_seconds, {LISTING_PERIOD} > %(period)s AS is_rarer,
        extract(epoch FROM now() - greatest(filled_at, listed_at))::float8 AS age_seconds
    FROM sync.cursor JOIN sync.sweep USING (entity) WHERE entity = %(entity)s
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


def listing_progress(cursor: Cursor, entity: str, settings: Settings) -> dict[str, Any] | None:
    """When a sweep last listed the legacy bucket, how long that took, and how often it does; None before the first.

    `every_seconds` follows from SYNC_LISTING_SHARE and from what the listings of all entities took. `is_rarer` says
    that not each periodic sweep lists. `age_seconds` is None until the history is in.
    """
    cursor.execute("SELECT to_regclass('sync.sweep') IS NOT NULL")
    if not cursor.fetchone()[0]:
        return None
    values = {"entity": entity, "share": settings.listing_share, "period": settings.sweep_seconds}
    found = named(cursor, _LISTING, values)
    return found[0] if found else None


def sweep_alerts(
    cursor: Cursor,
    entity: str,
    progress: dict[str, Any] | None,
    listing: dict[str, Any] | None,
    settings: Settings,
) -> list[str]:
    """Says that the last sweep, or the last one that listed the legacy bucket, is too long ago.

    Hard deletes and edits without a stamp wait for the one, and files overwritten under their key for the other.
    """
    ages, period = named(cursor, _AGE, {"entity": entity}), settings.sweep_seconds
    if not ages or ages[0]["seconds"] <= max(_PERIODS * period, _AT_LEAST_SECONDS):
        return _listing_alerts(listing, settings) if ages else []
    (age,) = ages
    last = (
        f"ended at {age['swept_at']:%Y-%m-%d %H:%M:%S}" if age["is_whole"] else "has not ended since the history is in"
    )
    return [f"the last whole sweep {last} (SYNC_SWEEP_SECONDS is {period:g}): {_what_it_does(progress)}"]


def _listing_alerts(listing: dict[str, Any] | None, settings: Settings) -> list[str]:
    """Sweeps come to their end, but none has listed the bucket for a few times as long as the share implies."""
    if listing is None or listing["age_seconds"] <= max(_PERIODS * listing["every_seconds"], _AT_LEAST_SECONDS):
        return []
    last = f"ended at {listing['listed_at']:%Y-%m-%d %H:%M:%S}" if listing["listed_at"] else "has not ended yet"
    return [
        f"the last listing of the legacy bucket {last}, and one is due each {listing['every_seconds'] / 60:,.0f} min"
        f" (SYNC_LISTING_SHARE is {settings.listing_share:g}): files overwritten under their key wait for it"
    ]


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
