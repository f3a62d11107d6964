"""The ledger of servers: which ones the two sides are on, and what a change of either one asks for.

A new timeline of a server means that it was promoted or restored, so that commits may be lost that it had shown before.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sync_pipeline.db.sql import Cursor
from sync_pipeline.errors import OtherServerError
from sync_pipeline.ledger import cursor_table, queue_table
from sync_pipeline.model.faults import guarded

# the ledger's own error: a batch has read from a server that the monolith has left since
READ_TOO_EARLY = "SYL02"
_LOCK = "1398362707, 1"
# more numbers than are drawn in years: those of lost transactions are never drawn again
_REVISION_LEAP = 1_000_000_000
# clocks are compared with a look that is a little older
_CLOCK_SECONDS = 1.0


class Side(StrEnum):
    """One of the two databases."""

    MONOLITH = "monolith"
    NEW_SIDE = "new-side"


SETTINGS = {Side.MONOLITH: "SYNC_LEGACY_DB", Side.NEW_SIDE: "SYNC_TARGET_DB"}

# A backend that crashes takes all others with it: the postmaster stays and starts them anew, the checkpointer as well.
_ACTUAL = """
    SELECT s.system_identifier::text, d.oid::bigint, d.datname::text, pg_is_in_recovery(),
        CASE WHEN pg_is_in_recovery()
            THEN greatest((SELECT received_tli FROM pg_stat_wal_receiver),
                (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
                (SELECT timeline_id FROM pg_control_checkpoint()))
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer END,
        greatest(pg_postmaster_start_time(),
            (SELECT backend_start FROM pg_stat_activity WHERE backend_type = 'checkpointer')),
        CASE WHEN pg_is_in_recovery() THEN 0 ELSE pg_current_wal_flush_lsn() - '0/0' END::bigint, clock_timestamp(),
        current_setting('fsync') = 'off' OR current_setting('synchronous_commit') = 'off' OR EXISTS (
            SELECT FROM pg_db_role_setting r, unnest(r.setconfig) c
            WHERE r.setdatabase IN (0, d.oid) AND c ~ '^(synchronous_commit|fsync)=(off|false|no|0)')
    FROM pg_control_system() s, pg_database d WHERE d.datname = current_database()
"""
_RECORDED = """
    SELECT system_id, database_oid, database_name, timeline, started_at, flushed, seen_at, changed_at, read_above
    FROM sync.server WHERE side = %s
"""


@dataclass(frozen=True)
class Server:
    """A server as a connection leads to it now. On a standby the timeline is the one that it replays."""

    system: str
    database: int
    name: str
    in_recovery: bool
    timeline: int
    started_at: dt.datetime
    flushed: int
    now: dt.datetime
    may_lose: bool  # a crash may lose commits that were shown

    def __str__(self) -> str:
        return f"database {self.name} (oid {self.database}) of system {self.system} on timeline {self.timeline}"


@dataclass(frozen=True)
class Recorded:
    """A server as the ledger has recorded it."""

    system: str
    database: int
    name: str
    timeline: int
    started_at: dt.datetime
    flushed: int
    seen_at: dt.datetime
    changed_at: dt.datetime
    read_above: int

    def __str__(self) -> str:
        return f"database {self.name} (oid {self.database}) of system {self.system} on timeline {self.timeline}"


class Change(StrEnum):
    """How a server differs from what the ledger has recorded."""

    NONE = "none"
    RESTARTED = "restarted"  # and nothing that it had shown can be lost
    LOST = "may have lost commits"
    OTHER = "another server"


def read_server(cursor: Cursor) -> Server:
    """Ask a connection's server who it is. Any role may, except that a standby hides its receiver from some."""
    cursor.execute(_ACTUAL)
    return Server(*cursor.fetchone())


def recorded(cursor: Cursor, side: Side) -> Recorded | None:
    """Return what the ledger has recorded of a side, or None before it has, or before there is a ledger."""
    cursor.execute("SELECT to_regclass('sync.server') IS NOT NULL")
    if not cursor.fetchone()[0]:
        return None
    cursor.execute(_RECORDED, (side,))
    found = cursor.fetchone()
    return Recorded(*found) if found else None


def change_of(before: Recorded, server: Server) -> Change:
    """Compare a server with what was recorded before it was asked."""
    if (before.system, before.database) != (server.system, server.database):
        return Change.OTHER
    if server.in_recovery:  # preflight refuses it; what was recorded is its primary
        return Change.NONE
    if server.timeline < before.timeline:
        return Change.OTHER
    if server.timeline > before.timeline or server.flushed < before.flushed:
        return Change.LOST
    if server.started_at != before.started_at:
        return Change.LOST if server.may_lose and guarded(114) else Change.RESTARTED
    return Change.NONE


def other_server(side: Side, before: Recorded, server: Server) -> OtherServerError:
    """Return the error that names both servers, and what to do."""
    older = (before.system, before.database) == (server.system, server.database)
    meant = (
        "it may be the old primary, which a failover has left behind"
        if older
        else "it may be meant, after a restore from a dump or pg_upgrade"
    )
    return OtherServerError(
        f"{SETTINGS[side]}: another server than expected. It leads to {server}, and the ledger has recorded {before}."
        f" Nothing is read there: {meant}. Point {SETTINGS[side]} at the expected server, or accept this one:"
        " sync-pipeline servers accept"
    )


def record(cursor: Cursor, side: Side, server: Server) -> None:
    """Record a side's server for the first time, unless another process has."""
    cursor.execute(
        "INSERT INTO sync.server (side, system_id, database_oid, database_name, timeline, started_at, flushed, seen_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (side, *_values(server)),
    )


def touch(cursor: Cursor, side: Side, server: Server) -> None:
    """Record how far a server has come; a look that is older than the recorded one changes nothing."""
    cursor.execute(
        "UPDATE sync.server SET database_name = %s, started_at = %s, flushed = %s, seen_at = %s"
        " WHERE side = %s AND timeline = %s AND flushed <= %s",
        (server.name, server.started_at, server.flushed, server.now, side, server.timeline, server.flushed),
    )


def note_change(cursor: Cursor, side: Side, before: Recorded, server: Server, cause: str) -> bool:
    """Record another server or timeline, and all that follows from it, in the caller's transaction.

    Returns False where another process has noted it since `before` was read.
    """
    cursor.execute("SET LOCAL lock_timeout = '10s'")
    cursor.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")  # batches that are about to commit come first
    cursor.execute("SELECT changed_at FROM sync.server WHERE side = %s FOR UPDATE", (side,))
    found = cursor.fetchone()
    if found and found[0] != before.changed_at:
        return False
    cursor.execute("SELECT nextval('sync.revision')")
    cursor.execute(
        "UPDATE sync.server SET (system_id, database_oid, database_name, timeline, started_at, flushed, seen_at)"
        " = (%s, %s, %s, %s, %s, %s, %s), changed_at = clock_timestamp(), cause = %s,"
        " read_above = greatest(read_above, currval('sync.revision')) WHERE side = %s",
        (*_values(server), cause, side),
    )
    # whoever follows takes up its source where the ledger stands
    cursor_table.end_all_leases(cursor)
    if side is Side.MONOLITH:
        _doubt_the_monolith(cursor, server.now)
    else:
        ask_for_recovery(cursor, cause)
    return True


def _doubt_the_monolith(cursor: Cursor, now: dt.datetime) -> None:
    """Rows that were applied may exist no more, in any entity: only a sweep can tell.

    What was known of versions is forgotten, because a lost one may be higher than those that come.
    """
    if not guarded(110):
        return
    cursor.execute("DELETE FROM sync.version")
    cursor_table.doubt_monolith(cursor, now)


def ask_for_recovery(cursor: Cursor, cause: str) -> None:
    """Have all entities swept, and their indices and files compared with the ledger; revisions go on far above."""
    if not guarded(111):
        return
    cursor.execute("SELECT pg_advisory_xact_lock(hashtext('sync.revision'))")
    cursor.execute("SELECT setval('sync.revision', nextval('sync.revision') + %s)", (_REVISION_LEAP,))
    cursor_table.forget_sweeps(cursor)
    cursor.execute(
        "INSERT INTO sync.recovery (entity, sink, part, cause)"
        " SELECT entity, name, part, %s FROM sync.sink, unnest(parts) part"
        " ON CONFLICT (entity, sink, part) DO UPDATE SET asked_at = clock_timestamp(), cause = excluded.cause,"
        " position = NULL, checked = 0, queued = 0, claimed_until = NULL, done_at = NULL",
        (cause,),
    )


def is_recovering(cursor: Cursor, entity: str) -> bool:
    """Whether an entity's indices and files are still compared with a ledger that has lost commits."""
    cursor.execute("SELECT EXISTS (SELECT FROM sync.recovery WHERE entity = %s AND done_at IS NULL)", (entity,))
    return bool(cursor.fetchone()[0])


def any_recovering(cursor: Cursor) -> bool:
    """Whether that is so of some entity."""
    cursor.execute("SELECT EXISTS (SELECT FROM sync.recovery WHERE done_at IS NULL)")
    return bool(cursor.fetchone()[0])


def recovery_of(cursor: Cursor, entity: str) -> dict[str, Any] | None:
    """Return what is left of an entity's recovery, for people; None where there is none."""
    cursor.execute(
        "SELECT min(asked_at), min(cause), array_agg(DISTINCT part ORDER BY part), sum(checked)::bigint,"
        " sum(queued)::bigint"
        " FROM sync.recovery WHERE entity = %s AND done_at IS NULL",
        (entity,),
    )
    since, cause, parts, checked, queued = cursor.fetchone()
    if since is None:
        return None
    return {"since": since, "cause": cause, "parts": parts, "checked": checked, "queued": queued}


def take_back_claims(
    cursor: Cursor, now: dt.datetime, entity: str | None = None, since: dt.datetime | None = None
) -> None:
    """Take back claims that lie after the monolith's `now`: they were made before its clock was set back.

    They end before `since` then, or before `now`. Of one entity, or of all of them.
    """
    if not guarded(108):
        return
    before = "coalesce(%(since)s, %(now)s)::timestamptz - interval '1 microsecond'"
    # a walk that is under way claims its beginning once it ends; it holds this row first, too
    cursor.execute(
        f"UPDATE sync.sweep SET began_at = {before} WHERE (%(entity)s::text IS NULL OR entity = %(entity)s)"
        " AND began_at > %(now)s",
        {"now": now, "entity": entity, "since": since},
    )
    cursor_table.take_back_claims(cursor, now, entity, since)


def take_back_times(cursor: Cursor) -> None:
    """The new side's clock has been set back: what waits by its former time waits no longer than it was meant to."""
    if not guarded(112):
        return
    queue_table.take_back_times(cursor)
    cursor_table.take_back_times(cursor)
    cursor.execute("UPDATE sync.recovery SET claimed_until = NULL, asked_at = least(asked_at, now())")
    cursor.execute(
        "UPDATE sync.heartbeat SET seen_at = now(), started_at = least(started_at, now()) WHERE seen_at > now()"
    )


def is_set_back(before: Recorded, server: Server) -> bool:
    """Whether a server's clock shows less than it did at an earlier look."""
    return server.now < before.seen_at - dt.timedelta(seconds=_CLOCK_SECONDS)


def check_read(cursor: Cursor, revision: int, timeline: int | None) -> None:
    """End the caller's transaction where it writes what was read from a server that the monolith has left since."""
    if guarded(113):
        cursor.defer("SELECT sync.check_read(%s, %s)", (revision, timeline))


def _values(server: Server) -> tuple[object, ...]:
    return (
        server.system,
        server.database,
        server.name,
        server.timeline,
        server.started_at,
        server.flushed,
        server.now,
    )
