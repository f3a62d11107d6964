"""Keys: one or several typed columns that identify an entity's row, rendered for SQL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.db.columns import array_literal, json_of, text_of
from sync_pipeline.db.equality import TEXTS, split_array
from sync_pipeline.db.key_texts import log_form, readable, server_form
from sync_pipeline.db.sql import Cursor, bind, quote
from sync_pipeline.errors import SettingError

# as `log_form` writes them, whatever the session's settings are: a trigger runs in sessions that are not ours
_WRITTEN = {
    "timestamp with time zone": (
        "CASE WHEN NOT isfinite({0}) THEN ({0})::text"
        " WHEN ({0}) < '0001-01-01 00:00:00+00'"
        " THEN to_char(({0}) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US\"Z BC\"')"
        " ELSE to_char(({0}) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US\"Z\"') END"
    ),
    "timestamp without time zone": (
        "CASE WHEN NOT isfinite({0}) THEN ({0})::text"
        " WHEN ({0}) < '0001-01-01' THEN to_char({0}, 'YYYY-MM-DD HH24:MI:SS.US\" BC\"')"
        " ELSE to_char({0}, 'YYYY-MM-DD HH24:MI:SS.US') END"
    ),
    "date": (
        "CASE WHEN NOT isfinite({0}) THEN ({0})::text WHEN ({0}) < '0001-01-01' THEN to_char({0}, 'YYYY-MM-DD\" BC\"')"
        " ELSE to_char({0}, 'YYYY-MM-DD') END"
    ),
    "numeric": "trim_scale({0})::text",
}
_ARROW = {"smallint": pa.int16(), "integer": pa.int32(), "bigint": pa.int64(), "boolean": pa.bool_()}
# types that every server has, and whose values are one key where PostgreSQL calls them equal. A key of any other type
# (an enum, a composite, an interval) is compared and kept as its text.
_OWN = {
    *_ARROW,
    "real",
    "double precision",
    "numeric",
    "uuid",
    "date",
    "time without time zone",
    "time with time zone",
    "timestamp without time zone",
    "timestamp with time zone",
    "bytea",
    "inet",
    "cidr",
    "macaddr",
    "macaddr8",
    "oid",
    "pg_lsn",
}
_TEXT = "text"
# stands for a type that is compared as text, whatever it is
_ANY = "any"


@dataclass(frozen=True)
class Key:
    """Key columns and their PostgreSQL types. Text keys compare by byte, under any locale.

    A table of keys holds whole numbers and booleans as such, and values of every other type as the server's own text,
    so that no value lacks a form: a date may be infinite, or lie before Christ.
    """

    columns: tuple[str, ...]
    types: tuple[str, ...]

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of a table of keys."""
        return pa.schema(
            [(name, _ARROW.get(kind, pa.string())) for name, kind in zip(self.columns, self.types, strict=True)]
        )

    def named(self, columns: Sequence[str]) -> Key:
        """The same key under other column names, as a sink's table has it."""
        return Key(tuple(columns), self.types)

    @property
    def own_types(self) -> tuple[str, ...]:
        """The types of the key's columns in tables of ours."""
        return tuple(map(_own_type, self.types))

    def with_text_types(self, columns: Sequence[str]) -> Key:
        """The same key in a table that may have another type where ours has text."""
        return Key(tuple(columns), tuple(_ANY if kind == _TEXT else kind for kind in self.own_types))

    def prefix(self, columns: int) -> Key:
        """The first columns alone: a root, where rows are parts of one."""
        return Key(self.columns[:columns], self.types[:columns])

    def part(self, positions: Sequence[int]) -> Key:
        """Some of the columns alone."""
        return Key(tuple(self.columns[n] for n in positions), tuple(self.types[n] for n in positions))

    def plain(self, alias: str = "") -> str:
        """`a.x, a.y`, as texts where a type is not compared as such."""
        return ", ".join(self._references(alias))

    def ordered(self, alias: str = "") -> str:
        """The same, collated by byte, for ORDER BY and for comparing with positions."""
        return ", ".join(self._ordered(alias))

    def descending(self, alias: str = "") -> str:
        """The same for ORDER BY, the highest key first."""
        return ", ".join(f"{part} DESC" for part in self._ordered(alias))

    def is_known(self, alias: str) -> str:
        """A condition: no part of the row's key is NULL."""
        # a composite with a NULL in it is no NULL, but is not said to be NOT NULL either
        return " AND ".join(f"{alias}.{quote(name)} IS DISTINCT FROM NULL" for name in self.columns)

    def ddl(self) -> str:
        """Column definitions of a table of ours."""
        return ", ".join(
            quote(name) + " " + _own_type(kind) + (' COLLATE "C"' if _own_type(kind) == _TEXT else "") + " NOT NULL"
            for name, kind in zip(self.columns, self.types, strict=True)
        )

    def joins(self, alias: str, other: Key, other_alias: str) -> str:
        """`a.x = b.x AND a.y = b.y`."""
        pairs = zip(self._references(alias), other._references(other_alias), strict=True)
        return " AND ".join(f"{left} = {right}" for left, right in pairs)

    def first_known(self, alias: str, other_alias: str) -> str:
        """Select the key of one side or, where an outer join has no row there, of the other side."""
        pairs = zip(self.columns, self._references(alias), self._references(other_alias), strict=True)
        return ", ".join(f"coalesce({one}, {other}) AS {quote(name)}" for name, one, other in pairs)

    def collations(self) -> list[str]:
        """The COLLATE clause of each column in an index that gives the key's order; empty where there is none."""
        return [' COLLATE "C"' if _own_type(kind) == _TEXT else "" for kind in self.types]

    def is_in(self, cursor: Cursor, alias: str, keys: pa.Table) -> str:
        """A condition: the row's key is one of `keys`."""
        arrays = self._arrays(cursor, keys)
        if len(arrays) == 1:
            return f"{self.plain(alias)} = ANY({arrays[0]})"
        return f"({self.plain(alias)}) IN (SELECT * FROM unnest({', '.join(arrays)}))"

    def listed(self, cursor: Cursor, keys: pa.Table) -> str:
        """Keys as rows: `unnest(…)`."""
        return f"unnest({', '.join(self._arrays(cursor, keys))})"

    def rows(self, cursor: Cursor, keys: pa.Table) -> str:
        """A sub-select: `keys` as rows of the key's columns."""
        return f"(SELECT * FROM unnest({', '.join(self._arrays(cursor, keys))}) AS k ({self.plain()}))"

    def after(self, cursor: Cursor, alias: str, position: Sequence[str] | None) -> str:
        """A condition: the row's key is above a position (None is below everything)."""
        return self._against(cursor, alias, ">", position) if position else "true"

    def until(self, cursor: Cursor, alias: str, position: Sequence[str] | None) -> str:
        """A condition: the row's key is at or below a position (None is above everything)."""
        return self._against(cursor, alias, "<=", position) if position else "true"

    def texts(self, keys: pa.Table) -> pa.Array:
        """Each key as one text: the value itself, or a JSON array of a composite's values as texts."""
        parts = self.column_texts(keys)
        if len(parts) == 1:
            return parts[0]
        joined = pc.binary_join_element_wise(*map(json_of, parts), ",")
        return pc.binary_join_element_wise("[", joined, "]", "")

    def column_texts(self, keys: pa.Table) -> list[pa.Array]:
        """Each column of a table of keys as texts of the log; the table may have it in another type of one text."""
        return [log_form(text_of(keys.column(n)), kind) for n, kind in enumerate(self.types)]

    def parse(self, texts: Iterable[str]) -> pa.Table:
        """Texts back to a table of keys. Raises SettingError for a text that is no key."""
        rows = [self._split(text) for text in texts]
        try:
            arrays = [
                server_form(pa.array([readable(row[n], kind) for row in rows], pa.string()), kind).cast(field.type)
                for n, (field, kind) in enumerate(zip(self.schema, self.types, strict=True))
            ]
        except (pa.ArrowInvalid, ValueError) as error:
            raise SettingError(f"not a key of type {', '.join(self.types)}: {error}") from error
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def parse_known(self, texts: Sequence[str]) -> tuple[pa.Table, set[str]]:
        """Texts back to a table of keys, and those of the texts that are no keys."""
        try:
            return self.parse(texts), set()
        except SettingError:
            pass
        good: list[str] = []
        for text in texts:
            try:
                self.parse([text])
                good.append(text)
            except SettingError:
                continue
        return self.parse(good), set(texts) - set(good)

    def is_text(self, text: str) -> bool:
        """Whether a text is a key as `texts` writes it: of "7" and "07" only the first is."""
        try:
            return bool(self.texts(self.parse([text]))[0].as_py() == text)
        except SettingError:
            return False

    def position(self, keys: pa.Table, row: int = -1) -> list[str]:
        """One key of a table as a position."""
        at = row % keys.num_rows
        return [text_of(keys.column(n).slice(at, 1))[0].as_py() for n in range(len(self.columns))]

    def literals(self, cursor: Cursor, position: Sequence[str]) -> str:
        """The values of a position, which may be one of roots: of the first columns only."""
        values = zip(position, self.types[: len(position)], strict=True)
        return ", ".join(f"{bind(cursor, value)}::{_own_type(kind)}" for value, kind in values)

    def text_expression(self, alias: str) -> str:
        """SQL that writes a key as `texts` does."""
        return self.written(self._references(alias))

    def written(self, expressions: Iterable[str]) -> str:
        """The same of SQL expressions, one for each of its columns."""
        pairs = zip(expressions, self.types, strict=True)
        parts = [_WRITTEN.get(kind, "({0})::text").format(expression) for expression, kind in pairs]
        if len(parts) == 1:
            return parts[0]
        return f"'[' || concat_ws(',', {', '.join(f'to_json({part})' for part in parts)}) || ']'"

    def _split(self, text: str) -> list[str]:
        if len(self.columns) == 1:
            return [text]
        try:
            parts = orjson.loads(text)
        except orjson.JSONDecodeError:
            parts = None
        if not isinstance(parts, list) or len(parts) != len(self.columns):
            raise SettingError(f'{text!r} is not a key: write ["…", "…"] for {", ".join(self.columns)}')
        return [str(part) for part in parts]

    def _arrays(self, cursor: Cursor, keys: pa.Table) -> list[str]:
        """Each column of `keys` as an SQL array."""
        return [
            f"{bind(cursor, array_literal(keys.column(n)))}::{_own_type(kind)}[]" for n, kind in enumerate(self.types)
        ]

    def _references(self, alias: str) -> list[str]:
        if not alias:  # columns of a table of ours, or their names alone
            return [quote(name) for name in self.columns]
        return [
            f"({alias}.{quote(name)})::text" if _is_foreign(kind) else f"{alias}.{quote(name)}"
            for name, kind in zip(self.columns, self.types, strict=True)
        ]

    def _ordered(self, alias: str) -> list[str]:
        return [name + collation for name, collation in zip(self._references(alias), self.collations(), strict=True)]

    def _against(self, cursor: Cursor, alias: str, operator: str, position: Sequence[str]) -> str:
        key = self.prefix(len(position))
        return f"({key.ordered(alias)}) {operator} ({key.literals(cursor, position)})"


def _base(kind: str) -> str:
    return kind if kind.endswith("[]") else split_array(kind)[0]


def _is_foreign(kind: str) -> bool:
    """Whether keys of a type are compared as their text; "" stands for any type, of a table of the new side."""
    return bool(kind) and _base(kind) not in _OWN and _base(kind) not in TEXTS


def _own_type(kind: str) -> str:
    return kind if _base(kind) in _OWN or not kind else _TEXT
