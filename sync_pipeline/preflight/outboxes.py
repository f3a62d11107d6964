"""Outboxes: is each change reported, by triggers that harm no write, to one reader that may acknowledge it?"""

from __future__ import annotations

from collections.abc import Iterator

from sync_pipeline.db.sql import Cursor
from sync_pipeline.entities.files import read_entity_files
from sync_pipeline.entity import Entity
from sync_pipeline.errors import SettingError
from sync_pipeline.model.notices import Notice
from sync_pipeline.sources import outbox_tables
from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.outbox_catalogue import (
    ACTS,
    MADE_BY,
    Function,
    functions,
    is_made_by_us,
    locate_outbox,
)
from sync_pipeline.sources.outbox_claim import refuse_readers, refuse_rivals
from sync_pipeline.sources.outbox_columns import (
    WRITTEN,
    columns_of,
    filled_types,
    filling_faults,
    index_remarks,
    reading_faults,
)
from sync_pipeline.sources.outbox_reports import Report, belonging, is_current, reports_of, uncovered
from sync_pipeline.sources.source import Subject
from sync_pipeline.stores.stores import Stores

ABOUT = "outboxes"
_SHOWN = 5
_RIGHTS = f"""
    SELECT has_table_privilege(oid, 'SELECT'), has_table_privilege(oid, 'DELETE'),
           (SELECT bool_and(has_column_privilege(oid, attnum, 'UPDATE')) FROM pg_attribute
            WHERE attrelid = oid AND attname IN {WRITTEN}), quote_ident(current_user)
    FROM pg_class WHERE oid = to_regclass(%s)
"""
_OUTBOXES = f"""
    SELECT c.oid::regclass::text FROM pg_class c WHERE c.oid = ANY(
        SELECT to_regclass(name)::oid FROM unnest(%s::text[]) name UNION
        SELECT objoid FROM pg_description
        WHERE classoid = 'pg_class'::regclass AND objsubid = 0 AND description LIKE '{MADE_BY}%%')
"""


def faults(subject: Subject, outbox: Outbox) -> Iterator[tuple[str, str]]:
    """(what, remedy) of all that would lose changes or fail writes. Raises DeclarationError, UnreachableError."""
    install = f"sync-pipeline outbox install {subject.entity}"
    events, ledger = outbox.events(subject), subject.stores.ledger_id()
    with subject.stores.legacy() as cursor:
        located, there = locate_outbox(cursor, outbox.table)
        found = functions(cursor)
        own = belonging(found, subject.entity, events, located, ledger)
        if not there:
            filled = f": triggers of {_tables(own)} have nothing to fill, and report no change" if own else ""
            yield f"there is no table {outbox.table} for its events{filled}", install
            return
        try:
            refuse_rivals(subject, events, located, found, ledger)
            refuse_readers(cursor, subject, located, events.aggregate, ledger)
        except SettingError as error:
            yield str(error).removeprefix(f"entity {subject.entity}: "), "see docs/howto/source.md"
        columns = columns_of(cursor, located)
        yield from reading_faults(located, columns)
        if outbox.version:
            yield from _versions(located, "version" in columns, is_made_by_us(cursor, located))
        yield from _rights(cursor, located)
        if own or is_made_by_us(cursor, located):
            yield from filling_faults(located, columns)
            for report in reports_of(cursor, subject, events, located):
                yield from _unreported(report, found, install)
                function = next((each for each in found if each.name == report.name), None)
                if function and not is_current(cursor, report, filled_types(columns), function):
                    yield f"{function.name}(), which fills {located}, is of another version", install


