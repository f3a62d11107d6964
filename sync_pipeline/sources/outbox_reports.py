"""Which functions should report an entity's changes to its outbox, on which tables, and what they do."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from sync_pipeline.db.sql import Cursor, bind, quote
from sync_pipeline.model.faults import guarded
from sync_pipeline.sources.outbox_catalogue import ACTS, Events, Function, Mark, Member, channel, filling, members
from sync_pipeline.sources.roots import Tracked, track_all
from sync_pipeline.sources.source import Subject

Types = Mapping[str, str]  # of an outbox's columns, by name, with their schemas
_NAME_BYTES = 63
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
_KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table, whose rows no trigger sees",
}
_FILL = """CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = {schema}, public, pg_temp AS $sync$
BEGIN
    -- a write must not fail because the outbox was dropped: who follows notices, and asks for a sweep
    IF pg_catalog.to_regclass({outbox_text}) IS NULL THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'TRUNCATE' THEN
        {truncated};
    ELSIF TG_OP = 'INSERT' THEN
        {inserted};
    ELSIF TG_OP = 'DELETE' THEN
        {deleted};
    ELSE
        {updated};
    END IF;
{wake}
    RETURN NULL;
END $sync$"""
# what is inserted at each act; literals are cast, because a UNION would make text of them
_INSERTS = {
    "truncated": "INSERT INTO {outbox} ({columns}) VALUES ({kind}, '*'{truncate})",
    "inserted": """INSERT INTO {outbox} ({columns})
            SELECT DISTINCT {kind}, {key}{insert} FROM new_rows r WHERE {known}""",
    "deleted": """INSERT INTO {outbox} ({columns})
            SELECT DISTINCT {kind}, {key}{delete} FROM old_rows r WHERE {known}""",
    "updated": """INSERT INTO {outbox} ({columns})
            SELECT {kind}, {key}{update} FROM old_rows r WHERE {known}
            UNION SELECT {kind}, {key}{update} FROM new_rows r WHERE {known}""",
}
# by whether triggers notify
_WAKE = {
    True: """    -- installed with --notify: commits queue behind each other, and PREPARE TRANSACTION fails
    IF FOUND THEN
        PERFORM pg_notify('{channel}', '');
    END IF;""",
    False: "    -- installed without --notify: the outbox is polled",
}
# the function's own inserts, tried and taken back before any trigger calls it: what fails here would fail every write
_TRY = """DO $sync$
BEGIN
    IF (SELECT proowner FROM pg_catalog.pg_proc WHERE oid = {function_text}::pg_catalog.regprocedure)
            <> (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
        RAISE EXCEPTION USING MESSAGE = {not_owner};
    END IF;
    PERFORM pg_catalog.set_config('search_path', {path}, true);
    {truncated};
    {rows} {inserted};
    {rows} {deleted};
    {rows} {updated};
    RAISE EXCEPTION USING ERRCODE = 'SYT01';
EXCEPTION WHEN SQLSTATE 'SYT01' THEN
    NULL;
END $sync$"""


@dataclass(frozen=True)
class Report:
    """A function that should report a table's changes under one aggregate_type, and the tables to call it from."""

    schema: str  # that of the table, as SQL has it
    function: str  # plainly
    outbox: str  # with its schema
    declared: str  # as the entity names it
    aggregate: str
    table: str
    tracked: Tracked
    members: tuple[Member, ...]
    fault: str = ""  # why no trigger can report it

    @property
    def name(self) -> str:
        """The function's name as SQL has it, with its schema."""
        return f"{self.schema}.{_ident(self.function)}"

    def trigger(self, act: str) -> str:
        """The name of the trigger of an act, as SQL has it."""
        return _ident(f"{self.function}_{act}")


def reports_of(cursor: Cursor, subject: Subject, events: Events, located: str) -> list[Report]:
    """What should report an entity's changes: once a table, or more where its rows lead to roots in several ways.

    Raises DeclarationError for a table that is not there, or is joined and has no primary key.
    """
    found: dict[tuple[int, str, object], Report] = {}
    for each in track_all(cursor, subject):
        place = (each.oid, events.of(each.table), each.parts)
        if place not in found:
            tree = members(cursor, each.oid)
            found[place] = _report(subject, events, located, each, tree if guarded(63) else tree[:1])
    return list(found.values())


def fill(cursor: Cursor, report: Report, types: Types, notify: bool) -> str:
    """The statement that makes a report's function; `types` are those of the outbox's columns."""
    wake = _WAKE[notify].format(channel=channel(report.declared))
    return _FILL.format(**_words(cursor, report), **_inserts(cursor, report, types), wake=wake)


def attempt(cursor: Cursor, report: Report, types: Types) -> str:
    """The statement that tries the function's inserts on a row of the table, and takes them back."""
    return _TRY.format(**_words(cursor, report), **_inserts(cursor, report, types))


def body(statement: str) -> str:
    """A function's body as the catalogue keeps it, from the statement that makes it."""
    return statement.split("$sync$")[1]


def is_current(cursor: Cursor, report: Report, types: Types, function: Function) -> bool:
    """Whether a function's body is one that this version would make, with NOTIFY or without."""
    return any(function.body == body(fill(cursor, report, types, notify)) for notify in _WAKE)


def uncovered(report: Report, function: Function | None) -> Iterator[tuple[Member, list[str]]]:
    """Tables that the function is not called from, or not at every act, with the acts that are missing."""
    for member in report.members:
        missing = set(ACTS) - (function.covers(member.oid) if function else set())
        if missing:
            yield member, sorted(missing)


def belonging(
    found: Iterable[Function], entity: str, events: Events, located: str, ledger: str | None
) -> list[Function]:
    """Functions that were made for an entity of a ledger, by any version; those without a mark fill its outbox."""
    unmarked = filling([each for each in found if not each.mark.entity], located, events.table)
    return [
        *(each for each in found if each.mark.entity == entity and each.mark.ledger in (None, ledger)),
        *(each for each in unmarked if events.include(each.mark.aggregate)),
    ]


def mark_of(subject: Subject, report: Report, ledger: str | None, granted: Iterable[str]) -> Mark:
    """The mark that a report's function bears."""
    return Mark(report.outbox, report.aggregate, subject.entity, ledger, tuple(sorted(granted)))


def _report(subject: Subject, events: Events, located: str, tracked: Tracked, found: list[Member]) -> Report:
    aggregate, table = events.of(tracked.table), found[0]
    function = _function(subject, tracked, located, aggregate, table.name)
    fault = next((fault for member in found if (fault := _fault(tracked, table, member))), "")
    return Report(table.schema, function, located, events.table, aggregate, table.name, tracked, tuple(found), fault)


def _fault(tracked: Tracked, table: Member, member: Member) -> str:
    """Why no trigger on a member can report what changes there."""
    if member.kind in _KINDS:
        what = table.name if member is table else f"{member.name}, of {table.name},"
        return f"{what} is {_KINDS[member.kind]}: no trigger can report its changes, and the table needs another source"
    lacking = [column for column in tracked.columns if column not in member.columns]
    if not lacking:
        return ""
    return (
        f"{member.name} has no column {', '.join(lacking)}: changes that are made through it would not tell"
        f" which row of {table.name} they are of"
    )


def _ident(name: str) -> str:
    """A name as PostgreSQL's format('%I') writes it; none of ours is a word of SQL."""
    return name if _PLAIN.fullmatch(name) else quote(name)


def _function(subject: Subject, tracked: Tracked, located: str, aggregate: str, table: str) -> str:
    """Its name ends in a digest of all that tells it from others: outbox, aggregate, table, and the way to the key."""
    called = tracked.table.name.replace(".", "_").replace('"', "")
    described = "\n".join((located, aggregate, table, repr(tracked.parts)))
    digest = hashlib.sha256(described.encode()).hexdigest()[:8]
    limit = _NAME_BYTES - len("_truncate") - len(digest) - 1
    return f"{f'sync_outbox_{subject.entity}_{called}'.encode()[:limit].decode(errors='ignore')}_{digest}"


def _words(cursor: Cursor, report: Report) -> dict[str, str]:
    row = f"(SELECT * FROM {report.table} LIMIT 1)"
    return {
        "function": report.name,
        "function_text": bind(cursor, f"{report.name}()"),
        "schema": report.schema,
        "path": bind(cursor, f"{report.schema}, public, pg_temp"),
        "outbox_text": bind(cursor, report.outbox),
        "rows": f"WITH old_rows AS {row}, new_rows AS {row}",
        "not_owner": bind(cursor, f"{report.name}() belongs to another role: run this as its owner"),
    }


def _inserts(cursor: Cursor, report: Report, types: Types) -> dict[str, str]:
    """The statements that a function inserts events by."""
    table, typed = report.tracked.table, "event_type" in types
    words = {
        "outbox": report.outbox,
        "columns": "aggregate_type, aggregate_id" + (", event_type" if typed else ""),
        "kind": f"{bind(cursor, report.aggregate)}::{types['aggregate_type']}",
        "key": f"({report.tracked.text('r')})::{types['aggregate_id']}",
        "known": " AND ".join(f"r.{quote(column)} IS NOT NULL" for column in report.tracked.columns) or "true",
    }
    for act in ACTS:
        words[act] = f", {bind(cursor, f'{table.name}.{act}')}::{types['event_type']}" if typed else ""
    return {name: insert.format(**words) for name, insert in _INSERTS.items()}
