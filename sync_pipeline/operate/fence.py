"""The fence: a moment of the monolith's clock after which its writers should write no more, and who still may.

Who has a transaction open at the fence may still commit rows, stamped long before. A transaction keeps a lock on its
own virtual number until its rows are visible, and `pg_locks` shows that lock to everybody, whatever else a session
hides. Once the last of them has ended (the horizon), nothing that was written before the fence is invisible.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass

from sync_pipeline.db.sql import Cursor, named
from sync_pipeline.errors import SettingError
from sync_pipeline.model.faults import guarded
from sync_pipeline.stores.sessions import Purpose, keyword, ours
from sync_pipeline.stores.stores import Stores

_SESSIONS = f"""
    SELECT l.pid || ' ' || l.virtualtransaction AS name, 'pid ' || l.pid AS who, a.usename::text AS role,
        coalesce(a.application_name, '') AS application, coalesce(a.state, 'hidden') AS state,
        extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS seconds,
        a.backend_xid IS NOT NULL AS has_written, coalesce({keyword("a.query")}, '') AS statement
    FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.granted
      AND a.datid = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND coalesce(a.backend_type, 'hidden') NOT IN ('autovacuum worker', 'parallel worker', 'walsender')
      AND NOT {ours("a")}
    ORDER BY a.xact_start
"""
_PREPARED = """
    SELECT 'prepared ' || transaction AS name, 'gid ' || gid AS who, owner::text AS role, '' AS application,
        'prepared' AS state, extract(epoch FROM clock_timestamp() - prepared)::float8 AS seconds, true AS has_written,
        '' AS statement
    FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared
"""
_NEXT_XID = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
_STANDING = """
    SELECT t.name, coalesce(sum(pg_stat_get_tuples_deleted(p.relid)), 0)::bigint,
        array_agg(pg_relation_filenode(p.relid) ORDER BY p.relid)
    FROM unnest(%s::text[]) t(name) JOIN pg_class c ON c.oid = t.name::regclass AND c.relkind IN ('r', 'p'),
        LATERAL (SELECT c.oid AS relid UNION SELECT relid FROM pg_partition_tree(c.oid)) p
    GROUP BY t.name
"""


@dataclass(frozen=True)
class Fence:
    """When writers should have ended, and how far the monolith's log reached."""

    at: dt.datetime
    lsn: str


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
    statement: str  # the first word of its last one: SELECT, UPDATE


@dataclass(frozen=True)
class Horizon:
    """What the tables showed once all had ended that were open at the fence."""

    next_xid: int
    tables: dict[str, tuple[int, list[int]]]  # rows deleted so far, and files, by table


def put_fence(stores: Stores) -> Fence:
    """A fence now. Raises SettingError at a replica."""
    with stores.legacy() as cursor:
        cursor.execute("SELECT pg_is_in_recovery()")
        if cursor.fetchone()[0]:
            raise SettingError(
                "SYNC_LEGACY_DB is a replica: who has transactions open on the primary does not show there;"
                " point it at the primary, and SYNC_LEGACY_REPLICA_DB at the replica"
            )
        cursor.execute("SELECT clock_timestamp(), pg_current_wal_insert_lsn()::text")
        return Fence(*cursor.fetchone())


class Held:
    """The transactions that were open at the fence; `open` are those that still are."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self._sessions, self._prepared = self._read_holders()

    @property
    def open(self) -> list[Holder]:
        """As the last look saw them."""
        return [*self._sessions.values(), *self._prepared.values()] if guarded(42) else []

    def have_ended(self) -> bool:
        """Look again. One that has ended may have been prepared: then all that are prepared now are waited for."""
        sessions, prepared = self._read_holders()
        left = {name: holder for name, holder in sessions.items() if name in self._sessions}
        if len(left) == len(self._sessions):
            prepared = {name: holder for name, holder in prepared.items() if name in self._prepared}
        self._sessions, self._prepared = left, prepared
        return not self.open

    def _read_holders(self) -> tuple[dict[str, Holder], dict[str, Holder]]:
        """Sessions before prepared transactions: one that is prepared in between shows in both."""
        with self.stores.legacy() as cursor:
            return _holders(cursor, _SESSIONS), _holders(cursor, _PREPARED)


def _holders(cursor: Cursor, query: str) -> dict[str, Holder]:
    return {row["name"]: Holder(**row) for row in named(cursor, query, {})}


def horizon_of(stores: Stores, tables: Iterable[str]) -> Horizon:
    """The horizon, now."""
    with stores.legacy() as cursor:
        cursor.execute(_NEXT_XID)
        (next_xid,) = cursor.fetchone()
        return Horizon(next_xid, _rows(cursor, sorted({*tables})))


def written_since(stores: Stores, horizon: Horizon) -> list[str]:
    """What the monolith's tables show of transactions that began to write after the horizon.

    Where no transaction of the whole server has, that is certain. Else rows tell by their xmin, and deletions by the
    server's counters, which come some seconds late.
    """
    with stores.legacy(Purpose.WHOLE) as cursor:
        cursor.execute(_NEXT_XID)
        drawn = cursor.fetchone()[0] - horizon.next_xid
        if not drawn:
            return []
        found = []
        now = _rows(cursor, [*horizon.tables])
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


def _rows(cursor: Cursor, tables: list[str]) -> dict[str, tuple[int, list[int]]]:
    cursor.execute(_STANDING, (tables,))
    return {name: (deleted, files) for name, deleted, files in cursor.fetchall()}
