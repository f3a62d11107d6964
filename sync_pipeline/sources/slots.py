"""Replication slots of ours in the monolith: their names, how they are made, and what they keep."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from sync_pipeline.db.sql import Cursor, literal, quote
from sync_pipeline.errors import UnreachableError
from sync_pipeline.sources.source import Subject
from sync_pipeline.stores.stores import Stores

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
# a monolith that did not answer is not asked again for so long: a report on many entities waits once
_SILENT_SECONDS = 10.0
_silent: WeakKeyDictionary[Stores, tuple[float, UnreachableError]] = WeakKeyDictionary()


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


def our_slots(stores: Stores) -> list[Slot]:
    """Slots of this deployment in the monolith, read or not. Raises UnreachableError."""
    since, error = _silent.get(stores, (0.0, None))
    if error and time.monotonic() - since < _SILENT_SECONDS:
        raise error
    try:
        with stores.legacy() as cursor:
            return read_slots(cursor, stores.settings.slot_prefix, stores.ledger_id())
    except UnreachableError as caught:
        _silent[stores] = time.monotonic(), caught
        raise


def slot_alerts(stores: Stores, entity: str, is_read: bool, known: Collection[str] = ()) -> Iterator[str]:
    """Say what an entity's slot keeps, whether it is read or not, as the monolith has it now.

    `is_read` is whether the entity's source is the log. `known` are alerts that the entity has anyway.
    """
    try:
        found = [s for s in our_slots(stores) if s.name == slot_named(stores.settings.slot_prefix, entity)]
    except UnreachableError as error:
        if is_read:
            yield f"slots could not be looked at, and they may fill the monolith's disk: {error}"
        return
    for slot in found:
        if not is_read:
            yield f"slot {slot.name} keeps {slot.retained_bytes:,} bytes of the monolith's log for nothing: {slot.drop}"
        elif slot.is_lost:
            yield f"slot {slot.name} has lost its log (max_slot_wal_keep_size): it is made anew, what it held is swept"
        elif slot.retained_bytes > stores.settings.wal_alert_bytes and not any(
            "slot keeps" in alert for alert in known
        ):
            reader = "it is read" if slot.active else "nothing reads it"
            yield (
                f"the slot keeps {slot.retained_bytes:,} bytes of the monolith's log, and {reader}"
                f" (SYNC_WAL_ALERT_BYTES is {stores.settings.wal_alert_bytes:,})"
            )


def orphans(slots: Collection[Slot], prefix: str, entities: Collection[str]) -> list[Slot]:
    """Slots of entities that have no file."""
    names = {slot_named(prefix, entity) for entity in entities}
    return [slot for slot in slots if slot.name not in names]


def orphan_alerts(stores: Stores, entities: Collection[str]) -> list[str]:
    """Say which slots belong to no entity, with the statement that drops them; nothing where that is not known."""
    try:
        found = orphans(our_slots(stores), stores.settings.slot_prefix, entities)
    except UnreachableError:
        return []  # the entities' own alerts say so
    return [orphan_text(slot) for slot in found]


def orphan_text(slot: Slot) -> str:
    """What to say of a slot that belongs to no entity."""
    owner = "this ledger" if slot.ledger else "no publication says whose it is"
    return (
        f"slot {slot.name} keeps {slot.retained_bytes:,} bytes of the monolith's log and belongs to no entity"
        f" ({owner}): {slot.drop}"
    )
