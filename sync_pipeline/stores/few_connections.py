"""Connections of a command that asks little: opened as they are needed, kept for the next use, and never counted.

They stand in for SQLAlchemy's pool, which takes half a second to import.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg2

from sync_pipeline.db.sql import Connection


class FewConnections:
    """What `Stores` needs of an engine, for one thread."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._resting: list[FewConnection] = []

    def raw_connection(self) -> FewConnection:
        """A connection that nothing else uses now. Raises psycopg2.Error, SettingError."""
        return self._resting.pop() if self._resting else FewConnection(self._connect(), self._resting)

    def dispose(self) -> None:
        """Close all that rest."""
        while self._resting:
            self._resting.pop().invalidate()


class FewConnection:
    """A connection in use; `info` is what is known of it."""

    def __init__(self, connection: Connection, resting: list[FewConnection]) -> None:
        self.driver_connection = connection
        self.info: dict[Any, Any] = {}
        self._resting = resting

    def invalidate(self) -> None:
        """Never use it again."""
        with suppress(psycopg2.Error):
            self.driver_connection.close()

    def close(self) -> None:
        """Let it rest until the next use, if it can be used."""
        if not self.driver_connection.closed:
            self._resting.append(self)
