"""Draining: once the monolith's writers are fenced off, all that they committed is brought over, and that is proven.

The fence is a moment of the monolith's clock. Who has a transaction open then may still commit rows, stamped long
before. So these are waited for, all of them: a transaction keeps a lock on its own virtual number until its rows are
visible, and `pg_locks` shows that lock to everybody, whatever else a session hides. Once the last of them has ended
(the horizon), a whole sweep is begun beside the sources: what is in all sinks after that leaves nothing out.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sync_pipeline import due
from sync_pipeline.errors import SettingError, StoppedError
from sync_pipeline.faults import guarded
from sync_pipeline.lane import Lane
from sync_pipeline.live import caught_up, mark
from sync_pipeline.sql import Cursor, named
from sync_pipeline.status import status_of
from sync_pipeline.stores import APPLICATION, Stores

_LOOK_SECONDS = 0.2
_SHOWN = 20
_SESSIONS = """
    SELECT l.pid || ' ' || l.virtualtransaction AS name, 'pid ' || l.pid AS who, a.usename::text AS role,
        coalesce(a.application_name, '') AS application, coalesce(a.state, 'hidden') AS state,
        extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS seconds,
        a.backend_xid IS NOT NULL AS has_written, coalesce(left(a.query, 200), '') AS query
    FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.granted
      AND a.datid = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND coalesce(a.backend_type, 'hidden') NOT IN ('autovacuum worker', 'parallel worker', 'walsender')
      AND NOT (a.application_name = %(ours)s AND a.usename = current_user)
    ORDER BY a.xact_start
"""
_PREPARED = """
    SELECT 'prepared ' || transaction AS name, 'gid ' || gid AS who, owner::text AS role, '' AS application,
        'prepared' AS state, extract(epoch FROM clock_timestamp() - prepared)::float8 AS seconds, true AS has_written,
        '' AS query
    FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared
"""
_NEXT_XID = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
_STANDING = """
    SELECT t.name, coalesce(sum(pg_stat_get_tuples_deleted(p.relid)), 0)::bigint,
        array_agg(pg_relation_filenode(p.relid) ORDER BY p.relid)
    FROM unnest(%s::text[]) t(name), LATERAL (
        SELECT t.name::regclass AS relid UNION SELECT relid FROM pg_partition_tree(t.name::regclass)) p
    GROUP BY t.name
"""
_PARKED = """
    SELECT entity, reason, coalesce(key, keys[1]) AS key, error, message FROM sync.due
    WHERE entity = ANY(%(entities)s) AND reason = ANY(%(parked)s) ORDER BY entity, reason, first_at, id LIMIT %(shown)s
"""


@dataclass(frozen=True)
class Holder:
    """Who has a transaction open in the monolith; what a session hides is `hidden`, None or empty."""

    name: str  # of the transaction, not of the session
    who: str  # `pid 17`, or `gid …` of a prepared one
    role: str | None
    application: str
    state: str
    seconds: float | None  # for how long it has been open, or prepared
    has_written: bool  # or may have: one that has not, may yet
    query: str


@dataclass(frozen=True)
class Horizon:
    """The monolith once all transactions have ended that were open at the fence."""

    at: dt.datetime
    next_xid: int
    tables: dict[str, tuple[int, list[int]]]  # rows deleted so far, and files, by table


@dataclass
class Drained:
    """What came of a drain. Times are the monolith's."""

    fence: dt.datetime
    lsn: str
    waited_for: list[Holder] = field(default_factory=list)
    still_open: list[Holder] = field(default_factory=list)
    through: dt.datetime | None = None  # everything committed before is in all sinks; None: that is not known
    entities: dict[str, dict[str, Any]] = field(default_factory=dict)  # as status tells
    parked: list[dict[str, Any]] = field(default_factory=list)  # some of the rows that are not in
    written_since: list[str] = field(default_factory=list)  # sentences: by whoever was not fenced off

    @property
    def word(self) -> str:
        """`unknown` before `open fence` before `parked` before `drained`."""
        if self.through is None:
            return "unknown"
        if self.written_since:
            return "open fence"
        return "parked" if self.parked else "drained"


def drain(
    lanes: list[Lane], seconds: float, halt: threading.Event, failures: Mapping[str, Exception] | None = None
) -> Drained:
    """Wait until everything committed before now, or by whoever has a transaction open now, is in all sinks.

    Somebody must follow meanwhile; entities that `failures` comes to name are not waited for. Gives up after so many
    seconds, or when `halt` is set. Raises SettingError at a replica, StoppedError where a history is not in.
    """
    stores, limit = lanes[0].stores, time.monotonic() + seconds
    _refuse(lanes)

    def come(is_so: Callable[[], bool]) -> bool:
        """Wait for it; False when it does not come in time."""
        while not is_so():
            if time.monotonic() > limit or halt.wait(_LOOK_SECONDS):
                return False
        return True

    drained = _fence(stores)
    held = Held(stores)
    drained.waited_for = held.open
    gone = come(held.have_ended)
    drained.still_open = held.open
    if gone:
        horizon = _horizon(stores, lanes)
        if come(lambda: all(lane.entity.name in (failures or ()) or caught_up(lane, horizon.at) for lane in lanes)):
            drained.through = horizon.at
            drained.written_since = _written_since(stores, horizon)
    drained.entities = {lane.entity.name: status_of(stores, lane.entity) for lane in lanes}
    drained.parked = _parked(stores, drained.entities)
    return drained


