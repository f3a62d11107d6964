"""Whose fault a database error is: the SQLSTATE decides, and not the class that the driver gives it.

The driver's classes mix both kinds. `index row requires 9616 bytes` (54000) is an OperationalError there, as is a
server that shuts down (57P01), and the exception of a trigger (P0001) is an InternalError.
"""

from __future__ import annotations

from typing import Any

import psycopg2
from psycopg2 import errorcodes, errors
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from sync_pipeline.model.faults import guarded

# connection, transaction given up for another one, resources, operator intervention, the server's system and files
_STORE_CLASSES = ("08", "40", "53", "57", "58", "F0")
_STORE_CODES = frozenset(
    {
        "25006",  # read-only: a standby
        "25P03",  # idle in transaction for too long
        "25P04",  # the transaction took too long
        "28000",  # the role may not log in any more
        "28P01",
        "3D000",
        "55006",
        "55P03",  # a lock was waited for in vain
    }
)
# What a query raises over the values of single rows: data, routines, program limits, PL/pgSQL's own exceptions. XX is
# a damaged value, for example of a TOAST table whose chunk is missing.
_ROW_CLASSES = ("21", "22", "23", "2F", "38", "39", "54", "P0", "XX")


def is_of_store(error: psycopg2.Error) -> bool:
    """Whether the store is at fault: another try later may pass, whatever row is written.

    An error without a code comes from the connection itself, unless the driver says that it was called wrongly.
    """
    code = error.pgcode
    if code is None or not guarded(92):
        by_connection = isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError))
        return by_connection or type(error) is psycopg2.DatabaseError
    return code.startswith(_STORE_CLASSES) or code in _STORE_CODES


def is_usable(connection: Any) -> bool:
    """Whether a connection can serve the next caller: it stands, and no transaction is left open."""
    return not connection.closed and connection.info.transaction_status == TRANSACTION_STATUS_IDLE


def _row_faults() -> tuple[type[psycopg2.Error], ...]:
    codes = [str(code) for name, code in vars(errorcodes).items() if name.isupper() and len(str(code)) == 5]
    suspected = [code for code in codes if code.startswith(_ROW_CLASSES)]
    return (psycopg2.DataError, *(kind for code in suspected if (kind := _class_of(code))))


def _class_of(code: str) -> type[psycopg2.Error] | None:
    try:
        return errors.lookup(code)
    except KeyError:
        return None  # the driver has no class of its own for it


# the driver's classes of what the values of a row alone can raise when a query reads it, for `except`
ROW_FAULTS = _row_faults()
