"""The only writer of `sync.cursor`: one row for each entity, which says how far its live delta and its sweeps are.

Every function writes in the caller's transaction. Columns of the monolith's time (`applied_through`, `swept_from`,
`compared_from`, `gap_at`, `sweep_wanted`) and of the new side's (`lease_until`, `swept_at`, `listed_at`, `filled_at`)
are never compared with each other.
"""

from __future__ import annotations

import datetime as dt

from psycopg2.extras import Json

from sync_pipeline.db.sql import Cursor
from sync_pipeline.model.faults import guarded
from sync_pipeline.model.positions import SourcePosition

# a follower renews its leases every few seconds
LEASE_SECONDS = 15


def add_entity(cursor: Cursor, entity: str) -> None:
    """Add the row of a new entity."""
    cursor.execute("INSERT INTO sync.cursor (entity) VALUES (%s) ON CONFLICT DO NOTHING", (entity,))


def take_lease(cursor: Cursor, entity: str, owner: str) -> tuple[int, bool] | None:
    """Take the lease where it is free: (its epoch, whether the holder before did not give it back); else None.

    A lease that ends later than any can was taken before the server's clock was set back, and is free: a holder that
    lives renews it within seconds, and the epoch refuses one whose lease was taken.
    """
    # now() is when the statement began, which may have waited for the holder's
    beyond = "lease_until > now() + 4 * %(seconds)s * interval '1 s'" if guarded(104) else "false"
    cursor.execute(
        "WITH before AS (SELECT owner FROM sync.cursor WHERE entity = %(entity)s)"
        " UPDATE sync.cursor SET owner = %(owner)s, epoch = epoch + 1,"
        " lease_until = now() + %(seconds)s * interval '1 s'"
        " WHERE entity = %(entity)s AND (owner IS NULL OR owner = %(owner)s OR lease_until < now()"
        f" OR {beyond})"
        " RETURNING epoch, (SELECT owner <> %(owner)s FROM before)",
        {"owner": owner, "seconds": LEASE_SECONDS, "entity": entity},
    )
    found = cursor.fetchone()
    return (int(found[0]), bool(found[1])) if found else None


def renew_lease(cursor: Cursor, entity: str, epoch: int) -> bool:
    """Hold a lease for longer; False where another worker has taken it."""
    cursor.execute(
        "UPDATE sync.cursor SET lease_until = now() + %s * interval '1 s' WHERE entity = %s AND epoch = %s",
        (LEASE_SECONDS, entity, epoch),
    )
    return bool(cursor.rowcount == 1)


def give_lease_back(cursor: Cursor, entity: str, epoch: int) -> None:
    """Let another worker take the lease at once."""
    cursor.execute(
        "UPDATE sync.cursor SET owner = NULL, lease_until = NULL WHERE entity = %s AND epoch = %s", (entity, epoch)
    )


def free_leases_of(cursor: Cursor, owner: str) -> list[tuple[str, int]]:
    """Let other workers take all leases of an owner at once: (entity, epoch) of each."""
    cursor.execute(
        "UPDATE sync.cursor SET owner = NULL, lease_until = NULL WHERE owner = %s RETURNING entity, epoch", (owner,)
    )
    return [(entity, int(epoch)) for entity, epoch in cursor.fetchall()]


def end_all_leases(cursor: Cursor) -> None:
    """End the leases of all entities, so that the next follower takes up the source where the ledger stands."""
    cursor.execute("UPDATE sync.cursor SET epoch = epoch + 1, owner = NULL, lease_until = NULL")


def move(cursor: Cursor, entity: str, epoch: int, position: SourcePosition) -> None:
    """Move the position under a lease, along with the caller's next statement.

    The transaction ends with LeaseLostError where another worker has taken the lease.
    """
    through = "coalesce(%s, applied_through)" if guarded(108) else "greatest(applied_through, %s)"
    cursor.defer(
        # as the source says, even where that is earlier: the monolith's clock may have run ahead before
        f"WITH moved AS (UPDATE sync.cursor SET state = %s, applied_through = {through},"
        " window_since = %s, window_holder = %s, blind = %s, gap_at = coalesce(%s, gap_at),"
        " sweep_wanted = greatest(sweep_wanted, %s),"
        " lease_until = now() + %s * interval '1 s', updated_at = now()"
        " WHERE entity = %s AND epoch = %s RETURNING true)"
        " SELECT sync.must_hold(EXISTS (SELECT FROM moved), %s)",
        (
            Json(position.state),
            position.through,
            position.since,
            position.holder,
            position.blind,
            position.gap_at,
            position.gap_at,
            LEASE_SECONDS,
            entity,
            epoch,
            entity,
        ),
    )


def open_at(cursor: Cursor, entity: str, source: str, position: SourcePosition) -> None:
    """Set where a source begins, unless another worker has: its position, too, is older than what is read next."""
    cursor.execute(
        "UPDATE sync.cursor SET source = %s, state = %s WHERE entity = %s AND state IS NULL",
        (source, Json(position.state), entity),
    )


