"""Sources: is everything in the monolith without which one would silently lose changes?"""

from __future__ import annotations

from collections.abc import Iterator

from sync_pipeline.sources import outbox_tables, publication
from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.slots import slot_name
from sync_pipeline.sources.source import Capture, Subject
from sync_pipeline.sources.wal import Wal
from sync_pipeline.sql import Cursor

_RIGHTS = {
    "SELECT": "has_any_column_privilege",
    "UPDATE": "has_any_column_privilege",
    "DELETE": "has_table_privilege",
}
_WAL = """
    SELECT current_setting('wal_level'), quote_ident(current_user), rolreplication OR rolsuper,
           current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots),
           EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = %s)
    FROM pg_roles WHERE rolname = current_user
"""


def faults(subject: Subject, capture: Capture) -> Iterator[tuple[str, str]]:
    """(what, remedy) of all that is missing. Raises DeclarationError, UnreachableError."""
    if isinstance(capture, Outbox):
        yield from _outbox(subject, capture)
    if isinstance(capture, Wal):
        yield from _wal(subject)


def remarks(subject: Subject, capture: Capture) -> Iterator[tuple[str, str, str]]:
    """(level, what, remedy) of what loses nothing. Raises DeclarationError, UnreachableError."""
    if not isinstance(capture, Outbox):
        return
    with subject.stores.legacy() as cursor:
        if not outbox_tables.is_ours(cursor, capture):
            return
        waking, unprepared = outbox_tables.notifying(cursor, subject, capture)
    if unprepared:
        what = f"triggers of {', '.join(unprepared)} notify: PREPARE TRANSACTION fails for whoever changes these tables"
        yield "warning", what, f"sync-pipeline outbox install {subject.entity}"
    else:
        yield "ok", f"{capture.table} {'wakes us by NOTIFY' if waking else 'is polled: no trigger notifies'}", ""


def _outbox(subject: Subject, outbox: Outbox) -> Iterator[tuple[str, str]]:
    remedy = f"sync-pipeline outbox install {subject.entity}"
    with subject.stores.legacy() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL, quote_ident(current_user)", (outbox.table,))
        there, role = cursor.fetchone()
        if not there:
            yield f"there is no table {outbox.table} for its events", remedy
            return
        if outbox.version:
            yield from _versions(cursor, outbox)
        for right, test in _RIGHTS.items():
            cursor.execute(f"SELECT {test}(%s, %s)", (outbox.table, right))
            if not cursor.fetchone()[0]:
                yield f"{role} may not {right} {outbox.table}", f"GRANT {right} ON {outbox.table} TO {role};"
        if outbox_tables.is_ours(cursor, outbox):
            for table in outbox_tables.unfilled(cursor, subject, outbox):
                yield f"no trigger of {table} fills {outbox.table}: its changes would be lost", remedy


def _versions(cursor: Cursor, outbox: Outbox) -> Iterator[tuple[str, str]]:
    cursor.execute(
        "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attname = 'version'"
        " AND NOT attisdropped)",
        (outbox.table,),
    )
    if not cursor.fetchone()[0]:
        yield f"{outbox.table} has no column version", "leave `version` out of Outbox"
    elif outbox_tables.is_ours(cursor, outbox):
        yield f"the triggers that fill {outbox.table} tell no versions", "leave `version` out of Outbox"


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
