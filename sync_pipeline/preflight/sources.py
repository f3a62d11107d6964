"""Sources: is everything in the monolith without which one would silently lose changes?"""

from __future__ import annotations

from collections.abc import Iterator

from sync_pipeline.preflight import outboxes
from sync_pipeline.sources import publication
from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.slots import slot_name
from sync_pipeline.sources.source import Capture, Subject
from sync_pipeline.sources.wal import Wal

_WAL = """
    SELECT current_setting('wal_level'), quote_ident(current_user), rolreplication OR rolsuper,
           current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots),
           EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = %s)
    FROM pg_roles WHERE rolname = current_user
"""


def faults(subject: Subject, capture: Capture) -> Iterator[tuple[str, str]]:
    """(what, remedy) of all that is missing. Raises DeclarationError, UnreachableError."""
    if isinstance(capture, Outbox):
        yield from outboxes.faults(subject, capture)
    if isinstance(capture, Wal):
        yield from _wal(subject)


def remarks(subject: Subject, capture: Capture) -> Iterator[tuple[str, str, str]]:
    """(level, what, remedy) of what loses nothing. Raises DeclarationError, UnreachableError."""
    if isinstance(capture, Outbox):
        yield from outboxes.remarks(subject, capture)


def _wal(subject: Subject) -> Iterator[tuple[str, str]]:
    with subject.stores.legacy() as cursor:
        cursor.execute(_WAL, (slot_name(subject),))
        level, role, may, free, there = cursor.fetchone()
        if level != "logical":
            yield f"wal_level is {level}", "ALTER SYSTEM SET wal_level = logical; and restart the server"
        if not may:
            yield f"{role} may not read the log", f"ALTER ROLE {role} REPLICATION;"
        if not there and free < 1:
            yield "all replication slots are taken", "raise max_replication_slots and restart the server"
        yield from publication.faults(cursor, subject)
