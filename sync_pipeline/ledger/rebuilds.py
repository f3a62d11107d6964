"""The ledger of rebuilds: which index or table is filled beside the one that readers use, and how far it is.

Every batch that owes documents asks by the way whether an index is filled (`due.owe_delivery`). It asks after it has
read its legacy rows; so whoever is told of none has read less than the fill will, under a lower revision. Whether a
table is filled is seen under the lock of the rows' transaction (`sinks/table/present.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2.extras import Json

from sync_pipeline.db.sql import Cursor
from sync_pipeline.errors import DeclarationError, SettingError
from sync_pipeline.stores.stores import Stores

_LOCKS = 0x53594E49
# for the session of one that was just killed to be noticed
_PATIENCE = "1s"
_STAY = "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'"
_ROW = "kind, name, former, declared, state, position, filled, rows, revision, started_at, sink"
# whether somebody holds the lock: an advisory lock of two keys shows as classid and objid
_AT_WORK = (
    "EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE d.datname = current_database()"
    f" AND locktype = 'advisory' AND classid = {_LOCKS} AND objid = (hashtext(entity)::bigint & 4294967295)::oid)"
)


@dataclass
class Rebuild:
    """A rebuild that has not come to its end; `rows` counts the legacy rows that were read."""

    entity: str
    kind: str  # index, table
    name: str  # of what is filled
    former: str  # what readers use until the swap; then what it has followed
    declared: dict[str, Any]
    state: str = "making"
    position: list[str] | None = None
    filled: bool = False
    rows: int = 0
    revision: int = 0  # of a table: whoever has looked at a key since it is filled has a higher one
    started_at: object = None
    sink: str | None = None  # whose index it is; of a table None

    def begin(self, cursor: Cursor) -> None:
        """Take note of it before anything is made, so that nothing is left that nobody knows of."""
        self.forget(cursor)  # one of this name, that somebody has deleted since
        cursor.execute(
            "INSERT INTO sync.rebuild (entity, kind, name, former, declared, sink, state)"
            " VALUES (%s, %s, %s, %s, %s, %s, 'making')",
            (self.entity, self.kind, self.name, self.former, Json(self.declared), self.sink),
        )

    def open(self, cursor: Cursor) -> None:
        """Have batches write a table, from their next look on; nobody may be on his way."""
        cursor.execute("SELECT nextval('sync.revision')")
        self.revision, self.state = int(cursor.fetchone()[0]), "filling"
        self._update(cursor, "state = %s, revision = %s", self.state, self.revision)

    def enter(self, cursor: Cursor, state: str) -> None:
        """Come to a state. In `filling`, every batch writes both."""
        self.state = state
        self._update(cursor, "state = %s, finished_at = CASE WHEN %s = 'done' THEN now() END", state, state)

    def advance(self, cursor: Cursor, position: list[str] | None, rows: int) -> None:
        """A page is filled, the last one where there is no `position`; in the transaction that writes its rows."""
        self._update(cursor, "position = %s, filled = %s, rows = rows + %s", position, position is None, rows)

    def must_declare(self, declared: Mapping[str, Any]) -> None:
        """Raises DeclarationError where the entity's file says something else by now."""
        if any(self.declared.get(name) != value for name, value in json.loads(json.dumps(declared)).items()):
            raise DeclarationError(
                f"entity {self.entity}: its file has changed since the rebuild of {self.name} was begun:"
                f" sync-pipeline rebuild abandon {self.entity}, then begin again"
            )

    def note(self, cursor: Cursor, name: str, value: object) -> None:
        """Write down something more."""
        self.declared[name] = value
        self._update(cursor, "declared = %s", Json(self.declared))

    def rename(self, cursor: Cursor, name: str, former: str) -> None:
        """What was filled bears another name now, and so does what it has followed."""
        self._update(cursor, "name = %s, former = %s", name, former)
        self.name, self.former = name, former

    def forget(self, cursor: Cursor) -> None:
        """It is gone."""
        cursor.execute("DELETE FROM sync.rebuild WHERE (entity, name) = (%s, %s)", (self.entity, self.name))

    def _update(self, cursor: Cursor, changes: str, *values: object) -> None:
        cursor.execute(
            f"UPDATE sync.rebuild SET {changes} WHERE (entity, name) = (%s, %s) AND state <> 'removing'",
            (*values, self.entity, self.name),
        )
        if cursor.rowcount != 1:
            raise SettingError(f"entity {self.entity}: the rebuild of {self.name} was given up meanwhile")


def under_way(cursor: Cursor, entity: str) -> Rebuild | None:
    """The entity's rebuild that has not come to its end."""
    cursor.execute(f"SELECT {_ROW} FROM sync.rebuild WHERE entity = %s AND state <> 'done'", (entity,))
    found = cursor.fetchone()
    return Rebuild(entity, *found) if found else None


def done(cursor: Cursor, entity: str) -> list[Rebuild]:
    """Rebuilds whose former index or table is still kept, oldest first."""
    cursor.execute(
        f"SELECT {_ROW} FROM sync.rebuild WHERE entity = %s AND state = 'done' ORDER BY finished_at", (entity,)
    )
    return [Rebuild(entity, *row) for row in cursor.fetchall()]


def shown(cursor: Cursor, entity: str) -> dict[str, Any] | None:
    """The rebuild under way, as `status` shows it; `at_work` is false where it was cut off."""
    cursor.execute(
        f"SELECT kind, name, former, state, filled, rows, started_at, {_AT_WORK} AS at_work FROM sync.rebuild"
        " WHERE entity = %s AND state <> 'done'",
        (entity,),
    )
    found = cursor.fetchone()
    return dict(zip([column.name for column in cursor.description], found, strict=True)) if found else None


@contextmanager
def alone(stores: Stores, entity: str) -> Iterator[None]:
    """Be the only one at work at an entity's rebuild. Raises SettingError when somebody else is."""
    connection = stores.target_engine.raw_connection()
    lock = (_LOCKS, entity)
    try:
        cursor = connection.cursor()
        cursor.execute(f"SET lock_timeout = '{_PATIENCE}'")
        cursor.execute(_STAY)  # for as long as the rebuild takes, however long nothing is asked of it
        cursor.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", lock)
        connection.commit()  # the lock is the session's: no transaction stays open for it
        yield
        with suppress(psycopg2.Error):
            cursor.execute("SELECT pg_advisory_unlock(%s, hashtext(%s))", lock)
    except psycopg2.errors.LockNotAvailable as error:
        message = f"entity {entity}: another process is at work at its rebuild; end that one first"
        raise SettingError(message) from error
    finally:
        connection.invalidate()  # and ends with the session
