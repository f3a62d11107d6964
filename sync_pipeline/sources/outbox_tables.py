"""What the outbox source needs in the monolith: its table, and triggers that fill it where nobody may edit the code."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator

from sync_pipeline.sources.outbox import Outbox, channel
from sync_pipeline.sources.roots import Tracked, track_all
from sync_pipeline.sources.source import Subject
from sync_pipeline.sources.table import Table
from sync_pipeline.sql import Cursor, bind, quote

_OURS = "made by: sync-pipeline outbox install"
_NAME_BYTES = 63
# whether the table is ours, and no other function of ours fills it
_LAST = """
    SELECT coalesce(obj_description(to_regclass(%s), 'pg_class') = %s, false) AND NOT EXISTS (
        SELECT FROM pg_proc p WHERE obj_description(p.oid, 'pg_proc') = %s AND p.proname <> ALL(%s))
"""
_SCHEMA = "SELECT quote_ident(nspname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = %s"
_FILL = """CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = {schema}, public, pg_temp AS $sync$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO {outbox} (aggregate_type, aggregate_id, event_type) VALUES ({kind}, '*', {event} || 'truncate');
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO {outbox} (aggregate_type, aggregate_id, event_type)
            SELECT DISTINCT {kind}, {key}, {event} || 'insert' FROM new_rows r WHERE {known};
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO {outbox} (aggregate_type, aggregate_id, event_type)
            SELECT DISTINCT {kind}, {key}, {event} || 'delete' FROM old_rows r WHERE {known};
    ELSE
        INSERT INTO {outbox} (aggregate_type, aggregate_id, event_type)
            SELECT {kind}, {key}, {event} || 'update' FROM old_rows r WHERE {known}
            UNION SELECT {kind}, {key}, {event} || 'update' FROM new_rows r WHERE {known};
    END IF;
{wake}
    RETURN NULL;
