"""Watches both databases and measures from commit to commit."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import psycopg2
from psycopg2.extensions import cursor as Cursor  # noqa: N812
from psycopg2.sql import SQL, Composable, Identifier

from demo.databases import connected
from demo.lag.pending import LoggedEdit, Pending, TargetRow
from demo.lag.report import Report

TABLES = {"text": "catalog.text", "video": "catalog.video", "audio": "catalog.audio"}

# What committed since an earlier snapshot, in whatever order it began, and the snapshot for the next time.
_NEW_EDITS = """
    SELECT now.snapshot::text, log.*
    FROM (SELECT pg_current_snapshot() AS snapshot) now
    LEFT JOIN LATERAL (
        SELECT content_id, kind, version, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8
        FROM demo.edit_log
        WHERE xid >= pg_snapshot_xmin(%(since)s::pg_snapshot)
          AND NOT pg_visible_in_snapshot(xid, %(since)s::pg_snapshot)
    ) log ON true"""
_ROWS = """
    SELECT id, version, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 FROM {} WHERE id = ANY(%(ids)s)"""
_EVERY_SECONDS = 0.1
# a look that takes long is followed by a long pause: the observer stays under a tenth of a core
_PAUSE_FACTOR = 9


class Observer:
    """Measures every edit that commits after `start`.

    Both ends are commit timestamps of the databases (track_commit_timestamp), so the pause between two looks does not
    show in the figures; only a delete is timed by the look that missed the row. Both servers must share a clock.
    Only contents with pending edits are looked for, by key: the cost follows the edits, not the tables.
    """

    def __init__(self, legacy_url: str, target_url: str, tables: Mapping[str, str] = TABLES) -> None:
        self._legacy_url = legacy_url
        self._target_url = target_url
        self._tables = list(tables.values())
        self._pending = Pending()
        self._snapshot = ""
        self._stop = threading.Event()
        self._drained = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lag observer")
        self._error: Exception | None = None

    def start(self) -> Observer:
        """Begin to watch."""
        with connected(self._legacy_url) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_current_snapshot()::text")
            self._snapshot = cursor.fetchall()[0][0]
        self._thread.start()
        return self

    def finish(self, wait_seconds: float = 10.0) -> Report:
        """Wait until all edits arrived, or the time is up, and report."""
        self._ending.set()
        self._drained.wait(wait_seconds)
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._pending.report()

    def __enter__(self) -> Observer:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._watch()
        except Exception as error:  # told by finish, in the thread that asks
            self._error = error
            self._drained.set()

    def _watch(self) -> None:
        """Look again and again; a server that went away is waited for: the snapshot bridges the gap."""
        try:
            with connected(self._legacy_url) as legacy, connected(self._target_url) as target:
                while not self._stop.is_set():
                    self._look_and_pause(legacy.cursor(), target.cursor())
        except (psycopg2.OperationalError, psycopg2.InterfaceError):
            self._stop.wait(_EVERY_SECONDS)

    def _look_and_pause(self, legacy: Cursor, target: Cursor) -> None:
        began = time.monotonic()
        ending = self._ending.is_set()
        self._read_log(legacy)
        self._read_tables(target)
        if ending and not self._pending:
            self._drained.set()
        self._stop.wait(max(_EVERY_SECONDS, _PAUSE_FACTOR * (time.monotonic() - began)))

    def _read_log(self, cursor: Cursor) -> None:
        cursor.execute(_NEW_EDITS, {"since": self._snapshot})
        rows = cursor.fetchall()
        self._pending.log(LoggedEdit(*row[1:]) for row in rows if row[1] is not None)
        self._snapshot = rows[0][0]

    def _read_tables(self, cursor: Cursor) -> None:
        tables = self._present(cursor)
        if tables:
            ids = self._pending.ids
            cursor.execute(SQL(" UNION ALL ").join(SQL(_ROWS).format(table) for table in tables), {"ids": ids})
            rows = [_target_row(row) for row in cursor.fetchall()]
            self._pending.sample(ids, rows, at=time.time())

    def _present(self, cursor: Cursor) -> list[Composable]:
        """The tables that are there: at first the new side may have none."""
        cursor.execute("SELECT name FROM unnest(%s) AS name WHERE to_regclass(name) IS NOT NULL", [self._tables])
        return [Identifier(*row[0].split(".")) for row in cursor.fetchall()]


def _target_row(row: tuple[Any, ...]) -> TargetRow:
    """The time of a commit before the server kept times is unknown: long ago."""
    return TargetRow(row[0], row[1], row[2] or 0.0)
