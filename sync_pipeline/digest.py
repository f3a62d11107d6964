"""Digests: a 64-bit hash of a row's declared columns, which the monolith's own server computes.

PostgreSQL's hash functions (`hash_record_extended`) are stable within a major version and take as equal what compares
equal: 1.0 and 1.00. They also give some values the hash of NULL (0.0, NaN and infinite numbers), take [] and [[]] for
one document, ignore the dimensions of an array, and call `1 mon` and `30 days` one interval. So beside a column's hash
stands what it would hide, and types whose equality hides a difference are hashed as their text (`equality.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from sync_pipeline.equality import TEXTS, has_exact_equality, split_array
from sync_pipeline.sql import quote

# A digest of another algorithm is unknown, not drift. Raise the number for the types whose expression changes, so that
# only entities that have such a column are filled again.
_ALGORITHM = 2
_REVISED = 3
_ZERO_IS_NULL = {"real", "double precision", "numeric"}
# the hash of a range takes a bound of NaN for one of 0
_RANGES_OF_NUMBERS = {"numrange", "nummultirange"}
# hashed as text since algorithm 2
_TEXT_BEFORE = {
    "json",
    "jsonb",
    "xml",
    "point",
    "box",
    "polygon",
    "path",
    "circle",
    "line",
    "lseg",
    "bit",
    "bit varying",
    "tsvector",
}
_TEXTS_BEFORE = TEXTS - {"bpchar"}


def digest_of(types: Mapping[str, str]) -> str:
    """SQL of the digest (bigint) of a row `q` with columns of these PostgreSQL types."""
    parts = [part for name, kind in types.items() for part in _told_apart(f"q.{quote(name)}", kind)]
    return f"hash_record_extended(ROW({', '.join(parts)}), 0)"


def digest_version(types: Mapping[str, str], server_major: int) -> str:
    """Digests of another version cannot be compared: another algorithm, server or set of columns."""
    columns = hashlib.sha256(repr(list(types.items())).encode()).hexdigest()[:12]
    algorithm = _REVISED if any(_is_revised(kind) for kind in types.values()) else _ALGORITHM
    return f"{algorithm}/{server_major}/{columns}"


def _is_revised(kind: str) -> bool:
    """Whether algorithm 3 hashes this type by another expression than algorithm 2 did."""
    base, is_array = split_array(kind)
    if base in _TEXT_BEFORE:
        return False
    if is_array:
        return base not in _ZERO_IS_NULL
    return base == "bpchar" or (base not in _TEXTS_BEFORE and _needs_text(base))


def _needs_text(base: str) -> bool:
    return base in _RANGES_OF_NUMBERS or not has_exact_equality(base)


def _told_apart(column: str, kind: str) -> list[str]:
    base, is_array = split_array(kind)
    if _needs_text(base) or (is_array and base in _ZERO_IS_NULL):
        return [f'{column}::text COLLATE "C"']
    if is_array:
        # the hash of an array sees its elements in their order, but neither dimensions nor bounds
        exact = f'{column}::text[] COLLATE "C"' if base in TEXTS else column
        return [exact, f'array_dims({column}) COLLATE "C"']
    if base in TEXTS:
        return [f'{column}::text COLLATE "C"']
    if base == "numeric":
        return [column, f"CASE WHEN {column} IN ('NaN', 'Infinity', '-Infinity') THEN {column}::text"
                        f" WHEN {column} IS NOT NULL THEN '' END"]  # fmt: skip
    return [column, f"{column} IS NULL"] if base in _ZERO_IS_NULL else [column]
