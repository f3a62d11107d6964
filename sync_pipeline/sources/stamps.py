"""Stamps: the columns that say when a row changed, by the clock or by a number that is drawn at each change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sync_pipeline.db.sql import Cursor
from sync_pipeline.errors import DeclarationError
from sync_pipeline.sources.table import Table, plain

INTEGERS = {"smallint", "integer", "bigint"}
UNZONED = "timestamp without time zone"
_KIND = """
    SELECT format_type(a.atttypid, -1) FROM pg_attribute a
    WHERE a.attrelid = to_regclass(%s) AND a.attname = %s AND NOT a.attisdropped
"""
# the sequence that is named; else the one that the column owns, or that its default draws from
_SEQUENCE = """
    SELECT format('%%I.%%I', n.nspname, c.relname), s.seqcache, s.seqincrement, s.seqcycle,
           has_sequence_privilege(c.oid, 'SELECT'), quote_ident(current_user)
    FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE CASE WHEN %(named)s <> '' THEN c.oid = to_regclass(%(named)s) ELSE c.oid IN (
        SELECT d.objid FROM pg_depend d JOIN pg_attribute a ON (a.attrelid, a.attnum) = (d.refobjid, d.refobjsubid)
        WHERE d.classid = 'pg_class'::regclass AND a.attrelid = to_regclass(%(table)s) AND a.attname = %(column)s
          AND d.deptype IN ('a', 'i')
        UNION SELECT d.refobjid FROM pg_depend d JOIN pg_attrdef f ON f.oid = d.objid
        JOIN pg_attribute a ON (a.attrelid, a.attnum) = (f.adrelid, f.adnum)
        WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass
          AND a.attrelid = to_regclass(%(table)s) AND a.attname = %(column)s) END
"""


@dataclass(frozen=True)
class Stamp:
    """A stamped column; `sequence` is where its numbers are drawn from, None for a timestamp."""

    table: Table
    column: str
    zone: str | None = None
    sequence: str | None = None

    @property
    def name(self) -> str:
        """Names it among an entity's stamps, from one process to the next."""
        return " ".join([self.column, *filter(None, [self.table.join, ",".join(map(str, self.table.key))])])

    @property
    def instant(self) -> str:
        """SQL for its value on the monolith's clock, or its number."""
        return f"{self.column} AT TIME ZONE '{self.zone}'" if self.zone else self.column


def stamps_of(cursor: Cursor, table: Table) -> list[Stamp]:
    """A table's stamps. Raises DeclarationError for one that is not there, or whose numbers tell no order."""
    return [_stamp(cursor, table, name) for name in table.stamps]


def sequence_faults(cursor: Cursor, table: Table, name: str) -> Iterator[tuple[str, str]]:
    """(what, remedy): why the numbers of a column tell no order, or cannot be followed."""
    column = f"{table.name}.{name}"
    found = _sequence(cursor, table, name)
    if found is None:
        yield (
            f"{column} is a number, and nobody can say from which sequence it is drawn",
            f'say it: Table("{table.name}", …, sequence="…")',
        )
        return
    sequence, cache, increment, cycles, may, role = found
    if cache > 1:
        yield (
            f"{column} is drawn from {sequence}, of which each session takes {cache} numbers at once: low ones come"
            " late, and are lost",
            f"ALTER SEQUENCE {sequence} CACHE 1;",
        )
    if increment < 0 or cycles:
        yield (
            f"{column} is drawn from {sequence}, which does not only rise",
            f"ALTER SEQUENCE {sequence} INCREMENT {abs(increment)} NO CYCLE;",
        )
    if not may:
        yield f"{role} may not read {sequence}", f"GRANT SELECT ON SEQUENCE {sequence} TO {role};"


def _stamp(cursor: Cursor, table: Table, name: str) -> Stamp:
    cursor.execute(_KIND, (table.name, plain(name)))
    found = cursor.fetchone()
    if found is None:
        raise DeclarationError(f"there is no column {name} of {table.name}")
    if found[0] not in INTEGERS:
        return Stamp(table, table.column(name), table.zone if found[0] == UNZONED else None)
    for what, remedy in sequence_faults(cursor, table, name):
        raise DeclarationError(f"{what}: {remedy}")
    sequence = _sequence(cursor, table, name)
    assert sequence
    return Stamp(table, table.column(name), sequence=sequence[0])


def _sequence(cursor: Cursor, table: Table, name: str) -> tuple[str, int, int, bool, bool, str] | None:
    cursor.execute(_SEQUENCE, {"named": table.sequence, "table": table.name, "column": plain(name)})
    found: list[tuple[str, int, int, bool, bool, str]] = cursor.fetchall()
    return found[0] if len(found) == 1 else None
