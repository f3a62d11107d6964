"""DDL in the monolith that holds no writer up: one table a transaction, short waits for locks, tries again.

A statement that waits for a lock makes every later writer of that table wait behind it. So each step gives up after
some hundred milliseconds, lets the writers pass, and tries again later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg2

from sync_pipeline.db.sql import Cursor
from sync_pipeline.errors import SettingError, UnreachableError
from sync_pipeline.stores.sessions import connect_owner
from sync_pipeline.stores.stores import first_line

LOCK_TIMEOUT = "300ms"
TRIES = 40
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0
# autovacuum gives its table up to a session that waits for deadlock_timeout (1 s by default); this wait holds no
# writer up, because SHARE UPDATE EXCLUSIVE does not conflict with what writers take
_AUTOVACUUM_TIMEOUT = "1500ms"
# the locks that a session may not get while another one holds them, or a deadlock that ended the try
_BUSY = {"55P03", "40P01"}
_SETTINGS = (f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'", "SET LOCAL statement_timeout = 0")
_HOLDERS = """
    SELECT coalesce(l.pid::text, 'none: a prepared transaction'), coalesce(a.backend_type, ''),
           coalesce(a.application_name, ''), coalesce(a.usename, ''), coalesce(a.state, ''),
           coalesce(extract(epoch FROM clock_timestamp() - a.xact_start)::int, 0)
    FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'relation' AND l.granted AND l.relation = to_regclass(%s)
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.pid IS DISTINCT FROM pg_backend_pid()
    ORDER BY a.xact_start NULLS FIRST LIMIT 1
"""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """Statements of one transaction, which locks one table.

    `table` is its name as SQL has it, with its schema, or empty where no table is locked.
    """

    table: str
    statements: tuple[str, ...]


def printed(steps: Sequence[Step]) -> list[str]:
    """Return the lines of a script that does what `apply_steps` does, for a person to run again until it succeeds."""
    lines: list[str] = []
    for step in steps:
        lines += ["BEGIN;", *(f"{statement};" for statement in (*_SETTINGS, *step.statements)), "COMMIT;"]
    return lines


def apply_steps(owner_url: str, steps: Sequence[Step], report: Progress) -> None:
    """Carry the steps out as the tables' owner, each in a transaction of its own; `report` gets lines of progress.

    A step whose lock does not come is tried again, with growing pauses, TRIES times. Every step that has ended stays
    done: whoever plans the steps looks at the catalogue, so the same command goes on where it was.

    Raises:
        UnreachableError: the server does not answer, or a table stayed locked. The error names who holds it.
        SettingError: a statement is refused.
    """
    done = 0
    try:
        with closing(connect_owner(owner_url)) as connection:
            connection.autocommit = True
            for step in steps:
                with connection.cursor() as cursor:
                    _apply(cursor, step, report)
                done += 1
                report(f"{step.table or 'the publication or outbox'}: done ({done} of {len(steps)})")
    except _LockedError as error:
        raise UnreachableError(f"SYNC_LEGACY_OWNER_DB: {error}; {_so_far(done, len(steps))}") from error
    except psycopg2.OperationalError as error:
        raise UnreachableError(f"SYNC_LEGACY_OWNER_DB: {first_line(error)}; {_so_far(done, len(steps))}") from error
    except psycopg2.Error as error:
        raise SettingError(f"SYNC_LEGACY_OWNER_DB: {first_line(error)}; {_so_far(done, len(steps))}") from error


class _LockedError(Exception):
    """A table stayed locked."""


def _apply(cursor: Cursor, step: Step, report: Progress) -> None:
    """Carry one step out. Raises _LockedError when its lock never came."""
    pause, holder = _FIRST_PAUSE_SECONDS, _Holder("", "")
    for attempt in range(1, TRIES + 1):
        try:
            _try(cursor, step, yields=holder.is_autovacuum)
        except psycopg2.Error as error:
            if error.pgcode not in _BUSY:
                raise
            holder = _holder(cursor, step.table)
            report(f"{step.table}: {holder.text}; try {attempt} of {TRIES}")
        else:
            return
        time.sleep(pause)  # writers that waited behind the lock go first
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
    raise _LockedError(f"{step.table} stayed locked for {TRIES} tries: {holder.text}")


def _try(cursor: Cursor, step: Step, *, yields: bool) -> None:
    """Try a step once; the transaction is rolled back on any error."""
    cursor.execute("BEGIN")
    try:
        if yields:
            cursor.execute(f"SET LOCAL lock_timeout = '{_AUTOVACUUM_TIMEOUT}'")
            cursor.execute(f"LOCK TABLE ONLY {step.table} IN SHARE UPDATE EXCLUSIVE MODE")
        for statement in (*_SETTINGS, *step.statements):
            cursor.execute(statement)
        cursor.execute("COMMIT")
    except psycopg2.Error:
        if not cursor.connection.closed:
            cursor.execute("ROLLBACK")
        raise


@dataclass(frozen=True)
class _Holder:
    """The session that holds a table, in words, and its kind of backend."""

    text: str
    kind: str

    @property
    def is_autovacuum(self) -> bool:
        return self.kind == "autovacuum worker"


def _holder(cursor: Cursor, table: str) -> _Holder:
    cursor.execute(_HOLDERS, (table,))
    found: tuple[Any, ...] | None = cursor.fetchone()
    if found is None:
        return _Holder("locked by a session that has ended since", "")
    pid, kind, application, user, state, seconds = found
    words = [word for word in (application or kind, user and f"user {user}", state) if word]
    return _Holder(f"locked by pid {pid} ({', '.join(words)}), in a transaction since {seconds} s", kind)


def _so_far(done: int, of: int) -> str:
    if not done:
        return "nothing was changed"
    return f"{done} of {of} steps are done, and the same command goes on from there"
