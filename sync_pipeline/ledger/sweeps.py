"""Sweeps in the ledger: how far each one is, who carries it on, and which deletes a person has approved."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

from psycopg2.extras import Json

from sync_pipeline.db.sql import Cursor, named
from sync_pipeline.errors import LeaseLostError, SettingError
from sync_pipeline.ledger import cursor_table
from sync_pipeline.ledger.cursor_table import LEASE_SECONDS
from sync_pipeline.model.faults import guarded
from sync_pipeline.stores.stores import Stores

WALKING = "walking"
HELD = "held"
ENDED = "ended"
# an entity that waits for a place looks at least so often
WAIT_SECONDS = 15
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('sync.sweep'))"
# A lease, or a wait, that ends later than any can is from before the new side's clock was set back, and over.
_IS_HELD = f"coalesce({{}}.lease_until BETWEEN now() AND now() + 4 * {LEASE_SECONDS} * interval '1 s', false)"
_WAITS = f"{{}}.waits_until BETWEEN now() AND now() + 4 * {WAIT_SECONDS} * interval '1 s'"
_TAKE = f"""
    UPDATE sync.sweep s SET owner = %(owner)s, epoch = epoch + 1, waits_since = NULL,
        lease_until = now() + %(seconds)s * interval '1 s'
    WHERE entity = %(entity)s AND NOT {_IS_HELD.format("s")}
        AND (SELECT count(*) FROM sync.sweep o WHERE {_IS_HELD.format("o")}) < %(places)s
        AND NOT EXISTS (SELECT FROM sync.sweep o WHERE o.entity <> s.entity AND {_WAITS.format("o")}
            AND NOT {_IS_HELD.format("o")}
            AND (o.waits_since, o.entity) < (coalesce(s.waits_since, now()), s.entity))
    RETURNING number, epoch, state, phase, position, versions, filled, began_at,
        covers_files, compared, changed, gone, outdated, unfilled, files, rebased
"""
# Seconds from the beginning of one listing to the next that the share allows. All entities of the ledger divide it.
LISTING_PERIOD = "(SELECT sum(greatest(listing_seconds, listing_so_far)) FROM sync.sweep) / %(share)s"
_LISTING_IS_DUE = f"""
    SELECT swept_from IS NULL OR coalesce(sweep_wanted > swept_from, false) OR %(share)s >= 1
        OR coalesce(extract(epoch FROM now() - listing_at)::float8  -- below 0: the new side's clock was set back since
            NOT BETWEEN 0 AND {LISTING_PERIOD} - greatest(listing_seconds, listing_so_far), true)
    FROM sync.cursor JOIN sync.sweep USING (entity) WHERE entity = %(entity)s
"""


@dataclass
class Swept:
    """What a whole sweep found, in keys."""

    compared: int = 0
    changed: int = 0  # differ, those that are parked as they are included
    gone: int = 0
    outdated: int = 0  # of another entity version: a backfill is due; or of a former digest, and not compared yet
    unfilled: int = 0  # not in the ledger, and the history is not all in: the backfill brings them
    files: int = 0  # rows whose file is no longer the one that was copied, and that were not owed yet
    rebased: int = 0  # rows of a former digest that were found to be right, or to have changed


@dataclass
class Walk:
    """A sweep under the lease of its worker; what it holds is written to the ledger page by page."""

    entity: str
    number: int
    epoch: int
    state: str
    phase: str
    position: list[str] | None
    versions: dict[str, Any] | None
    filled: bool
    began_at: dt.datetime | None
    covers_files: bool  # it lists the legacy bucket, or there are no files to list
    found: Swept = field(default_factory=Swept)
    must_list: bool = False  # its caller asks for the files, whatever the share allows


def take(stores: Stores, entity: str, places: int) -> Walk | None:
    """Lease the entity's sweep, as it stands. Returns None while it is leased, or while no place is free.

    An entity that waits for a place gets it before those that began to wait later.
    """
    values = {"entity": entity, "owner": stores.worker, "seconds": LEASE_SECONDS, "places": places}
    with stores.target() as cursor:
        cursor.execute("INSERT INTO sync.sweep (entity) VALUES (%s) ON CONFLICT DO NOTHING", (entity,))
        cursor.execute(_LOCK)
        cursor.execute(_TAKE, values)
        row = cursor.fetchone()
        if row is None:
            cursor.execute(
                "UPDATE sync.sweep s SET waits_until = now() + %s * interval '1 s', waits_since ="
                f" CASE WHEN {_WAITS.format('s')} THEN least(coalesce(waits_since, now()), now()) ELSE now() END"
                f" WHERE entity = %s AND NOT {_IS_HELD.format('s')}",
                (WAIT_SECONDS, entity),
            )
            return None
    number, epoch, state, phase, position, versions, filled, began_at, covers, *counts = row
    return Walk(entity, number, epoch, state, phase, position, versions, filled, began_at, covers, Swept(*counts))


def begin(stores: Stores, walk: Walk, began_at: dt.datetime, versions: dict[str, Any], *, filled: bool) -> None:
    """Start over: nothing of what an earlier walk had found so far counts."""
    walk.number, walk.state, walk.phase, walk.position = walk.number + 1, WALKING, "keys", None
    walk.versions, walk.filled, walk.began_at, walk.found = versions, filled, began_at, Swept()
    walk.covers_files = True
    with stores.target() as cursor:
        move(cursor, walk)
        cursor.execute(
            "UPDATE sync.sweep SET versions = %s, filled = %s, began_at = %s, started_at = now(), ended_at = NULL"
            " WHERE entity = %s",
            (Json(versions), filled, began_at, walk.entity),
        )
        cursor.execute("DELETE FROM sync.sweep_gone WHERE entity = %s", (walk.entity,))


def move(cursor: Cursor, walk: Walk) -> None:
    """Write down how far it is, in the caller's transaction. Raises LeaseLostError where another worker sweeps."""
    found = vars(walk.found)
    cursor.execute(
        "UPDATE sync.sweep SET number = %(number)s, state = %(state)s, phase = %(phase)s, position = %(position)s,"
        f" covers_files = %(covers_files)s, {', '.join(f'{name} = %({name})s' for name in found)}, paged_at = now(),"
        " lease_until = now() + %(seconds)s * interval '1 s' WHERE entity = %(entity)s AND epoch = %(epoch)s",
        {**vars(walk), **found, "versions": None, "found": None, "seconds": LEASE_SECONDS},
    )
    if cursor.rowcount != 1 and guarded(81):
        raise LeaseLostError(f"entity {walk.entity}: another worker sweeps it now")


