"""Replication slots of ours in the monolith: their names, how they are made, and what they keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sync_pipeline.sources.source import Subject
from sync_pipeline.sql import Cursor, literal, quote

# slots that a standby can take over with their position are known since this version
FAILOVER_SINCE = 170000
_OURS = """
    SELECT s.slot_name::text, s.active, coalesce(s.wal_status, ''),
           coalesce(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), s.restart_lsn), 0)::bigint,
           substring(obj_description(p.oid, 'pg_publication') FROM '"ledger": "([0-9a-f]{8})"')
    FROM pg_replication_slots s LEFT JOIN pg_publication p ON p.pubname = s.slot_name
    WHERE s.database = current_database() AND s.plugin = 'pgoutput' AND NOT s.temporary
      AND left(s.slot_name, length(%(prefix)s)) = %(prefix)s
    ORDER BY 1
"""


@dataclass(frozen=True)
class Slot:
    """A slot whose name begins with our prefix; `ledger` is whose its publication says it is, if it does."""

    name: str
    active: bool
    status: str
    retained_bytes: int
    ledger: str | None

    @property
    def is_lost(self) -> bool:
        """Whether the server has invalidated it."""
        return self.status == "lost"

    @property
    def drop(self) -> str:
        """The statement that removes it."""
        return f"SELECT pg_drop_replication_slot({literal(self.name)});"


def slot_name(subject: Subject) -> str:
    """The name of slot and publication."""
    return slot_named(subject.stores.settings.slot_prefix, subject.entity)


def slot_named(prefix: str, entity: str) -> str:
    """The name of an entity's slot and publication."""
    return f"{prefix}_{entity}"


def read_slots(cursor: Cursor, prefix: str, ledger: str | None) -> list[Slot]:
    """Slots of the database whose names begin with our prefix, but for those of another ledger."""
    cursor.execute(_OURS, {"prefix": f"{prefix}_"})
    slots = [Slot(*row) for row in cursor.fetchall()]
    return [slot for slot in slots if slot.ledger in {None, ledger}]


def create_slot(cursor: Any, name: str) -> None:
    """Make a slot by a replication cursor, one that standbys take over where the server knows such slots."""
    if cursor.connection.server_version < FAILOVER_SINCE:
        cursor.execute(f"CREATE_REPLICATION_SLOT {quote(name)} LOGICAL pgoutput NOEXPORT_SNAPSHOT")
    else:
        cursor.execute(f"CREATE_REPLICATION_SLOT {quote(name)} LOGICAL pgoutput (SNAPSHOT 'nothing', FAILOVER true)")


def make_failover(cursor: Any, name: str) -> None:
    """Let standbys take a slot over that was made without that, by a replication cursor; nobody may read it."""
    cursor.execute(f"ALTER_REPLICATION_SLOT {quote(name)} (FAILOVER true)")
