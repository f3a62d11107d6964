"""Fields of documents, compared as rows are: by type where the table knows one, by PostgreSQL itself.

A number that JSON cannot hold exactly is there as text, and 1.0 and 1.00 are two texts for one number: a document may
bear either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import psycopg2

from sync_pipeline.db.equality import comparable_number
from sync_pipeline.db.sql import quote
from sync_pipeline.model.json_values import JsonValue
from sync_pipeline.sinks.context import SinkContext

# numbers, times, intervals and ranges, alone and in arrays; texts differ by their bytes, JSON by its own texts
_SEVERAL_FORMS = """
    SELECT a.attname, format_type(a.atttypid, NULL)
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type e ON e.typarray = t.oid
    WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND coalesce(e.typcategory, t.typcategory) IN ('N', 'D', 'T', 'R')
"""


@dataclass
class Fields:
    """Compares the fields of an entity's documents."""

    context: SinkContext

    def differing(self, wanted: Mapping[str, JsonValue], there: Mapping[str, JsonValue]) -> list[str]:
        """Names of fields whose values differ, or that only one of the documents has."""
        return [
            name
            for name in sorted({*wanted, *there})
            if (name in wanted) is not (name in there) or not self._same(name, wanted[name], there[name])
        ]

    def _same(self, name: str, one: JsonValue, other: JsonValue) -> bool:
        return same(one, other) or (
            same(one, other, texts=False) and name in self._typed and self._equal(name, one, other)
        )

    def _equal(self, name: str, one: JsonValue, other: JsonValue) -> bool:
        """Whether PostgreSQL takes both for one value of the column's type."""
        column = f"(jsonb_populate_record(NULL::{self.context.table}, %s)).{quote(name)}"
        value = comparable_number(column, self._typed[name])
        values = [json.dumps({name: value}) for value in (one, other)]
        with self.context.stores.target_at_once() as cursor:
            try:
                cursor.execute(f"SELECT {value} IS NOT DISTINCT FROM {value}", values)
            except psycopg2.DataError:  # no value of that type at all
                return False
            return bool(cursor.fetchone()[0])

    @cached_property
    def _typed(self) -> dict[str, str]:
        """Columns of which one value has several texts, with their types."""
        with self.context.stores.target_at_once() as cursor:
            cursor.execute(_SEVERAL_FORMS, (self.context.table,))
            return dict(cursor.fetchall())


def same(one: JsonValue, other: JsonValue, *, texts: bool = True) -> bool:
    """Whether two values of JSON are one: 1 is 1.0, and true is not 1. Without `texts`, any two texts count as one."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[name], texts=texts) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same(*pair, texts=texts) for pair in zip(one, other, strict=True))
    if isinstance(one, str) and isinstance(other, str) and not texts:
        return True
    return isinstance(one, bool) is isinstance(other, bool) and bool(one == other)