class Held:
    """The transactions that were open at the fence; `open` are those that still are."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        sessions, prepared = self._look()
        self._sessions, self._prepared = sessions, prepared

    @property
    def open(self) -> list[Holder]:
        """As the last look saw them."""
        return [*self._sessions.values(), *self._prepared.values()] if guarded(42) else []

    def have_ended(self) -> bool:
        """Look again. One that has ended may have been prepared: then all that are prepared now are waited for."""
        sessions, prepared = self._look()
        left = {name: holder for name, holder in sessions.items() if name in self._sessions}
        if len(left) == len(self._sessions):
            prepared = {name: holder for name, holder in prepared.items() if name in self._prepared}
        self._sessions, self._prepared = left, prepared
        return not self.open

    def _look(self) -> tuple[dict[str, Holder], dict[str, Holder]]:
        """Sessions before prepared transactions: one that is prepared in between shows in both."""
        with self.stores.legacy() as cursor:
            return _holders(cursor, _SESSIONS), _holders(cursor, _PREPARED)


def _holders(cursor: Cursor, query: str) -> dict[str, Holder]:
    return {row["name"]: Holder(**row) for row in named(cursor, query, {"ours": APPLICATION})}


def _fence(stores: Stores) -> Drained:
    with stores.legacy() as cursor:
        cursor.execute("SELECT pg_is_in_recovery()")
        if cursor.fetchone()[0]:
            raise SettingError(
                "SYNC_LEGACY_DB is a replica: who has transactions open on the primary does not show there;"
                " point it at the primary, and SYNC_LEGACY_REPLICA_DB at the replica"
            )
        cursor.execute("SELECT clock_timestamp(), pg_current_wal_insert_lsn()::text")
        return Drained(*cursor.fetchone())


def _refuse(lanes: Iterable[Lane]) -> None:
    """A sweep finds nothing of what was never filled, nor in rows of an older version. Raises StoppedError."""
    reasons = []
    for lane in lanes:
        name, ledger = lane.entity.name, lane.ledger
        with lane.stores.target() as cursor:
            cursor.execute(
                "SELECT filled_at IS NOT NULL, (SELECT count(*) FROM"
                f" {ledger.table} WHERE digest IS NOT NULL AND basis <> %s) FROM sync.cursor WHERE entity = %s",
                (ledger.basis, name),
            )
            is_filled, outdated = cursor.fetchone()
        if not is_filled:
            reasons.append(f"entity {name}: its history is not all in: sync-pipeline backfill {name}")
        elif outdated:
            reasons.append(
                f"entity {name}: {outdated:,} rows are of an older version, so that no sweep can tell whether they have"
                f" changed: sync-pipeline backfill {name}"
            )
    if reasons:
        raise StoppedError(*reasons)


def _horizon(stores: Stores, lanes: list[Lane]) -> Horizon:
    """Now; and a sweep that begins after it is asked for."""
    tables = sorted({table.name for lane in lanes for table in lane.entity.tables})
    with stores.legacy() as cursor:
        cursor.execute(_NEXT_XID)
        (next_xid,) = cursor.fetchone()
        standing = _standing(cursor, tables)
    return Horizon(mark(lanes), next_xid, standing)


def _standing(cursor: Cursor, tables: list[str]) -> dict[str, tuple[int, list[int]]]:
    cursor.execute(_STANDING, (tables,))
    return {name: (deleted, files) for name, deleted, files in cursor.fetchall()}


def _written_since(stores: Stores, horizon: Horizon) -> list[str]:
    """What the monolith's tables show of transactions that began to write after the horizon.

    Where no transaction of the whole server has, that is certain. Else rows tell by their xmin, and deletions by the
    server's counters, which come some seconds late.
    """
    with stores.legacy() as cursor:
        cursor.execute(_NEXT_XID)
        drawn = cursor.fetchone()[0] - horizon.next_xid
        if not drawn:
            return []
        found = []
        now = _standing(cursor, [*horizon.tables])
        for table, (deleted, files) in horizon.tables.items():
            # a row's xmin counts modulo 2^32
            newer = f"(xmin::text::bigint - {horizon.next_xid}) & 4294967295 < {drawn}"
            cursor.execute(f"SELECT count(*) FROM {table} WHERE {newer}")
            (rows,) = cursor.fetchone()
            if rows:
                found.append(f"{table}: {rows:,} rows")
            if now[table][0] > deleted:
                found.append(f"{table}: {now[table][0] - deleted:,} rows deleted")
            if now[table][1] != files:
                found.append(f"{table}: emptied, or rewritten")
        return found


def _parked(stores: Stores, entities: Iterable[str]) -> list[dict[str, Any]]:
    with stores.target() as cursor:
        return named(cursor, _PARKED, {"entities": [*entities], "parked": list(due.PARKED), "shown": _SHOWN})
