"""Digests: a 64-bit hash of a row's declared columns, which the monolith's own server computes.

PostgreSQL's hash functions (`hash_record_extended`) are stable within a major version and take as equal what compares
equal: 1.0 and 1.00. They also give some values the hash of NULL (0.0, NaN and infinite numbers), take [] and [[]] for
one document, ignore the dimensions of an array, and call `1 mon` and `30 days` one interval. So beside a column's hash
stands what it would hide, and types whose equality hides a difference are hashed as their text (`db/equality.py`).

The version of a digest is the hash of its own expression, so that it changes where the expression does, and only there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from sync_pipeline.db.equality import TEXTS, has_exact_equality, split_array
from sync_pipeline.db.sql import quote

_FLOATS = {"real", "double precision"}
_ZERO_IS_NULL = {*_FLOATS, "numeric"}
# The version was composed of a number and the columns' types before it was the hash of the expression. Ledgers that
# bear such a version keep it where the expression has stayed the same.
_ALGORITHM_BEFORE, _REVISED_BEFORE = 2, 3
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


@dataclass(frozen=True)
class DigestExpression:
    """The SQL of a digest (bigint) of a row `q`, and the part that each column has in it."""

    sql: str
    parts: Mapping[str, str]

    @classmethod
    def of(cls, parts: Mapping[str, str]) -> DigestExpression:
        """Put the parts of all columns together, in their order."""
        return cls(f"hash_record_extended(ROW({', '.join(parts.values())}), 0)", parts)

    def version(self, server_major: int) -> str:
        """Digests of another version cannot be compared: another expression, or another server's hash functions."""
        return f"{hashlib.sha256(self.sql.encode()).hexdigest()[:16]}/{server_major}"


def digest_expression(types: Mapping[str, str]) -> DigestExpression:
    """Give the expression of the digest of a row with columns of these PostgreSQL types."""
    return DigestExpression.of(
        {name: ", ".join(_distinguished(f"q.{quote(name)}", kind)) for name, kind in types.items()}
    )


def digest_of(types: Mapping[str, str]) -> str:
    """SQL of the digest (bigint) of a row `q` with columns of these PostgreSQL types."""
    return digest_expression(types).sql


def digest_version(types: Mapping[str, str], server_major: int) -> str:
    """Give the version of the digest of a row with columns of these PostgreSQL types."""
    return digest_expression(types).version(server_major)


def former_expressions(types: Mapping[str, str], server_major: int) -> dict[str, DigestExpression]:
    """Give by version the expressions of algorithms 2 and 3. Their ledgers bear the version alone.

    Algorithm 2 did not tell a composite of NULLs from NULL. It is left out where a type may be such a one.
    """
    columns = _hash_of_types(types)
    bases = {split_array(kind)[0] for kind in types.values()}
    tells_null = not any(_needs_text(base) and base not in _TEXT_BEFORE for base in bases)
    return {
        f"{number}/{server_major}/{columns}": DigestExpression.of(
            {name: ", ".join(_parts_before(number, f"q.{quote(name)}", kind)) for name, kind in types.items()}
        )
        for number in ((_ALGORITHM_BEFORE, _REVISED_BEFORE) if tells_null else (_REVISED_BEFORE,))
    }


def former_version(types: Mapping[str, str], server_major: int) -> str | None:
    """The version that this expression had when versions bore a number; None where the expression was another one."""
    if any(kind == "numeric" or kind in _FLOATS for kind in types.values()):
        return None
    number = _REVISED_BEFORE if any(_is_revised(kind) for kind in types.values()) else _ALGORITHM_BEFORE
    return f"{number}/{server_major}/{_hash_of_types(types)}"


def _hash_of_types(types: Mapping[str, str]) -> str:
    return hashlib.sha256(repr(list(types.items())).encode()).hexdigest()[:12]


def _parts_before(number: int, column: str, kind: str) -> list[str]:
    """Give what algorithm 2 or 3 hashed of a column."""
    base, _ = split_array(kind)
    if number == _ALGORITHM_BEFORE and _is_revised(kind):
        return [f'{column}::text[] COLLATE "C"'] if base in _TEXTS_BEFORE else [column]
    parts = _distinguished(column, kind)
    # the scale of a number, and the sign of zero, came after them
    return parts[:2] if kind == "numeric" or kind in _FLOATS else parts


def _is_revised(kind: str) -> bool:
    """Whether algorithm 3 hashes this type by another expression than algorithm 2 did."""
    base, is_array = split_array(kind)
    if base in _TEXT_BEFORE:
        return False
    if is_array:
        return base not in _ZERO_IS_NULL
    return base == "bpchar" or (base not in _TEXTS_BEFORE and _needs_text(base))


def _needs_text(base: str) -> bool:
    return not has_exact_equality(base)


def _distinguished(column: str, kind: str) -> list[str]:
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
        mark = (
            f"CASE WHEN {column} IN ('NaN', 'Infinity', '-Infinity') THEN {column}::text"
            f" WHEN {column} IS NOT NULL THEN '' END"
        )
        # a declared scale is the scale of all values
        return [column, mark, f"scale({column})"] if kind == "numeric" else [column, mark]
    if base in _FLOATS:
        return [column, f"{column} IS NULL", f"{column} = 0 AND {column}::text = '-0'"]
    # a domain over a range has no hash of its own
    return [f"{column}::{base}"] if base.endswith("range") else [column]
