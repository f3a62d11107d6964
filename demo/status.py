"""How the demo's servers are, and how much is in them."""

from __future__ import annotations

import psycopg2

from demo.databases import connected
from demo.fleet import Addresses, Fleet
from demo.lag import TABLES

_HEAD = ("server", "address", "pid", "health")


def server_lines(fleet: Fleet) -> list[str]:
    """A table of the servers."""
    rows = [_HEAD]
    for server in fleet.servers:
        pid = server.pid()
        health = "down" if pid is None else "healthy" if server.answers() else "not answering"
        rows.append((server.name, server.address, str(pid or "-"), health))
    return [f"{name:<9} {address:<16} {pid:>8}  {health}" for name, address, pid, health in rows]


def count_lines(at: Addresses) -> list[str]:
    """Rows on either side."""
    legacy = _counts(at.monolith.admin_url, ["content", "authors", "media_files", "demo.edit_log"])
    target = _counts(at.catalog_url, list(TABLES.values()))
    return [_line("legacy rows", legacy), _line("target rows", target)]


def _counts(url: str, tables: list[str]) -> dict[str, int | None]:
    with connected(url) as connection, connection.cursor() as cursor:
        found: dict[str, int | None] = {}
        for table in tables:
            try:
                cursor.execute(f"SELECT count(*) FROM {table}")
                found[table] = cursor.fetchall()[0][0]
            except psycopg2.errors.UndefinedTable:
                found[table] = None
    return found


def _line(name: str, counts: dict[str, int | None]) -> str:
    return f"{name}: " + ", ".join(f"{table} {'-' if count is None else count}" for table, count in counts.items())
