"""Declared columns of a table: their types, and what follows from a type for its values."""

from __future__ import annotations

import re
from functools import lru_cache

_CONSTRAINT = re.compile(
    r"\s+(?=(?:not\s+null|null|default|check|unique|primary|references|generated|collate|constraint)\b)", re.IGNORECASE
)
# types that a cast would cut a value to, and their like without a length
_SIZED = {
    "character varying": "character varying",
    "character": "bpchar",
    "bit varying": "bit varying",
    "bit": "bit varying",
}
_EXACT_KEYS = frozenset(
    {
        *("smallint", "int2", "integer", "int", "int4", "bigint", "int8", "boolean", "bool", "uuid", "date", "text"),
        *("varchar", "character varying", "timestamptz", "timestamp", "timestamp with time zone", "bytea"),
        *("timestamp without time zone", "time", "time without time zone", "oid", "name"),
    }
)


@lru_cache(maxsize=1024)
def split_definition(definition: str) -> tuple[str, str]:
    """A declared column's type, and its constraints: "text[] not null" is "text[]" and "not null"."""
    kind, *constraints = _CONSTRAINT.split(definition, maxsplit=1)
    return kind.strip(), " ".join(constraints)


def is_exact(definition: str) -> bool:
    """Whether a declared type has no two texts that PostgreSQL calls equal."""
    kind = split_definition(definition)[0].lower().partition("(")[0].strip()
    return kind in _EXACT_KEYS


def uncut(kind: str) -> str:
    """A type without its length: a cast would cut a longer value without a word, which a column does not take."""
    for sized, free in _SIZED.items():
        kind = re.sub(rf"^{sized}\(\d+\)", free, kind)
    return kind
