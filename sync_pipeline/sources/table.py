"""A legacy table whose changes change an entity's rows, and how its rows lead to the root's key."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal as OneOf
from typing import get_args

from sync_pipeline.errors import DeclarationError

Policies = OneOf["", "complete"]
# as the server reads a name in UTF-8: without quotes only A to Z are folded; a long name is cut
_FOLDED = str.maketrans({chr(code): chr(code + 32) for code in range(ord("A"), ord("Z") + 1)})
_NAME_BYTES = 63
_LAST = re.compile(r'(?:"(?:[^"]|"")+"|[^".]+)$')


@dataclass(frozen=True)
class Literal:
    """A part of the root's key that all rows of a table share: `Table("films", key=(Literal("film"), "id"))`."""

    value: str | int

    def sql(self, kind: str) -> str:
        """The value in SQL, of a type."""
        text = str(self.value).replace("'", "''")
        escaped = text.replace("\\", "\\\\")
        return f"E'{escaped}'::{kind}" if "\\" in text else f"'{text}'::{kind}"


@dataclass(frozen=True)
class Table:
    """One of the tables that an entity is made from. Names are written as in SQL: `Table('legacy."Film"', …)`.

    `key` gives the root's key: columns of the table, or of what `join` adds for a table that many roots refer to
    (`join="JOIN content c ON c.author_id = authors.id", key=("c.id",)`), and a Literal where the table itself says
    which root it is. A table that leads to roots in several ways is named once for each.
    `stamp` is the column that says when a row changed: a timestamp, or a number drawn from a sequence at each change,
    in the transaction that changes it; several where a change moves one of them. `sequence` is needed only where the
    numbers come from elsewhere than the column's default, `zone` only for timestamps without time zone: the zone the
    monolith stamps in.
    `policies="complete"` says that the row-level security of the entity's tables shows our role all rows that are meant
    to move. Without it the monolith is asked to refuse a read that a policy would filter, because a hidden row looks
    like a deleted one.
    """

    name: str
    key: tuple[str | Literal, ...]
    stamp: str | tuple[str, ...] = ""
    join: str = ""
    zone: str | None = None
    sequence: str = ""
    policies: Policies = ""

    def __post_init__(self) -> None:
        if self.policies not in get_args(Policies):
            raise DeclarationError(f'Table({self.name!r}): policies is "complete", or left out')

    @property
    def stamps(self) -> tuple[str, ...]:
        """The stamped columns, none or several."""
        return self.stamp if isinstance(self.stamp, tuple) else (self.stamp,) if self.stamp else ()

    @property
    def alias(self) -> str:
        """The name without its schema, as it is written."""
        return _last(self.name)[0]

    def roots(self, types: Sequence[str]) -> list[str]:
        """SQL of each key column, qualified; `types` are those of the root's key."""
        return [
            part.sql(kind) if isinstance(part, Literal) else self.column(part)
            for part, kind in zip(self.key, types, strict=True)
        ]

    def column(self, name: str) -> str:
        """SQL of a column, qualified unless it is so already."""
        return name if _last(name).start() else f"{self.name}.{name}"


def plain(name: str) -> str:
    """The last part of a name that is written as in SQL, as the catalogue has it. Raises DeclarationError."""
    part = _last(name)[0].strip()
    name = part[1:-1].replace('""', '"') if part.startswith('"') else part.translate(_FOLDED)
    return name.encode()[:_NAME_BYTES].decode(errors="ignore")


def _last(name: str) -> re.Match[str]:
    found = _LAST.search(name)
    if not found:
        raise DeclarationError(f"{name!r} is no name as it is written in SQL")
    return found