END $sync$"""
# by what was chosen; else the server's setting decides, at each change
_WAKE = {
    None: """    -- PostgreSQL prepares no transaction that has notified: where any may be prepared, we poll
    IF FOUND AND current_setting('max_prepared_transactions') = '0' THEN
        PERFORM pg_notify('{channel}', '');
    END IF;""",
    True: """    -- PREPARE TRANSACTION fails for whoever changes this table: it was installed with --notify
    IF FOUND THEN
        PERFORM pg_notify('{channel}', '');
    END IF;""",
    False: "    -- nobody is notified: it was installed with --no-notify, and is polled",
}
_TRANSITIONS = {
    "insert": "REFERENCING NEW TABLE AS new_rows",
    "update": "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
    "delete": "REFERENCING OLD TABLE AS old_rows",
    "truncate": "",
}


def install(subject: Subject, outbox: Outbox, notify: bool | None = None) -> list[str]:
    """Statements for who owns the tables. Raises DeclarationError, UnreachableError.

    Triggers that `notify` wake whoever follows, and keep every transaction that fires them from being prepared; None
    has them do it only while the server allows no prepared transactions at all.
    """
    with subject.stores.legacy() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NULL, quote_ident(current_user)", (outbox.table,))
        missing, role = cursor.fetchone()
        reports = _reports(cursor, subject, outbox)
        return [
            *(_table(cursor, outbox.table) if missing else []),
            f"GRANT SELECT, UPDATE (processed_at, attempts, last_error), DELETE ON {outbox.table} TO {role}",
            *(
                made
                for name, each in reports.items()
                for made in _triggers(cursor, subject, outbox, name, each, notify)
            ),
        ]


def uninstall(subject: Subject, outbox: Outbox) -> list[str]:
    """Statements that take all of it away; the table with the last entity that it served, if we made it."""
    with subject.stores.legacy() as cursor:
        reports = _reports(cursor, subject, outbox)
        cursor.execute(_LAST, (outbox.table, _OURS, _ours(outbox), [*reports]))
        (last,) = cursor.fetchone()
    drops = [
        statement
        for name, each in reports.items()
        for statement in (
            *(f"DROP TRIGGER IF EXISTS {quote(_trigger(name, act))} ON {each.table.name}" for act in _TRANSITIONS),
            f"DROP FUNCTION IF EXISTS {quote(name)}()",
        )
    ]
    return [*drops, *([f"DROP TABLE {outbox.table}"] if last else [])]


def is_ours(cursor: Cursor, outbox: Outbox) -> bool:
    """Whether the table was made by `install`, so that it is filled by our triggers alone."""
    cursor.execute("SELECT coalesce(obj_description(to_regclass(%s), 'pg_class') = %s, false)", (outbox.table, _OURS))
    return bool(cursor.fetchone()[0])


def unfilled(cursor: Cursor, subject: Subject, outbox: Outbox) -> list[str]:
    """Tables of the entity some of whose changes no enabled trigger of ours reports."""
    found = []
    for name, tracked in _reports(cursor, subject, outbox).items():
        wanted = [_trigger(name, act) for act in _TRANSITIONS]
        cursor.execute(
            "SELECT count(*) FROM pg_trigger WHERE tgrelid = %s AND tgname = ANY(%s) AND tgenabled <> 'D'",
            (tracked.oid, wanted),
        )
        if cursor.fetchone()[0] < len(wanted):
            found.append(tracked.table.name)
    return found


def notifying(cursor: Cursor, subject: Subject, outbox: Outbox) -> tuple[list[str], list[str]]:
    """Tables of the entity whose triggers wake us now, and those of them that keep transactions from being prepared."""
    cursor.execute("SELECT current_setting('max_prepared_transactions') <> '0'")
    (prepares,) = cursor.fetchone()
    reports = _reports(cursor, subject, outbox)
    cursor.execute(
        "SELECT proname, prosrc ~ 'max_prepared_transactions' FROM pg_proc WHERE prosrc ~ 'pg_notify'"
        " AND proname = ANY(%s) AND obj_description(oid, 'pg_proc') = %s",
        ([*reports], _ours(outbox)),
    )
    waking = sorted({reports[name].table.name for name, asks in cursor.fetchall() if not (asks and prepares)})
    return waking, waking if prepares else []


def _table(cursor: Cursor, name: str) -> Iterator[str]:
    short = name.rpartition(".")[2].strip('"')
    yield (
        f"CREATE TABLE {name} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, aggregate_type text NOT NULL,"
        " aggregate_id text NOT NULL, event_type text NOT NULL, payload jsonb, version bigint,"
        " created_at timestamptz NOT NULL DEFAULT now(), processed_at timestamptz,"
        " attempts integer NOT NULL DEFAULT 0, last_error text)"
        " WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_insert_scale_factor = 0.05)"
    )
    yield f"CREATE INDEX {quote(short + '_pending')} ON {name} (aggregate_type, id) WHERE processed_at IS NULL"
    yield f"CREATE INDEX {quote(short + '_processed')} ON {name} (processed_at) WHERE processed_at IS NOT NULL"
    yield f"COMMENT ON TABLE {name} IS {bind(cursor, _OURS)}"


def _triggers(
    cursor: Cursor, subject: Subject, outbox: Outbox, name: str, tracked: Tracked, notify: bool | None
) -> Iterator[str]:
    """One function a table, called once a statement: an event for each root, however many rows it changed."""
    table = tracked.table
    cursor.execute(_SCHEMA, (tracked.oid,))
    (schema,) = cursor.fetchone()
    yield _FILL.format(
        function=quote(name),
        schema=schema,
        outbox=outbox.table,
        kind=bind(cursor, outbox.of(subject, table)),
        event=bind(cursor, f"{table.name}."),
        key=tracked.text("r"),
        known=" AND ".join(f"r.{quote(column)} IS NOT NULL" for column in tracked.columns),
        wake=_WAKE[notify].format(channel=channel(outbox.table)),
    )
    yield f"COMMENT ON FUNCTION {quote(name)}() IS {bind(cursor, _ours(outbox))}"
    for act, rows in _TRANSITIONS.items():
        yield (
            f"CREATE OR REPLACE TRIGGER {quote(_trigger(name, act))} AFTER {act.upper()} ON {table.name} {rows}"
            f" FOR EACH STATEMENT EXECUTE FUNCTION {quote(name)}()"
        )


def _reports(cursor: Cursor, subject: Subject, outbox: Outbox) -> dict[str, Tracked]:
    """Functions by name, each with the table it reports: several where a table's rows lead to roots in several ways."""
    found: dict[tuple[int, str, object], Tracked] = {}
    for each in track_all(cursor, subject):
        found.setdefault((each.oid, outbox.of(subject, each.table), each.parts), each)
    named: dict[str, Tracked] = {}
    for each in found.values():
        names = (_function(subject, each.table, n) for n in itertools.count(1))
        named[next(name for name in names if name not in named)] = each
    return named


def _function(subject: Subject, table: Table, n: int) -> str:
    """Its name: a long one, of which PostgreSQL would leave a part, ends in a digest of all of it."""
    called = table.name.replace(".", "_").replace('"', "")
    name = f"sync_outbox_{subject.entity}_{called}" + (f"_{n}" if n > 1 else "")
    limit = _NAME_BYTES - len("_truncate")
    if len(name.encode()) <= limit:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name.encode()[: limit - 9].decode(errors='ignore')}_{digest}"


def _trigger(function: str, act: str) -> str:
    return f"{function}_{act}"


def _ours(outbox: Outbox) -> str:
    return f"{_OURS} (fills {outbox.table})"
