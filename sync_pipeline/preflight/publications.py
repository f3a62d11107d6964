"""Everything of ours that publishes the monolith's log: does a write fail under it, is it half done, does it keep log?

All publications and slots with our comment or prefix are looked at, whichever entities are checked: what was made for
one entity can make the writes of another one's table fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import psycopg2

from sync_pipeline.db.sql import Cursor
from sync_pipeline.entities.files import read_entity_files
from sync_pipeline.entity import Entity
from sync_pipeline.errors import SyncError
from sync_pipeline.model.notices import Notice
from sync_pipeline.sources.ddl import printed
from sync_pipeline.sources.publication import Publication, read_publications, removal
from sync_pipeline.sources.replica_identity import read_members, read_publishers, refused_writes
from sync_pipeline.sources.slots import Slot, orphan_text, orphans, read_slots, slot_named
from sync_pipeline.stores.stores import Stores

ABOUT = "publications"


def check_publications(stores: Stores, entities: Iterable[Entity]) -> Iterator[Notice]:
    """Publications and slots of ours; nothing where there are none. Raises UnreachableError, DeclarationError."""
    files = read_entity_files(stores.settings.entities)
    names = {*files.entities, *(entity.name for entity in entities)}
    ledger: str | None
    prefix, ledger = stores.settings.slot_prefix, None
    with suppress(SyncError, psycopg2.Error):  # what the new side lacks, its own checks say
        ledger = stores.ledger_id()
    with stores.legacy() as cursor:
        found = {name: p for name, p in read_publications(cursor, prefix).items() if not p.is_foreign}
        slots = read_slots(cursor, prefix, ledger)
        faults = [
            *_refused(cursor, found.values()),
            # what seems to be left behind may be of a file that cannot be read now
            *([] if files.broken else _left_behind(cursor, found.values(), prefix, ledger, names)),
            *_kept(slots, [] if files.broken else orphans(slots, prefix, names), stores.settings.wal_alert_bytes),
        ]
    yield from faults
    if found and not faults:
        yield Notice("ok", ABOUT, f"no write of the monolith fails under {', '.join(found)}")


def _refused(cursor: Cursor, publications: Iterable[Publication]) -> Iterator[Notice]:
    """Writes that fail, under whichever publication."""
    tables = {oid: publication.name for publication in publications for oid in publication.tables}
    members = {member.oid: member for member in read_members(cursor, tables)}.values()
    publishers = read_publishers(cursor, members)
    for member, publisher, reason in refused_writes(members, publishers, cursor.connection.server_version):
        entity = next((p for p in publications if p.name == publisher.name), None)
        remedy = (
            "sync-pipeline wal install, for each entity of this table"
            if entity
            else f"ALTER PUBLICATION {publisher.name} SET TABLE …, without column list, or with another row filter"
        )
        yield Notice("error", ABOUT, f"UPDATE and DELETE of {member.name} fail: {reason}", remedy)


def _left_behind(
    cursor: Cursor, publications: Iterable[Publication], prefix: str, ledger: str | None, names: set[str]
) -> Iterator[Notice]:
    """Publications of this ledger that no entity reads, or that an install did not finish."""
    known = {slot_named(prefix, name): name for name in names}
    for publication in publications:
        owner = publication.record.ledger if publication.record else None
        if not publication.name.startswith(f"{prefix}_") or owner not in {None, ledger}:
            continue
        if publication.name not in known:
            steps = removal(cursor, prefix, publication.name.removeprefix(f"{prefix}_"))
            what = f"publication {publication.name} belongs to no entity"
            yield Notice("warning", ABOUT, what, " ".join(printed(steps)))
        elif owner is None:
            what = f"publication {publication.name} bears no ledger's id: another deployment could take it for its own"
            yield Notice("warning", ABOUT, what, f"sync-pipeline wal install {known[publication.name]}")


def _kept(slots: Iterable[Slot], without: list[Slot], limit: int) -> Iterator[Notice]:
    """Slots that no entity reads (`without` one), that keep too much, or that have lost their log."""
    for slot in without:
        yield Notice("warning", ABOUT, orphan_text(slot), slot.drop)
    for slot in slots:
        if slot.is_lost:
            what = f"slot {slot.name} has lost its log (max_slot_wal_keep_size)"
            yield Notice("warning", ABOUT, what, "it is made anew and a sweep is asked for once its entity is followed")
        elif slot.retained_bytes > limit and slot not in without:
            what = f"slot {slot.name} keeps {slot.retained_bytes:,} bytes of the monolith's log"
            yield Notice(
                "warning", ABOUT, f"{what}; {'it is read' if slot.active else 'nothing reads it'}", "follow it"
            )
