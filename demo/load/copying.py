"""Rows to PostgreSQL's COPY text."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from psycopg2.extensions import cursor as Cursor  # noqa: N812

Value: TypeAlias = str | int | float | None


def copy_rows(cursor: Cursor, table: str, columns: Sequence[str], rows: Iterable[Sequence[Value]]) -> None:
    """COPY the rows of one chunk into a table."""
    text = io.StringIO("".join(line(row) for row in rows))
    cursor.copy_expert(f"COPY {table} ({', '.join(columns)}) FROM STDIN", text, size=1 << 20)


def line(row: Sequence[Value]) -> str:
    """One row."""
    return "\t".join([encode(value) for value in row]) + "\n"


def encode(value: Value) -> str:
    """One value; COPY's own signs are escaped."""
    if value is None:
        return "\\N"
    if not isinstance(value, str):
        return str(value)
    if "\\" in value:
        value = value.replace("\\", "\\\\")
    if "\n" in value or "\t" in value or "\r" in value:
        value = value.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    return value
