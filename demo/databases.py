"""The databases and roles on the demo's servers: a monolith on one, the new side on the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812
from psycopg2.extensions import cursor as Cursor  # noqa: N812
from psycopg2.sql import SQL, Identifier, Literal

from demo.servers.postgres import PostgresServer

SQL_FOLDER = Path(__file__).parent / "sql"
OWNER, READER, WRITER, DAGSTER = "monolith", "sync_reader", "sync_writer", "dagster"

_TEMPLATE = "monolith_template"
# any number, the same for all who make databases on one server
_LOCK = 7_243_001


@dataclass(frozen=True)
class Monolith:
    """Connection strings of one legacy database: for the engine, and for who plays the monolith."""

    reader_url: str
    admin_url: str


def create_monolith(server: PostgresServer, name: str) -> Monolith:
    """Make an empty monolith unless it is there; many on one server are cheap (cloned from a template)."""
    with _administration(server) as cursor:
        _create_role(cursor, OWNER, server.password)
        _create_role(cursor, READER, server.password)
        cursor.execute(SQL("GRANT pg_read_all_stats TO {}").format(Identifier(READER)))
        _ensure_template(cursor, server)
        _create_database(cursor, name, OWNER, _TEMPLATE)
        # every role may make temporary tables by default; a reader may not
        cursor.execute(SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC").format(Identifier(name)))
    return Monolith(server.url(name, READER), server.url(name))


def create_target(server: PostgresServer, name: str, owner: str = WRITER) -> str:
    """Make an empty database owned by `owner` unless it is there; returns the owner's connection string."""
    with _administration(server) as cursor:
        _create_role(cursor, owner, server.password)
        _create_database(cursor, name, owner)
    return server.url(name, owner)


def drop_database(server: PostgresServer, name: str) -> None:
    """Drop a database, whoever is connected."""
    with _administration(server) as cursor:
        cursor.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name)))


@contextmanager
def connected(url: str, autocommit: bool = True) -> Iterator[Connection]:
    """A connection that is closed at the end."""
    connection = psycopg2.connect(url)
    connection.autocommit = autocommit
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def _administration(server: PostgresServer) -> Iterator[Cursor]:
    """The superuser, alone: a second one waits."""
    with connected(server.url("postgres")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
        yield cursor


def _create_role(cursor: Cursor, name: str, password: str) -> None:
    cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name])
    if cursor.fetchone() is None:
        cursor.execute(SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(Identifier(name), Literal(password)))


def _create_database(cursor: Cursor, name: str, owner: str, template: str = "template1") -> None:
    cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
    if cursor.fetchone() is None:
        statement = SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}")
        cursor.execute(statement.format(Identifier(name), Identifier(owner), Identifier(template)))


def _ensure_template(cursor: Cursor, server: PostgresServer) -> None:
    """It counts as a template only when it is whole."""
    cursor.execute("SELECT datistemplate FROM pg_database WHERE datname = %s", [_TEMPLATE])
    if cursor.fetchone() == (True,):
        return
    cursor.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(_TEMPLATE)))
    _create_database(cursor, _TEMPLATE, OWNER)
    with connected(server.url(_TEMPLATE)) as connection, connection.cursor() as inside:
        inside.execute(SQL("SET ROLE {}").format(Identifier(OWNER)))
        for file in ("legacy.sql", "reader.sql", "edit_log.sql"):
            inside.execute((SQL_FOLDER / file).read_text())
    cursor.execute(SQL("ALTER DATABASE {} IS_TEMPLATE true").format(Identifier(_TEMPLATE)))
