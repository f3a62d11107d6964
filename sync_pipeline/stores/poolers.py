"""Connection poolers between here and a database: one that pools sessions serves, one that pools transactions does not.

A session of ours must keep its settings, its temporary tables and its locks. A pooler that pools transactions gives the
session of one client to the next one after each transaction, and nothing says so. It shows in which server process
answers: two clients that are connected at once never share one, unless transactions are pooled.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
from psycopg2 import extensions

from sync_pipeline.errors import SettingError

_PID = "SELECT pg_backend_pid()"
_ROUNDS = 3
# a pooler that has no second server session to give lets the second client wait: then it shares none
_WAIT_SECONDS = 5.0

# settings whose pooler was looked at by this process
_known: set[str] = set()


def refuse_pooled_transactions(first: Any, setting: str, connect_second: Callable[[], Any]) -> None:
    """Raise SettingError where the pooler behind a connection pools transactions; looked at once for each setting.

    `connect_second` opens another connection by the same way, which does not block (`async_`).
    """
    if setting in _known:
        return
    own: set[int] = set()
    with closing(connect_second()) as second, _outside_transactions(first):
        is_open = _wait(second, time.monotonic() + _WAIT_SECONDS)
        for _ in range(_ROUNDS if is_open else 0):
            own.add(_process(first))
            other = _process_of_second(second)
            if other is None:
                break
            if other in own or len(own) > 1:
                raise SettingError(
                    f"{setting}: a connection pooler between here and the database pools transactions (PgBouncer:"
                    " pool_mode = transaction), so that sessions lose their settings, temporary tables and locks. Set"
                    " pool_mode = session for this database, or connect to the database itself"
                )
    _known.add(setting)


@contextmanager
def _outside_transactions(connection: Any) -> Iterator[None]:
    """Have each statement end its transaction, or the connection would hold its server session as long as one lasts."""
    begins = getattr(connection, "autocommit", None) is False  # one that reads the log has no transactions
    if begins:
        connection.autocommit = True
    try:
        yield
    finally:
        if begins and not connection.closed:
            connection.autocommit = False


def _process(connection: Any) -> int:
    with connection.cursor(cursor_factory=extensions.cursor) as cursor:
        cursor.execute(_PID)
        return int(cursor.fetchone()[0])


def _process_of_second(connection: Any) -> int | None:
    """The server process behind a connection that does not block; None where it does not get one in time."""
    cursor = connection.cursor()
    cursor.execute(_PID)
    return int(cursor.fetchone()[0]) if _wait(connection, time.monotonic() + _WAIT_SECONDS) else None


def _wait(connection: Any, limit: float) -> bool:
    """Whether an asynchronous connection has done what it does, in time. Raises psycopg2.Error."""
    while (left := limit - time.monotonic()) > 0:
        state = connection.poll()
        if state == extensions.POLL_OK:
            return True
        if state == extensions.POLL_READ:
            select.select([connection.fileno()], [], [], left)
        elif state == extensions.POLL_WRITE:
            select.select([], [connection.fileno()], [], left)
        else:
            raise psycopg2.OperationalError(f"the connection is in state {state}")
    return False