def reopen_at(cursor: Cursor, entity: str, source: str, position: SourcePosition, gap_at: dt.datetime) -> None:
    """Go on from a source's beginning; what was committed before `gap_at` may be missing until a sweep has ended."""
    cursor.execute(
        "UPDATE sync.cursor SET source = %s, state = %s, gap_at = %s,"
        " sweep_wanted = greatest(sweep_wanted, %s) WHERE entity = %s",
        (source, Json(position.state), gap_at, gap_at, entity),
    )


def count_events(cursor: Cursor, entity: str, deferred: int, dropped: int, unmet: int) -> None:
    """Add to the counts of events that name a version."""
    cursor.execute(
        "UPDATE sync.cursor SET events_deferred = events_deferred + %s, events_dropped = events_dropped + %s,"
        " events_unmet = events_unmet + %s, unmet_at = CASE WHEN %s THEN now() ELSE unmet_at END WHERE entity = %s",
        (deferred, dropped, unmet, unmet > 0, entity),
    )


def want_sweep(cursor: Cursor, entity: str, since: dt.datetime) -> None:
    """Ask for a sweep that begins after `since` (the monolith's time)."""
    cursor.execute(
        "UPDATE sync.cursor SET sweep_wanted = greatest(sweep_wanted, %s) WHERE entity = %s", (since, entity)
    )


def note_sweep_error(cursor: Cursor, entity: str, error: str) -> None:
    """Keep for `status` why a sweep has stopped, until one ends."""
    cursor.execute("UPDATE sync.cursor SET sweep_error = %s WHERE entity = %s", (error, entity))


def end_sweep(cursor: Cursor, entity: str, *, filled: bool, covers_files: bool) -> None:
    """Note what a sweep that has ended makes certain; `filled` says whether the history was in when it began.

    It answers requests for a sweep only where it has listed files, too. Where `swept_from` was forgotten since it left
    them out, or the history came in meanwhile, another sweep follows at once: `swept_at` stays.
    """
    # the history may have come in meanwhile, and the monolith's clock may have been set back
    counts = "(%(filled)s OR filled_at IS NULL)"
    cursor.execute(
        f"UPDATE sync.cursor c SET compared_from = CASE WHEN {counts} THEN s.began_at ELSE compared_from END,"
        f" swept_from = CASE WHEN {counts} AND %(covers_files)s THEN s.began_at ELSE swept_from END,"
        f" swept_at = CASE WHEN {counts} AND (%(covers_files)s OR swept_from IS NOT NULL) THEN now() ELSE swept_at END,"
        " listed_at = CASE WHEN %(covers_files)s THEN now() ELSE listed_at END, sweep_error = NULL"
        " FROM sync.sweep s WHERE c.entity = %(entity)s AND s.entity = c.entity",
        {"filled": filled, "covers_files": covers_files, "entity": entity},
    )


def end_history(cursor: Cursor, entity: str) -> None:
    """Note that the history is in, the first time that it is.

    A sweep has left out until now whatever the ledger does not know, so that none counts as whole. One that a recovery
    asked for is made again at once, because the new side may have lost rows of partitions that were in.
    """
    cursor.execute(
        "UPDATE sync.cursor c SET filled_at = now(), swept_from = NULL, compared_from = NULL, swept_at = CASE"
        " WHEN EXISTS (SELECT FROM sync.recovery r WHERE r.entity = c.entity) THEN NULL ELSE swept_at END"
        " WHERE entity = %s AND filled_at IS NULL",
        (entity,),
    )


def doubt_monolith(cursor: Cursor, now: dt.datetime) -> None:
    """The monolith may have lost commits, so that only a sweep from `now` (its time) on makes anything certain."""
    cursor.execute(
        "UPDATE sync.cursor SET swept_from = NULL, compared_from = NULL,"
        " applied_through = least(applied_through, %(now)s), gap_at = %(now)s, sweep_wanted = %(now)s",
        {"now": now},
    )


def forget_sweeps(cursor: Cursor) -> None:
    """The new side may have lost commits: all entities are swept again at once."""
    cursor.execute("UPDATE sync.cursor SET swept_from = NULL, compared_from = NULL, swept_at = NULL")


def take_back_claims(cursor: Cursor, now: dt.datetime, entity: str | None, since: dt.datetime | None) -> None:
    """Take back what was claimed for times after the monolith's `now`: they end before `since`, or before `now`."""
    before = "coalesce(%(since)s, %(now)s)::timestamptz - interval '1 microsecond'"
    cursor.execute(
        f"UPDATE sync.cursor SET applied_through = least(applied_through, {before}),"
        f" swept_from = least(swept_from, {before}), compared_from = least(compared_from, {before}),"
        " gap_at = least(gap_at, %(now)s),"
        " sweep_wanted = least(sweep_wanted, %(now)s) WHERE (%(entity)s::text IS NULL OR entity = %(entity)s)"
        " AND greatest(applied_through, swept_from, compared_from, gap_at, sweep_wanted) > %(now)s",
        {"now": now, "entity": entity, "since": since},
    )


def take_back_times(cursor: Cursor) -> None:
    """The new side's clock has been set back: no time of its own lies ahead any more."""
    cursor.execute("UPDATE sync.cursor SET swept_at = now() WHERE swept_at > now()")
    cursor.execute("UPDATE sync.cursor SET listed_at = now() WHERE listed_at > now()")