def listing_is_due(cursor: Cursor, entity: str, share: float) -> bool:
    """Return whether the walk has to list the legacy bucket.

    It has to where a sweep was asked for, where no sweep counts as whole yet, and where the listings of all
    entities, this one included, take no more than `share` of the time.
    """
    cursor.execute(_LISTING_IS_DUE, {"entity": entity, "share": share})
    return bool(cursor.fetchone()[0])


def note_listing(cursor: Cursor, walk: Walk, seconds: float, *, is_first: bool) -> None:
    """Add what a page of the listing took; after the last page, which has no position, the listing is whole."""
    so_far = "(CASE WHEN %(first)s THEN 0 ELSE listing_so_far END + %(seconds)s)"
    cursor.execute(
        "UPDATE sync.sweep SET listing_at = now(),"
        f" listing_seconds = CASE WHEN %(last)s THEN {so_far} ELSE listing_seconds END,"
        f" listing_so_far = CASE WHEN %(last)s THEN 0 ELSE {so_far} END WHERE entity = %(entity)s",
        {"first": is_first, "last": walk.position is None, "seconds": seconds, "entity": walk.entity},
    )


def renew(stores: Stores, walk: Walk) -> None:
    """Hold the lease for longer: a page may take its time."""
    with stores.target() as cursor:
        cursor.execute(
            "UPDATE sync.sweep SET lease_until = now() + %s * interval '1 s' WHERE entity = %s AND epoch = %s"
            " AND owner IS NOT NULL",
            (LEASE_SECONDS, walk.entity, walk.epoch),
        )


def give_back(stores: Stores, walk: Walk) -> None:
    """Let a successor go on at once."""
    with stores.target() as cursor:
        cursor.execute(
            "UPDATE sync.sweep SET owner = NULL, lease_until = NULL WHERE entity = %s AND epoch = %s",
            (walk.entity, walk.epoch),
        )


def others_wait(stores: Stores, entity: str) -> bool:
    """Whether other entities wait for a place."""
    with stores.target() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM sync.sweep o WHERE entity <> %s AND waits_since IS NOT NULL"
            f" AND {_WAITS.format('o')})",
            (entity,),
        )
        return bool(cursor.fetchone()[0])


def end(cursor: Cursor, walk: Walk) -> None:
    """The walk is over: all of it counts, and everything committed before it began was seen."""
    _close(cursor, walk, ENDED)
    covers_files = walk.covers_files or not guarded(140)
    cursor_table.end_sweep(cursor, walk.entity, filled=walk.filled, covers_files=covers_files)


def hold(cursor: Cursor, walk: Walk) -> None:
    """The walk is over, and nothing of what is gone becomes due before a person has approved it."""
    _close(cursor, walk, HELD)


def _close(cursor: Cursor, walk: Walk, state: str) -> None:
    walk.state, walk.position = state, None
    move(cursor, walk)
    cursor.execute(
        "UPDATE sync.sweep SET ended_at = now(), owner = NULL, lease_until = NULL WHERE entity = %s", (walk.entity,)
    )


def approve(cursor: Cursor, entity: str, by: str, reason: str) -> dict[str, Any]:
    """Allow the sweep that the brake holds to delete as many rows as it found gone; what it found.

    Raises SettingError where the brake holds none.
    """
    found = named(
        cursor,
        "SELECT gone, compared, began_at FROM sync.sweep WHERE entity = %(entity)s AND state = 'held' FOR UPDATE",
        {"entity": entity},
    )
    if not found:
        raise SettingError(
            f"entity {entity}: the brake holds no sweep; sync-pipeline status {entity} shows the last one"
        )
    close_approval(cursor, entity, "replaced")
    cursor.execute(
        "INSERT INTO sync.sweep_approval (entity, gone, approved_by, reason) VALUES (%s, %s, %s, %s)",
        (entity, found[0]["gone"], by, reason),
    )
    return found[0]


def approved(cursor: Cursor, entity: str) -> int | None:
    """How many deletes are approved for the next sweep that ends, if a person has approved any."""
    cursor.execute("SELECT gone FROM sync.sweep_approval WHERE entity = %s AND ended_at IS NULL", (entity,))
    found = cursor.fetchone()
    return int(found[0]) if found else None


def close_approval(cursor: Cursor, entity: str, outcome: str) -> None:
    """An approval counts for one sweep."""
    if not guarded(79):
        return
    cursor.execute(
        "UPDATE sync.sweep_approval SET ended_at = now(), outcome = %s WHERE entity = %s AND ended_at IS NULL",
        (outcome, entity),
    )
