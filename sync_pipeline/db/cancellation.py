"""Cancels what a connection is at. Only reads that have enough bytes do so."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import psycopg2
from psycopg2 import _psycopg

_MESSAGE_BYTES = 256


def cancel(connection: Any) -> None:
    """Have the server end the connection's statement. Other threads go on meanwhile. Raises OperationalError.

    psycopg2's own `cancel` holds the interpreter's lock while it waits for the network. A server that is reached no
    more would stop the whole process then: all entities, and the heartbeats that tell other hosts of it.
    """
    libpq = _libpq()
    if libpq is None:
        connection.cancel()
        return
    handle = libpq.PQgetCancel(connection.pgconn_ptr)
    try:
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        if not libpq.PQcancel(handle, message, _MESSAGE_BYTES):
            raise psycopg2.OperationalError(message.value.decode(errors="replace"))
    finally:
        libpq.PQfreeCancel(handle)


@cache
def _libpq() -> Any:
    """The libpq that psycopg2 has loaded, called without the interpreter's lock; None where it is part of psycopg2."""
    libpq = ctypes.CDLL(_psycopg.__file__)
    try:
        libpq.PQgetCancel.restype, libpq.PQgetCancel.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        libpq.PQcancel.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
        libpq.PQfreeCancel.restype, libpq.PQfreeCancel.argtypes = None, [ctypes.c_void_p]
    except AttributeError:
        return None
    return libpq