def remarks(subject: Subject, outbox: Outbox) -> Iterator[tuple[str, str, str]]:
    """(level, what, remedy) of what loses nothing. Raises DeclarationError, UnreachableError."""
    events, ledger = outbox.events(subject), subject.stores.ledger_id()
    with subject.stores.legacy() as cursor:
        located, _ = locate_outbox(cursor, outbox.table)
        for what, remedy in index_remarks(cursor, located):
            yield "warning", what, remedy
        wanted = {report.name for report in reports_of(cursor, subject, events, located)}
        own = belonging(functions(cursor), subject.entity, events, located, ledger)
        spare = [each for each in own if each.name not in wanted]
        if spare:
            what = f"{_names(spare)} reports what the entity is not made from any more, to {spare[0].mark.outbox}"
            yield "warning", what, f"sync-pipeline outbox install {subject.entity}"
        if not own:
            return
        waking, unprepared = outbox_tables.notifying(cursor, subject, outbox)
    if unprepared:
        what = f"triggers of {', '.join(unprepared)} notify: PREPARE TRANSACTION fails for whoever changes these tables"
        yield "warning", what, f"sync-pipeline outbox install {subject.entity}"
    elif waking:
        yield "ok", f"{outbox.table} wakes us by NOTIFY, behind which the monolith's commits queue", ""
    else:
        yield "ok", f"{outbox.table} is polled: no trigger notifies", ""


def check_outboxes(stores: Stores, entities: list[Entity]) -> Iterator[Notice]:
    """Look for triggers that fill an outbox for an entity of ours that does not read it. Raises UnreachableError."""
    files = read_entity_files(stores.settings.entities)
    known = {**files.entities, **{entity.name: entity for entity in entities}}
    with stores.legacy() as cursor:
        found = [each for each in functions(cursor) if each.mark.entity and each.mark.ledger == stores.ledger_id()]
    for name in sorted({each.mark.entity for each in found}):
        own = [each for each in found if each.mark.entity == name]
        what = f"triggers of {_tables(own)} fill {own[0].mark.outbox} for entity {name}"
        if name not in known and files.broken:
            continue  # its file may be one that cannot be read now
        if name not in known:
            yield Notice("error", ABOUT, f"{what}, which has no file", "sync-pipeline outbox uninstall --gone")
        elif not isinstance(known[name].capture, Outbox):
            yield Notice(
                "warning",
                ABOUT,
                f"{what}, which is caught by {known[name].capture.name}: its events are acknowledged by none",
                f"capture=Outbox() in its file, or: sync-pipeline outbox uninstall {name}",
            )


def outboxes(cursor: Cursor, stores: Stores, entities: list[Entity]) -> set[str]:
    """Tables that are outboxes, of these entities or of those that have files, or made by us: we must write there."""
    known = [*entities, *read_entity_files(stores.settings.entities).entities.values()]
    declared = [entity.capture.table for entity in known if isinstance(entity.capture, Outbox)]
    cursor.execute(_OUTBOXES, (declared,))
    return {str(name) for (name,) in cursor.fetchall()}


def _versions(located: str, there: bool, ours: bool) -> Iterator[tuple[str, str]]:
    if not there:
        yield f"{located} has no column version", "leave `version` out of Outbox"
    elif ours:
        yield f"the triggers that fill {located} tell no versions", "leave `version` out of Outbox"


def _rights(cursor: Cursor, located: str) -> Iterator[tuple[str, str]]:
    cursor.execute(_RIGHTS, (located,))
    reads, deletes, updates, role = cursor.fetchone()
    for right, has in (("SELECT", reads), (f"UPDATE ({', '.join(WRITTEN)})", updates), ("DELETE", deletes)):
        if not has:
            yield f"{role} may not {right} {located}", f"GRANT {right} ON {located} TO {role};"


def _unreported(report: Report, found: list[Function], remedy: str) -> Iterator[tuple[str, str]]:
    """What of a table's changes no trigger reports, table by table."""
    if report.fault:
        yield report.fault, "take another source for the entity"
        return
    there = next((each for each in found if each.name == report.name), None)
    bare = [
        f"{member.name} (no {', '.join(missing)})" if len(missing) < len(ACTS) else member.name
        for member, missing in uncovered(report, there)
    ]
    if bare:
        more = f" and {len(bare) - _SHOWN} more" if len(bare) > _SHOWN else ""
        yield (
            f"no enabled trigger of {', '.join(bare[:_SHOWN])}{more} fills {report.outbox}: changes would be lost",
            remedy,
        )


def _tables(own: list[Function]) -> str:
    tables = sorted({trigger.table for each in own for trigger in each.triggers})
    more = f" and {len(tables) - _SHOWN} more" if len(tables) > _SHOWN else ""
    return ", ".join(tables[:_SHOWN]) + more if tables else "no table"


def _names(own: list[Function]) -> str:
    return ", ".join(f"{each.name}()" for each in own)
