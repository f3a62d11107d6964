"""The table sink: rows of an entity in a table of the new PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pyarrow as pa

from sync_pipeline.db.counting import count_rows
from sync_pipeline.db.sql import Cursor
from sync_pipeline.errors import DeclarationError
from sync_pipeline.ledger import claims
from sync_pipeline.model.findings import Finding
from sync_pipeline.model.notices import Notice
from sync_pipeline.model.places import Place
from sync_pipeline.model.rows import Adapted
from sync_pipeline.sinks.context import SinkContext, Span
from sync_pipeline.sinks.operations import Operations, Sent
from sync_pipeline.sinks.outer import OuterSink, Seen
from sync_pipeline.sinks.pages import ColumnPage, SinkPage
from sync_pipeline.sinks.sink import Sink, SinkSize, Stage
from sync_pipeline.sinks.table.declaration import TableDeclaration
from sync_pipeline.sinks.table.definitions import split_definition
from sync_pipeline.stores.breaker import Breaker
from sync_pipeline.stores.stores import Stores

_SHOWN_OTHERWISE = re.compile(r"\b(?:not\s+)?null\b|\bunique\b", re.IGNORECASE)


@dataclass(frozen=True)
class RelationalTable(TableDeclaration, OuterSink):
    """A table of the new side: `columns` maps each column to its PostgreSQL type and constraints.

    The table is made if it is not there. `where` names a boolean column of the adapted frame: only rows
    that have it true are written. `references` are to rows of other entities, or of this one.

    `key` names the columns that hold the entity's key. `primary_key` names those of them that identify a row in this
    table, where these are fewer: a part's own id without its root. A row never takes the place of another key's row.

    The first table of an entity is written in the ledger's transaction. Any other one is owed by it and written next,
    like an index; `label` names it.
    """

    noun: ClassVar[str] = "row"
    stage: ClassVar[Stage] = Stage.ROWS

    @property
    def place(self) -> Place:
        """The table."""
        return Place("table", self.name, "give one of them another RelationalTable")

    @property
    def places(self) -> tuple[Place, ...]:
        """The table, and those that a rebuild fills and leaves."""
        return tuple(replace(self.place, name=table.name) for table in (self, self.shadow, self.former))

    @property
    def declared(self) -> frozenset[str]:
        """Its columns."""
        return frozenset(self.columns)

    def asset_path(self, entity: str) -> tuple[str, ...]:
        """By schema and table."""
        return tuple(self.name.split("."))

    def page(self, entity: str) -> SinkPage:
        """Rows of a table, with its columns as declared."""
        key = self.identity
        return SinkPage(
            frozenset({"postgres", "table"}),
            f"Rows of `{self.name}`, kept in step with the monolith.",
            tuple(_column(name, *split_definition(kind), key) for name, kind in self.columns.items()),
            (f"primary key ({', '.join(key)})",) if len(key) > 1 else (),
            self.name,
        )

    def column_faults(self, adapted: pa.Table) -> Iterator[str]:
        """What of its columns adapted rows lack."""
        try:
            self.rows(adapted)
        except DeclarationError as error:
            yield str(error)

    def open(self, stores: Stores, entity: str) -> None:
        """Make the table where it is not there, and record it as the entity's. Raises as `Sink.open` does."""
        with stores.target() as cursor:
            self.open_in(cursor, entity)

    def open_in(self, cursor: Cursor, entity: str) -> None:
        """As `open` does, in the transaction of the ledger."""

        def is_empty() -> bool:
            cursor.execute(f"SELECT NOT EXISTS (SELECT FROM {self.quoted})")
            return bool(cursor.fetchone()[0])

        self.ensure(cursor)
        claims.claim(cursor, entity, self.place, is_empty)

    def preflight(self, stores: Stores, entity: str) -> Iterator[Notice]:
        """Whether the table can be made, or is as declared and may be written."""
        from sync_pipeline.sinks.table.preflight import check_table

        with stores.target() as cursor:
            yield from check_table(cursor, self)

    def breaker(self, stores: Stores) -> Breaker:
        """The new side's database's, for tables that are not the first one."""
        return stores.breaker(self.kind)

    def contents(self, adapted: pa.Table) -> pa.Table:
        """Its columns of adapted rows."""
        return self.rows(adapted)

    def send(self, context: SinkContext, operations: Operations) -> Sent:
        """Write and delete rows, under the locks of the ledger. Raises as `OuterSink.send` does."""
        from sync_pipeline.sinks.table.send import send

        return send(context, self, operations)

    def read(self, context: SinkContext, ids: Sequence[str]) -> Mapping[str, Seen]:
        """The rows that are there; they bear no version."""
        key = context.key.named(self.key)
        with context.stores.target() as cursor:
            cursor.execute(
                f"SELECT {key.text_expression('t')} FROM {self.quoted} t"
                f" WHERE {key.is_in(cursor, 't', context.key.parse(ids))}"
            )
            return {text: Seen() for (text,) in cursor.fetchall()}

    def compare(self, context: SinkContext, expected: Adapted, span: Span) -> list[Finding]:
        """Rows that are missing, stale, extra or corrupt."""
        from sync_pipeline.sinks.table.compare import compare_rows

        return compare_rows(context, self, expected, span)

    def measure(self, stores: Stores) -> SinkSize | None:
        """Its rows, and the bytes of the table with its indices."""
        with stores.target() as cursor:
            cursor.execute("SELECT pg_total_relation_size(to_regclass(%s))", (self.quoted,))
            size = cursor.fetchone()[0]
            return None if size is None else SinkSize(count_rows(cursor, self.quoted), size)


def _column(name: str, kind: str, constraints: str, key: tuple[str, ...]) -> ColumnPage:
    rest = " ".join(_SHOWN_OTHERWISE.sub("", constraints).split())
    return ColumnPage(
        name,
        kind,
        nullable=name not in key and not re.search(r"\bnot\s+null\b", constraints, re.IGNORECASE),
        unique=bool(re.search(r"\bunique\b", constraints, re.IGNORECASE)),
        notes=(*["primary key"] * ((name,) == key), *[rest] * bool(rest)),
    )


def tables_of(sinks: Iterable[Sink]) -> list[RelationalTable]:
    """Return the tables among some sinks; the first one is written in the ledger's transaction."""
    return [sink for sink in sinks if isinstance(sink, RelationalTable)]
