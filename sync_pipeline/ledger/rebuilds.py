"""The ledger of rebuilds: which index is filled beside the one behind an entity's alias, and how far it is.

Every batch that owes documents asks by the way whether one is filled (`due.owe_documents`). It asks after it has read
its legacy rows; so whoever is told of none has read less than the fill will, under a lower revision.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2.extras import Json

from sync_pipeline.errors import SettingError
from sync_pipeline.sql import Cursor
from sync_pipeline.stores import Stores

_LOCKS = 0x53594E49
# for the session of one that was just killed to be noticed
_PATIENCE = "1s"
_ROW = "index, former, declared, state, position, filled, rows, started_at"
# whether somebody holds the lock: an advisory lock of two keys shows as classid and objid
_AT_WORK = (
    "EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE d.datname = current_database()"
    f" AND locktype = 'advisory' AND classid = {_LOCKS} AND objid = (hashtext(entity)::bigint & 4294967295)::oid)"
)


@dataclass
class Rebuild:
    """A rebuild that has not come to its end; `rows` counts the legacy rows that were read."""

    entity: str
    index: str
    former: str
    declared: dict[str, Any]
    state: str = "making"
    position: list[str] | None = None
    filled: bool = False
    rows: int = 0
    started_at: object = None

    def begin(self, cursor: Cursor) -> None:
        """Take note of it before the index is made, so that none is left that nobody knows of."""
        self.forget(cursor)  # an index of this name, that somebody has deleted since
        cursor.execute(
            "INSERT INTO sync.rebuild (entity, index, former, declared, state) VALUES (%s, %s, %s, %s, 'making')",
            (self.entity, self.index, self.former, Json(self.declared)),
        )

    def enter(self, cursor: Cursor, state: str) -> None:
        """Come to a state. From `filling` on, every batch writes both indices."""
        self.state = state
        self._update(cursor, "state = %s, finished_at = CASE WHEN %s = 'done' THEN now() END", state, state)

    def advance(self, cursor: Cursor, position: list[str] | None, rows: int) -> None:
        """A page is filled, the last one where there is no `position`; in the transaction that writes its rows."""
        self._update(cursor, "position = %s, filled = %s, rows = rows + %s", position, position is None, rows)

    def forget(self, cursor: Cursor) -> None:
        """Its index is gone."""
        cursor.execute("DELETE FROM sync.rebuild WHERE (entity, index) = (%s, %s)", (self.entity, self.index))

    def _update(self, cursor: Cursor, changes: str, *values: object) -> None:
        cursor.execute(
            f"UPDATE sync.rebuild SET {changes} WHERE (entity, index) = (%s, %s) AND state <> 'removing'",
            (*values, self.entity, self.index),
        )
        if cursor.rowcount != 1:
            raise SettingError(f"entity {self.entity}: the rebuild of {self.index} was given up meanwhile")


def under_way(cursor: Cursor, entity: str) -> Rebuild | None:
    """The entity's rebuild that has not come to its end."""
    cursor.execute(f"SELECT {_ROW} FROM sync.rebuild WHERE entity = %s AND state <> 'done'", (entity,))
    found = cursor.fetchone()
    return Rebuild(entity, *found) if found else None


def done(cursor: Cursor, entity: str) -> list[Rebuild]:
    """Rebuilds whose former index is still kept, oldest first."""
    cursor.execute(
        f"SELECT {_ROW} FROM sync.rebuild WHERE entity = %s AND state = 'done' ORDER BY finished_at", (entity,)
    )
    return [Rebuild(entity, *row) for row in cursor.fetchall()]


def shown(cursor: Cursor, entity: str) -> dict[str, Any] | None:
    """The rebuild under way, as `status` shows it; `at_work` is false where it was cut off."""
    cursor.execute(
        f"SELECT index, former, state, filled, rows, started_at, {_AT_WORK} AS at_work FROM sync.rebuild"
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
