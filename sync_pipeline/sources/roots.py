"""From changed rows of an entity's tables to the roots' keys."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.db.keys import Key
from sync_pipeline.db.sql import Cursor, copy_out, quote
from sync_pipeline.errors import DeclarationError
from sync_pipeline.sources.source import Page, Subject
from sync_pipeline.sources.table import Literal, Table, plain
from sync_pipeline.stores.sessions import Purpose

# identities of changed rows that one query looks up
_LOOKED_UP = 1_000
_PRIMARY_KEY = """
    SELECT array_agg(a.attname ORDER BY array_position(i.indkey, a.attnum))::text[],
           array_agg(format_type(a.atttypid, -1) ORDER BY array_position(i.indkey, a.attnum))::text[]
    FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
    WHERE i.indrelid = %s::regclass AND i.indisprimary
"""


@dataclass(frozen=True)
class Tracked:
    """A table with the key by which a report names its changed rows: the root's, or what leads to it.

    `parts` says where a row has each part of that key: a column by its plain name, or a literal for all rows.
    """

    table: Table
    oid: int
    named: Key
    parts: tuple[str | Literal, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a report must tell, by their plain names in the table."""
        return tuple(part for part in self.parts if isinstance(part, str))

    def text(self, alias: str) -> str:
        """SQL that writes a row's key as Key.texts does."""
        return self.named.written(
            part.sql(kind) if isinstance(part, Literal) else f"{alias}.{quote(part)}"
            for part, kind in zip(self.parts, self.named.types, strict=True)
        )


def track_all(cursor: Cursor, subject: Subject) -> list[Tracked]:
    """Look all of an entity's tables up, in their order. Raises DeclarationError as `track` does."""
    return [track(cursor, subject, table) for table in subject.tables]


def track(cursor: Cursor, subject: Subject, table: Table) -> Tracked:
    """Look a table up. Raises DeclarationError for one that is not there, or has no primary key but needs one."""
    cursor.execute("SELECT to_regclass(%s)::oid", (table.name,))
    (oid,) = cursor.fetchone()
    if oid is None:
        raise DeclarationError(f"entity {subject.entity}: there is no table {table.name}")
    if not table.join:
        parts = tuple(part if isinstance(part, Literal) else plain(part) for part in table.key)
        return Tracked(table, oid, subject.key, parts)
    cursor.execute(_PRIMARY_KEY, (table.name,))
    columns, types = cursor.fetchone()
    if columns is None:
        raise DeclarationError(f"entity {subject.entity}: {table.name} is joined, and has no primary key to name a row")
    return Tracked(table, oid, Key(tuple(columns), tuple(types)), tuple(columns))


def pages(subject: Subject, tracked: Tracked, named: Collection[str], rows: int) -> Iterator[Page]:
    """The roots of changed rows, which `named` holds as texts of the tracked key."""
    texts = sorted(named)
    if not tracked.table.join:
        for first in range(0, len(texts), rows):
            yield Page(subject.key.parse(texts[first : first + rows]))
        return
    for first in range(0, len(texts), _LOOKED_UP):
        changed = tracked.named.parse(texts[first : first + _LOOKED_UP])
        yield from (Page(keys, fanout=True) for keys in _joined(subject, tracked, changed, rows))


def roots_of(subject: Subject, table: Table) -> str:
    """Select list of the roots' keys, under the key's own names, over the table and what it is joined with."""
    key = subject.key
    roots = zip(table.roots(key.types), key.types, key.columns, strict=True)
    # cast, for a table may have the key in another type than the query: char(n) is padded, text is not
    return ", ".join(f"({root})::{kind} AS {quote(own)}" for root, kind, own in roots)


def _joined(subject: Subject, tracked: Tracked, changed: pa.Table, rows: int) -> Iterator[pa.Table]:
    """Roots that refer to the changed rows now, page by page in order of their keys."""
    key = subject.key
    position: list[str] | None = None
    with subject.stores.legacy_rows(Purpose.POLL) as cursor:
        referring = _referring(cursor, subject, tracked, changed)
    while True:
        with subject.stores.legacy_rows(Purpose.POLL) as cursor:
            query = (
                f"SELECT * FROM ({referring}) w WHERE {key.is_known('w')}"
                f" AND {key.after(cursor, 'w', position)} ORDER BY {key.ordered('w')} LIMIT {rows}"
            )
            page = copy_out(cursor, query, key.schema, f"{tracked.table.name} {tracked.table.join}")
        if page.num_rows:
            yield page
        if page.num_rows < rows:
            return
        position = key.position(page)


def _referring(cursor: Cursor, subject: Subject, tracked: Tracked, changed: pa.Table) -> str:
    """Selects the roots' keys. Roots may still refer to a row that is gone, where no foreign key forbids it."""
    table, named = tracked.table, tracked.named
    roots = roots_of(subject, table)
    these = named.is_in(cursor, table.name, changed)
    held = f"SELECT {named.plain(table.name)} FROM {table.name} WHERE {these}"
    there = copy_out(cursor, held, named.schema, table.name)
    gone = changed.filter(pc.invert(pc.is_in(named.texts(changed), value_set=named.texts(there))))
    query = f"SELECT DISTINCT {roots} FROM {table.name} {table.join} WHERE {these}"
    if not gone.num_rows:
        return query
    # a row of the table's type that holds nothing but its primary key stands for each
    keys = named.rows(cursor, gone)
    lost = f"SELECT (jsonb_populate_record(NULL::{table.name}, to_jsonb(k))).* FROM {keys} k"
    plainly = f"{roots} FROM ({lost}) {table.alias} {table.join}".replace(f"{table.name}.", f"{table.alias}.")
    return f"{query} UNION SELECT {plainly}"
