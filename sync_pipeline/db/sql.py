"""SQL through the driver: cursors, COPY of whole tables, values and names as literals."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import psycopg2
import psycopg2.errors
import psycopg2.extensions
import pyarrow as pa

from sync_pipeline.db.cancellation import cancel
from sync_pipeline.db.columns import read_copy, write_copy, write_values

Cursor = Any  # psycopg2's cursor
Connection = psycopg2.extensions.connection
Row = TypeVar("Row")
Value = str | int | float | bytes | dt.datetime | Sequence[str] | Sequence[int] | None
Values = Mapping[str, Value]
# the ledger's own error: another worker holds what was to be moved
LEASE_LOST = "SYL01"
# so many are sooner written into a statement than sent by a COPY, whose journey is its own
_FEW_ROWS = 64
_FEW_BYTES = 1 << 18


class DeferringCursor(psycopg2.extensions.cursor):
    """Sends statements whose answers nobody needs together with the next one: fewer journeys to the server."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._deferred: list[bytes] = []
        self._required: dict[str, str] = {}

    def require(self, settings: Mapping[str, str]) -> None:
        """Have session settings hold from the next statement on; those that hold already are not sent again."""
        held = self._held
        self._required = {name: value for name, value in settings.items() if held.get(name) != value}
        for name, value in self._required.items():
            self.defer(f"SET {name} = %s", (value,))

    def defer(self, statement: str, values: Any = None) -> None:
        """Before whatever comes next. An error of it is raised there."""
        self._deferred.append(self.mogrify(statement, values))

    def execute(self, statement: Any, values: Any = None) -> None:
        """All that was deferred, and this."""
        try:
            super().execute(self._all(self.mogrify(statement, values)))
        except BaseException:
            self._forget_held()
            raise
        self._note_held()
        if statement == "ROLLBACK":
            self._held.clear()

    def copy_expert(self, statement: Any, file: Any, size: int = 8192) -> None:
        """All that was deferred, and this COPY."""
        try:
            super().copy_expert(self._all(statement.encode()), file, size)
        except BaseException:
            self._forget_held()
            raise
        self._note_held()

    def roll_back(self) -> None:
        """Undo what was begun; a connection that cannot is closed."""
        self._deferred = []
        self._held.clear()  # what was set within the transaction is undone with it
        with suppress(psycopg2.Error):
            super().execute("ROLLBACK")
            return
        self.connection.close()

    @property
    def _held(self) -> dict[str, str]:
        """Settings that the session is known to have."""
        held: dict[str, str] = getattr(self.connection, "held", {})
        return held

    def _note_held(self) -> None:
        if self._required:
            self._held.update(self._required)
            self._required = {}

    def _forget_held(self) -> None:
        """An error undoes what was set in the same message."""
        self._held.clear()
        self._required = {}

    def _all(self, statement: bytes) -> bytes:
        statements, self._deferred = [*self._deferred, statement], []
        return b";\n".join(statements)


def copy_out(cursor: Cursor, query: str, schema: pa.Schema, of: str = "") -> pa.Table:
    """The rows of `query` as a table of `schema`. Raises pa.ArrowInvalid where a value does not fit."""
    return read_copy(copy_text(cursor, query, of), schema)


def copy_text(cursor: Cursor, query: str, of: str = "") -> pa.Buffer:
    """The rows of `query` as COPY's CSV; legacy reads tell what they are `of`, as SQL has it after FROM.

    COPY takes its snapshot before it waits for tables, and one that ALTER TABLE has rewritten meanwhile would show it
    no row. So a statement before it, in the same message and transaction, waits for them.
    """
    sink = pa.BufferOutputStream()
    cursor.copy_expert(f"{_wait(of)}COPY ({query}) TO STDOUT (FORMAT csv)", sink)
    return sink.getvalue()


class _CappedSink:
    """Takes the rows of a COPY up to so many bytes and has the server end it there; it takes one row at least."""

    def __init__(self, cursor: Cursor, most: int) -> None:
        self.sink = pa.BufferOutputStream()
        self.is_cut = False
        self._cursor = cursor
        self._left = most
        self._write = self.sink.write

    def write(self, row: bytes) -> None:
        """PostgreSQL sends each row as a message of its own."""
        if self._left > 0:
            self._left -= len(row)
            self._write(row)
        elif not self.is_cut:
            self.is_cut = True
            cancel(self._cursor.connection)


def copy_text_capped(cursor: Cursor, query: str, of: str, most: int) -> tuple[pa.Buffer, bool]:
    """The first rows of `query` as `copy_text` gives them, up to `most` bytes; and whether there are more."""
    capped = _CappedSink(cursor, most)
    try:
        cursor.copy_expert(f"{_wait(of)}COPY ({query}) TO STDOUT (FORMAT csv)", capped)
    except psycopg2.errors.QueryCanceled:
        if not capped.is_cut:
            raise
    return capped.sink.getvalue(), capped.is_cut


def _wait(of: str) -> str:
    return f"PREPARE sync_tables AS SELECT FROM {of}; DEALLOCATE sync_tables; " if of else ""


def stage(cursor: Cursor, relation: str, columns: str, table: pa.Table) -> None:
    """Append a table's rows, to be used by what comes next: few go along with that, many by COPY before it."""
    if table.num_rows > _FEW_ROWS or table.get_total_buffer_size() > _FEW_BYTES:
        copy_in(cursor, relation, columns, table)
    elif table.num_rows:
        try:
            cursor.defer(f"INSERT INTO {relation} ({columns}) VALUES {write_values(table)}")
        except (ValueError, NotImplementedError):
            copy_in(cursor, relation, columns, table)


def copy_in(cursor: Cursor, relation: str, columns: str, table: pa.Table) -> None:
    """Append a table's rows to `relation (columns)`."""
    if table.num_rows:
        cursor.copy_expert(
            f"COPY {relation} ({columns}) FROM STDIN (FORMAT csv)", pa.BufferReader(write_copy(table)), 1 << 20
        )


def named(cursor: Cursor, query: str, values: Mapping[str, object]) -> list[dict[str, Any]]:
    """The rows of a query, by column."""
    cursor.execute(query, values)
    names = [column.name for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def rows_as(kind: Callable[..., Row], cursor: Cursor, query: str, values: Values) -> list[Row]:
    """The rows of a query, each made by `kind` from its columns by name."""
    cursor.execute(query, values)
    names = [column.name for column in cursor.description]
    return [kind(**dict(zip(names, row, strict=True))) for row in cursor.fetchall()]


def bind(cursor: Cursor, value: object) -> str:
    """A value as an SQL literal, quoted by the driver: COPY takes no parameters."""
    return str(cursor.mogrify("%s", (value,)).decode())


def ensure_schema(cursor: Cursor, name: str) -> None:
    """Make a schema where it is not there. IF NOT EXISTS asks for CREATE on the database even where it is."""
    cursor.execute("SELECT to_regnamespace(%s) IS NULL", (quote(name),))
    if cursor.fetchone()[0]:
        cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(name)}")


def literal(text: str) -> str:
    """A text as an SQL literal, for statements that no cursor sends."""
    return "'" + text.replace("'", "''") + "'"


def quote(name: str) -> str:
    """An identifier, quoted."""
    return '"' + name.replace('"', '""') + '"'
