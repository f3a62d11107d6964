"""What the outbox source needs in the monolith: its table, and triggers that fill it where nobody may edit the code."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby

from sync_pipeline.db.sql import Cursor, bind
from sync_pipeline.errors import DeclarationError, SettingError
from sync_pipeline.sources.ddl import Step
from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.outbox_catalogue import (
    ACTS,
    MADE_BY,
    Events,
    Function,
    Mark,
    Trigger,
    filling,
    functions,
    is_made_by_us,
    locate_outbox,
)
from sync_pipeline.sources.outbox_claim import refuse_rivals
from sync_pipeline.sources.outbox_columns import (
    WRITTEN,
    Columns,
    columns_of,
    filled_types,
    filling_faults,
    reading_faults,
)
from sync_pipeline.sources.outbox_reports import Report, attempt, belonging, fill, mark_of, reports_of, uncovered
from sync_pipeline.sources.source import Subject

_TRANSITIONS = {
    "insert": "REFERENCING NEW TABLE AS new_rows",
    "update": "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
    "delete": "REFERENCING OLD TABLE AS old_rows",
    "truncate": "",
}
_UPDATE = f"UPDATE ({', '.join(WRITTEN)})"
# which of the rights that acknowledging needs our role lacks
_LACKING = f"""
    SELECT array_remove(ARRAY[
        CASE WHEN NOT has_table_privilege(oid, 'SELECT') THEN 'SELECT' END,
        CASE WHEN NOT (SELECT bool_and(has_column_privilege(oid, attnum, 'UPDATE')) FROM pg_attribute
                       WHERE attrelid = oid AND attname = ANY(%s)) THEN '{_UPDATE}' END,
        CASE WHEN NOT has_table_privilege(oid, 'DELETE') THEN 'DELETE' END], NULL)
    FROM pg_class WHERE oid = to_regclass(%s)
"""


@dataclass(frozen=True)
class _Place:
    """An outbox as it is, and all functions of ours."""

    events: Events
    located: str
    there: bool
    ours: bool
    columns: Columns
    role: str
    ledger: str | None
    functions: list[Function] = field(repr=False)


def install(subject: Subject, outbox: Outbox, notify: bool = False, *, take_over: bool = False) -> list[Step]:
    """Plan what fills an outbox with an entity's changes, for who owns the tables; what is there is left as it is.

    Args:
        subject: whose changes are reported.
        outbox: where to.
        notify: whether triggers wake the follower. Commits that notify queue behind each other, and a transaction that
            has notified cannot be prepared.
        take_over: whether triggers of another ledger become ours.

    Raises:
        SettingError: another ledger acknowledges the same events, or the outbox is one that triggers cannot fill.
        DeclarationError: no trigger can report a table.
        UnreachableError: the monolith or the ledger does not answer.
    """
    with subject.stores.legacy() as cursor:
        place = _read_place(cursor, subject, outbox)
        if not take_over:
            refuse_rivals(subject, place.events, place.located, place.functions, place.ledger)
        _refuse_columns(subject, place)
        reports = reports_of(cursor, subject, place.events, place.located)
        for fault in (report.fault for report in reports if report.fault):
            raise DeclarationError(f"entity {subject.entity}: {fault}")
        lacking = _lacking(cursor, place)
        granted = {f"{right} TO {place.role}" for right in lacking if place.there}
        granted |= {each for one in filling(place.functions, place.located) for each in one.mark.granted}
        return [
            *([] if place.there else [Step(place.located, tuple(_table(cursor, place.located)))]),
            *_grants(place, lacking),
            *(
                step
                for report in reports
                for step in _filled(cursor, mark_of(subject, report, place.ledger, granted), place, report, notify)
            ),
            *_removed(_outdated(subject, place, reports)),
        ]


def uninstall(subject: Subject, outbox: Outbox, *, take_over: bool = False) -> list[Step]:
    """Plan what takes all of it away; rights that we gave go with the last entity, and so does the table if we made it.

    Raises SettingError for triggers of another ledger, unless they are to be taken over; UnreachableError.
    """
    with subject.stores.legacy() as cursor:
        place = _read_place(cursor, subject, outbox)
        if not take_over:
            refuse_rivals(subject, place.events, place.located, place.functions, place.ledger)
        gone = _own(subject, place)
        if take_over:
            others = filling(place.functions, place.located)
            gone += [each for each in others if place.events.include(each.mark.aggregate) and each not in gone]
        return [*_removed(gone), *_left(cursor, place, gone)]


def uninstall_gone(cursor: Cursor, ledger: str | None, known: Collection[str]) -> list[Step]:
    """Plan what takes away the triggers of a ledger's entities that have no file any more, as `uninstall` does."""
    found = functions(cursor)
    gone = [each for each in found if each.mark.entity and each.mark.entity not in known and each.mark.ledger == ledger]
    steps = _removed(gone)
    for name in sorted({each.mark.outbox for each in gone}):
        located, there = locate_outbox(cursor, name)
        place = _Place(Events(name, ""), located, there, is_made_by_us(cursor, located), {}, "", None, found)
        steps += _left(cursor, place, [each for each in gone if each.mark.outbox == name])
    return steps


def notifying(cursor: Cursor, subject: Subject, outbox: Outbox) -> tuple[list[str], list[str]]:
    """Tables of the entity whose triggers wake us now, and those of them that keep transactions from being prepared."""
    cursor.execute("SELECT current_setting('max_prepared_transactions') <> '0'")
    (prepares,) = cursor.fetchone()
    located, _ = locate_outbox(cursor, outbox.table)
    bodies = {each.name: each.body for each in functions(cursor)}
    waking = set()
    for report in reports_of(cursor, subject, outbox.events(subject), located):
        if "pg_notify" in bodies.get(report.name, ""):
            waking.add(report.tracked.table.name)
    return sorted(waking), sorted(waking) if prepares else []


