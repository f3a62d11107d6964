"""The monolith's database: may our role read what is declared and no more, and can it see late commits?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import psycopg2

from sync_pipeline.db.sql import Cursor, literal
from sync_pipeline.entity import Entity
from sync_pipeline.model.notices import Notice
from sync_pipeline.preflight.excess_rights import check_excess_rights
from sync_pipeline.preflight.outboxes import outboxes
from sync_pipeline.sources.stamps import INTEGERS, UNZONED, sequence_faults
from sync_pipeline.sources.table import Table, plain
from sync_pipeline.stores.stores import Stores

ABOUT = "legacy database"

_ROLE = """
    SELECT quote_ident(current_user), pg_is_in_recovery(), pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'),
           current_setting('max_prepared_transactions')::int,
           (SELECT count(*) FROM pg_stat_activity WHERE state = 'disabled') +
           (SELECT count(*) FROM pg_db_role_setting s, unnest(s.setconfig) c
            WHERE c ~ '^track_activities=(off|false|no|0)'
              AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))),
           current_setting('track_activities')::bool,
           (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
"""
_OLD_PREPARED = """
    SELECT gid, extract(epoch FROM now() - prepared)::int FROM pg_prepared_xacts
    WHERE database = current_database() AND prepared < now() - %s * interval '1 s' ORDER BY prepared
"""
_COLUMN = """
    SELECT format_type(a.atttypid, -1), EXISTS (
        SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
        WHERE i.indrelid = a.attrelid AND i.indisvalid AND i.indpred IS NULL AND m.amname = 'btree'
          AND i.indkey[0] = a.attnum)
    FROM pg_attribute a WHERE a.attrelid = %s::regclass AND a.attname = %s AND NOT a.attisdropped
"""


def check_legacy(stores: Stores, entities: Iterable[Entity]) -> Iterator[Notice]:
    """Role, server and watermark tables. Raises UnreachableError."""
    entities = list(entities)
    with stores.legacy() as cursor:
        cursor.execute(_ROLE)
        role, replica, sees_all, prepared, hidden, tracked, superuser = cursor.fetchone()
        yield Notice("ok", ABOUT, f"reached as {role}")
        if replica:
            yield Notice(
                "error",
                ABOUT,
                "is a replica: who has transactions open on the primary does not show here",
                "point SYNC_LEGACY_DB at the primary, and SYNC_LEGACY_REPLICA_DB at the replica",
            )
        yield _sight(role, sees_all)
        yield _tracking(tracked, hidden)
        yield from _rights(cursor, role, superuser, outboxes(cursor, stores, entities))
        yield from _prepared(cursor, prepared, stores.settings.window_alert_seconds)
        for table in sorted({t for e in entities for t in e.tables if t.stamps}, key=lambda t: (t.name, t.stamps)):
            yield from _stamped(cursor, table)


def _sight(role: str, sees_all: bool) -> Notice:
    if sees_all:
        return Notice("ok", ABOUT, "sees when other roles' transactions began (pg_read_all_stats)")
    return Notice(
        "warning",
        ABOUT,
        f"{role} does not see when other roles' transactions began: what commits later than"
        " SYNC_BLIND_LOOKBACK_SECONDS after its stamp waits for the sweep",
        f"GRANT pg_read_all_stats TO {role};",
    )


def _tracking(tracked: bool, hidden: int) -> Notice:
    if tracked and not hidden:
        return Notice("ok", ABOUT, "sessions show their transactions (track_activities)")
    return Notice(
        "warning",
        ABOUT,
        "track_activities is off, for all or for some: their open transactions do not show, so what commits later"
        " than SYNC_BLIND_LOOKBACK_SECONDS after its stamp waits for the sweep",
        "ALTER SYSTEM SET track_activities = on; SELECT pg_reload_conf();"
        " and RESET it where ALTER ROLE or ALTER DATABASE has set it",
    )


def _rights(cursor: Cursor, role: str, superuser: bool, acknowledged: set[str]) -> Iterator[Notice]:
    if superuser:
        yield Notice(
            "warning",
            ABOUT,
            f"{role} is a superuser; SELECT and pg_read_all_stats are enough",
            "CREATE ROLE sync_reader LOGIN; GRANT pg_read_all_stats TO sync_reader;"
            " GRANT SELECT ON ALL TABLES IN SCHEMA public TO sync_reader;",
        )
        return
    yield from check_excess_rights(cursor, ABOUT, role, acknowledged)


def _prepared(cursor: Cursor, allowed: int, alert_seconds: float) -> Iterator[Notice]:
    if not allowed:
        yield Notice("ok", ABOUT, "prepared transactions are not allowed (max_prepared_transactions = 0)")
        return
    yield Notice("ok", ABOUT, f"prepared transactions are allowed ({allowed}); the window of late commits covers them")
    cursor.execute(_OLD_PREPARED, (alert_seconds,))
    for gid, age in cursor.fetchall():
        yield Notice(
            "warning",
            ABOUT,
            f"transaction {gid} has been prepared for {age} s and holds the window open",
            f"COMMIT PREPARED {literal(gid)}; or ROLLBACK PREPARED {literal(gid)};",
        )


def _stamped(cursor: Cursor, stamped: Table) -> Iterator[Notice]:
    table = stamped.name
    try:
        cursor.execute("SELECT to_regclass(%s)", (table,))
    except psycopg2.errors.InsufficientPrivilege:
        return  # of its schema: the check of grants says so
    if cursor.fetchone()[0] is None:
        return  # the entity's own check says so
    for column in stamped.stamps:
        yield from _stamp(cursor, stamped, column)


def _stamp(cursor: Cursor, stamped: Table, column: str) -> Iterator[Notice]:
    table = stamped.name
    cursor.execute(_COLUMN, (table, plain(column)))
    found = cursor.fetchone()
    if found is None:
        return  # the entity's own check says so
    kind, indexed = found
    if kind in INTEGERS:
        faults = [*sequence_faults(cursor, stamped, column)]
        yield from (Notice("error", ABOUT, what, remedy) for what, remedy in faults)
        if not faults:
            yield Notice("ok", ABOUT, f"{table}.{column} is drawn from a sequence that only rises")
    else:
        yield _type_of_stamp(stamped, column, kind)
    if indexed:
        yield Notice("ok", ABOUT, f"{table}.{column} has an index")
    else:
        yield Notice(
            "error",
            ABOUT,
            f"{table}.{column} has no index: every poll would read the whole table",
            f"CREATE INDEX CONCURRENTLY ON {table} ({column});",
        )


def _type_of_stamp(table: Table, column: str, kind: str) -> Notice:
    name = f"{table.name}.{column}"
    zoned = kind == "timestamp with time zone"
    if zoned and (not table.zone or len(table.stamps) > 1):
        return Notice("ok", ABOUT, f"{name} is a {kind}")
    if zoned:
        return Notice("error", ABOUT, f"{name} has a time zone of its own", "leave `zone` out of its Table")
    if kind != UNZONED:
        what = f"{name} is a {kind}: a stamp is a timestamp, or a whole number drawn from a sequence"
        return Notice("error", ABOUT, what, "mend the entity's Table")
    if not table.zone:
        return Notice(
            "error",
            ABOUT,
            f"{name} is a {kind}: nobody can say which instant it means",
            f'say the zone the monolith stamps in: Table("{table.name}", …, zone="Europe/Berlin")',
        )
    return Notice("ok", ABOUT, f"{name} is a {kind}, read as {table.zone}")
