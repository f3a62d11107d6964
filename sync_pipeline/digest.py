"""Digests: a 64-bit hash of a row's declared columns, which the monolith's own server computes.

PostgreSQL's hash functions (`hash_record_extended`) are stable within a major version and take as equal what compares
equal: 1.0 and 1.00. They also give some values the hash of NULL (0.0, NaN and infinite numbers), take [] and [[]] for
one document, and texts for one that a collation calls equal. So beside a column's hash stands what it would hide, and
what hides too much is hashed as its text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from sync_pipeline.sql import quote

# raise it whenever an expression changes: older digests are then unknown, not drift
_ALGORITHM = 2
_TEXTS = {"text", "character varying", "character", "citext"}
_ZERO_IS_NULL = {"real", "double precision", "numeric"}
# no hash of their own, or one that hides more than can be said beside it
_AS_TEXT = {
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


def digest_of(types: Mapping[str, str]) -> str:
    """SQL of the digest (bigint) of a row `q` with columns of these PostgreSQL types."""
    parts = [part for name, kind in types.items() for part in _told_apart(f"q.{quote(name)}", kind)]
    return f"hash_record_extended(ROW({', '.join(parts)}), 0)"


def digest_version(types: Mapping[str, str], server_major: int) -> str:
    """Digests of another version cannot be compared: another algorithm, server or set of columns."""
    columns = hashlib.sha256(repr(list(types.items())).encode()).hexdigest()[:12]
    return f"{_ALGORITHM}/{server_major}/{columns}"


def _told_apart(column: str, kind: str) -> list[str]:
    base, array = kind.removesuffix("[]").split("(", maxsplit=1)[0].strip(), kind.endswith("[]")
    if base in _TEXTS:
        return [f'{column}::text{"[]" if array else ""} COLLATE "C"']
    if base in _AS_TEXT or (array and base in _ZERO_IS_NULL):
        return [f'{column}::text COLLATE "C"']
    if base == "numeric":
        return [column, f"CASE WHEN {column} IN ('NaN', 'Infinity', '-Infinity') THEN {column}::text"
                        f" WHEN {column} IS NOT NULL THEN '' END"]  # fmt: skip
    return [column, f"{column} IS NULL"] if base in _ZERO_IS_NULL else [column]
