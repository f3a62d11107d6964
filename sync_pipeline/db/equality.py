"""Which PostgreSQL types have an equality that a reader would agree with, and how to compare the others.

PostgreSQL calls some values equal that a reader can tell apart, and hashes them alike: `30 days` and `1 mon`, two
boxes of one area, texts under a collation that ignores case, 1.0 and 1.00. An enum is hashed by an object id that a
dump and restore changes. So only the types listed here are compared and hashed by their own equality. Values of every
other type, such as intervals, composites, enums and extension types, are compared by their text.
"""

from __future__ import annotations

import re

from sync_pipeline.model.faults import guarded

INTEGERS = frozenset({"smallint", "integer", "bigint"})
NUMBERS = INTEGERS | {"real", "double precision", "numeric"}
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
        "tsrange",
        "tstzrange",
        "daterange",
        "int4multirange",
        "int8multirange",
        "tsmultirange",
        "tstzmultirange",
        "datemultirange",
    }
)
_RANGES_OF_NUMBERS = frozenset({"numrange", "nummultirange"})
_MODIFIER = re.compile(r"\([^)]*\)")


def split_array(kind: str) -> tuple[str, bool]:
    """Split a type as format_type writes it into its element type without length or scale, and whether it is an array.

    `numeric(10,2)[]` gives ("numeric", True); `timestamp(3) with time zone` gives ("timestamp with time zone", False).
    """
    return " ".join(_MODIFIER.sub("", kind.removesuffix("[]")).split()), kind.endswith("[]")


def has_exact_equality(kind: str) -> bool:
    """Whether the hash of this element type hides nothing from a reader; texts need the collation "C" for it.

    Numbers do with a mark beside their hash (`db/digest.py`).
    """
    return kind in NUMBERS or kind in TEXTS or kind in _EXACT or (kind == "interval" and not guarded(116))


def comparable(expression: str, kind: str) -> str:
    """Give SQL that compares a value of this type (as format_type writes it) without hiding a difference."""
    base, is_array = split_array(kind)
    if base in _EXACT or base in INTEGERS:
        return expression
    return f'{expression}::text{"[]" if is_array and base in TEXTS else ""} COLLATE "C"'


def comparable_number(expression: str, kind: str) -> str:
    """Give the same SQL for a field of a document, where 1.0 and 1.00 are one number, also as a bound of a range."""
    return expression if split_array(kind)[0] in NUMBERS | _RANGES_OF_NUMBERS else comparable(expression, kind)