def _read_place(cursor: Cursor, subject: Subject, outbox: Outbox) -> _Place:
    located, there = locate_outbox(cursor, outbox.table)
    cursor.execute("SELECT quote_ident(current_user)")
    (role,) = cursor.fetchone()
    return _Place(
        outbox.events(subject),
        located,
        there,
        is_made_by_us(cursor, located),
        columns_of(cursor, located),
        role,
        subject.stores.ledger_id(),
        functions(cursor),
    )


def _refuse_columns(subject: Subject, place: _Place) -> None:
    if not place.there:
        return
    faults = [*reading_faults(place.located, place.columns), *filling_faults(place.located, place.columns)]
    if faults:
        message = "; ".join(f"{what} ({remedy})" for what, remedy in faults)
        raise SettingError(f"entity {subject.entity}: {message}")


def _lacking(cursor: Cursor, place: _Place) -> list[str]:
    if not place.there:
        return ["SELECT", _UPDATE, "DELETE"]
    cursor.execute(_LACKING, ([*WRITTEN], place.located))
    return [str(right) for right in cursor.fetchone()[0]]


def _grants(place: _Place, lacking: list[str]) -> list[Step]:
    if not lacking:
        return []
    return [Step(place.located, (f"GRANT {', '.join(lacking)} ON {place.located} TO {place.role}",))]


def _table(cursor: Cursor, located: str) -> Iterator[str]:
    yield (
        f"CREATE TABLE {located} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, aggregate_type text NOT NULL,"
        " aggregate_id text NOT NULL, event_type text NOT NULL, payload jsonb, version bigint,"
        " created_at timestamptz NOT NULL DEFAULT now(), processed_at timestamptz,"
        " attempts integer NOT NULL DEFAULT 0, last_error text)"
        " WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_insert_scale_factor = 0.05)"
    )
    yield f"CREATE INDEX ON {located} (aggregate_type, id) WHERE processed_at IS NULL"
    yield f"CREATE INDEX ON {located} (processed_at) WHERE processed_at IS NOT NULL"
    yield f"COMMENT ON TABLE {located} IS {bind(cursor, MADE_BY)}"


def _filled(cursor: Cursor, mark: Mark, place: _Place, report: Report, notify: bool) -> Iterator[Step]:
    """One function a table, tried before any trigger calls it; then the triggers, each table's in one transaction."""
    there = next((each for each in place.functions if each.name == report.name), None)
    types = filled_types(place.columns)
    yield Step(
        report.table,
        (
            fill(cursor, report, types, notify),
            f"COMMENT ON FUNCTION {report.name}() IS {bind(cursor, mark.comment())}",
            attempt(cursor, report, types),
        ),
    )
    for member, missing in uncovered(report, there):
        disabled = {each.act for each in there.triggers if each.oid == member.oid} if there else set()
        yield Step(member.name, tuple(_triggers(report, member.name, missing, disabled)))


def _triggers(report: Report, table: str, missing: list[str], disabled: set[str]) -> Iterator[str]:
    for act in ACTS:
        if act in missing:
            yield (
                f"CREATE OR REPLACE TRIGGER {report.trigger(act)} AFTER {act.upper()} ON {table} {_TRANSITIONS[act]}"
                f" FOR EACH STATEMENT EXECUTE FUNCTION {report.name}()"
            )
            if act in disabled:
                yield f"ALTER TABLE ONLY {table} ENABLE TRIGGER {report.trigger(act)}"


def _outdated(subject: Subject, place: _Place, reports: list[Report]) -> list[Function]:
    """Functions that were made for the entity and report nothing of it any more, as it is declared now."""
    wanted = {report.name for report in reports}
    return [each for each in _own(subject, place) if each.name not in wanted]


def _own(subject: Subject, place: _Place) -> list[Function]:
    return belonging(place.functions, subject.entity, place.events, place.located, place.ledger)


def _removed(gone: list[Function]) -> list[Step]:
    """Triggers first, one table after the other; then the functions, which nothing calls any more."""
    triggers = sorted({trigger for each in gone for trigger in each.triggers}, key=_by_table)
    steps = [
        Step(table, tuple(f"DROP TRIGGER IF EXISTS {each.name} ON {table}" for each in of))
        for table, of in groupby(triggers, lambda each: each.table)
    ]
    if gone:
        steps.append(Step(gone[0].mark.outbox, tuple(f"DROP FUNCTION IF EXISTS {each.name}()" for each in gone)))
    return steps


def _by_table(trigger: Trigger) -> tuple[str, str]:
    return trigger.table, trigger.name


def _left(cursor: Cursor, place: _Place, gone: list[Function]) -> list[Step]:
    """What else goes with the last entity that the outbox served; else the memory of rights passes to another one."""
    others = [each for each in filling(place.functions, place.located) if each not in gone]
    granted = {right for each in gone for right in each.mark.granted}
    if others:
        heir = others[0]
        kept = granted | set(heir.mark.granted)
        if kept == set(heir.mark.granted):
            return []
        mark = replace(heir.mark, granted=tuple(sorted(kept)))
        return [Step(place.located, (f"COMMENT ON FUNCTION {heir.name}() IS {bind(cursor, mark.comment())}",))]
    if place.there and place.ours:
        return [Step(place.located, (f"DROP TABLE {place.located}",))]
    if not place.there or not granted:
        return []
    revoked = (right.rpartition(" TO ") for right in sorted(granted))
    return [Step(place.located, tuple(f"REVOKE {right} ON {place.located} FROM {role}" for right, _, role in revoked))]
