"""Which PostgreSQL types have an equality that a reader would agree with, and how to compare the others.

PostgreSQL calls some values equal that a reader can tell apart, and hashes them alike: `30 days` and `1 mon`, two
boxes of one area, texts under a collation that ignores case. An enum is hashed by an object id that a dump and restore
changes. So only the types listed here are compared and hashed by their own equality. Values of every other type, such
as intervals, composites, enums and extension types, are compared by their text.
"""

from __future__ import annotations

import re

from sync_pipeline.faults import guarded

# Numbers and JSON have several texts for one value (1.0 and 1.00): their own equality is the right one.
NUMBERS = frozenset({"smallint", "integer", "bigint", "real", "double precision", "numeric"})
TEXTS = frozenset({"text", "character varying", "character", "bpchar", "citext"})
_EXACT = frozenset(
    {
        "boolean",
        "bytea",
        "uuid",
        "oid",
        "name",
        '"char"',
        "date",
        "time without time zone",
        "time with time zone",
        "timestamp without time zone",
        "timestamp with time zone",
        "inet",
        "cidr",
        "macaddr",
        "macaddr8",
        "pg_lsn",
        # ranges of exact types; a range of another type is compared by its text
        "int4range",
        "int8range",
        "numrange",
        "tsrange",
        "tstzrange",
        "daterange",
        "int4multirange",
        "int8multirange",
        "nummultirange",
        "tsmultirange",
        "tstzmultirange",
        "datemultirange",
    }
)
_MODIFIER = re.compile(r"\([^)]*\)")


def split_array(kind: str) -> tuple[str, bool]:
    """Split a type as format_type writes it into its element type without length or scale, and whether it is an array.

    `numeric(10,2)[]` gives ("numeric", True); `timestamp(3) with time zone` gives ("timestamp with time zone", False).
    """
    return " ".join(_MODIFIER.sub("", kind.removesuffix("[]")).split()), kind.endswith("[]")


def has_exact_equality(kind: str) -> bool:
    """Whether equality of this element type hides no difference from a reader; texts need the collation "C" for it."""
    return kind in NUMBERS or kind in TEXTS or kind in _EXACT or (kind == "interval" and not guarded(116))


def comparable(expression: str, kind: str) -> str:
    """Give SQL that compares a value of this type (as format_type writes it) without hiding a difference."""
    base, is_array = split_array(kind)
    suffix = "[]" if is_array else ""
    if base in TEXTS:
        return f'{expression}::text{suffix} COLLATE "C"'
    if base in {"json", "jsonb"}:
        return f"{expression}::jsonb{suffix}"
    if has_exact_equality(base):
        return expression
    return f'{expression}::text{suffix} COLLATE "C"'
