"""The monolith's replica, where rows are read from one: is it this primary's, and may our role read there?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sync_pipeline.db.sql import Cursor
from sync_pipeline.entity import Entity
from sync_pipeline.model.notices import Notice
from sync_pipeline.stores.replica import SETTING, identity_of, position_of
from sync_pipeline.stores.stores import Stores

ABOUT = "legacy replica"
_RESUME = "SELECT pg_wal_replay_resume(); at the replica"
_STATE = """
    SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() END,
           CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() - '0/0' END, quote_ident(current_user)
"""


def check_replica(stores: Stores, entities: Iterable[Entity]) -> Iterator[Notice]:
    """Nothing, where rows are read from the primary. Raises UnreachableError."""
    if not stores.settings.legacy_replica_db:
        return
    with stores.legacy() as primary:
        wanted, position = identity_of(primary), position_of(primary)
    with stores.replica() as cursor:
        cursor.execute(_STATE)
        in_recovery, paused, replayed, role = cursor.fetchone()
        if not in_recovery:
            yield Notice("error", ABOUT, "is no replica, or has been promoted", f"point {SETTING} at a replica")
            return
        if identity_of(cursor) != wanted:
            yield Notice("error", ABOUT, "is another server's, or another database", f"point {SETTING} at the replica")
            return
        behind = max(0, position - int(replayed))
        if paused:
            yield Notice("error", ABOUT, f"does not replay: it is paused, {behind:,} bytes behind", _RESUME)
        else:
            yield Notice("ok", ABOUT, f"reached as {role}, {behind:,} bytes behind")
        yield from _rights(cursor, role, entities)


def _rights(cursor: Cursor, role: str, entities: Iterable[Entity]) -> Iterator[Notice]:
    for table in sorted({table.name for entity in entities for table in entity.tables}):
        cursor.execute(
            "SELECT to_regclass(%(t)s) IS NULL OR has_any_column_privilege(to_regclass(%(t)s), 'SELECT')", {"t": table}
        )
        if not cursor.fetchone()[0]:
            remedy = f"GRANT SELECT ON {table} TO {role}; at the primary"
            yield Notice("error", ABOUT, f"{role} may not read {table}", remedy)
