"""A legacy table whose changes change an entity's rows, and how its rows lead to the root's key."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """One of the tables that an entity is made from.

    `key` gives the root's key: columns of the table, or of what `join` adds for a table that many roots refer to
    (`join="JOIN content c ON c.author_id = authors.id", key=("c.id",)`).
    `stamp` is the column that says when a row changed: a timestamp, or a number drawn from a sequence at each change.
    `zone` is needed only for a timestamp without time zone: the zone the monolith stamps in.
    """

    name: str
    key: tuple[str, ...]
    stamp: str = ""
    join: str = ""
    zone: str | None = None

    def roots(self) -> list[str]:
        """SQL of each key column, qualified."""
        return [name if "." in name else f"{self.name}.{name}" for name in self.key]
