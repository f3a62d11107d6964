"""The watermark source: keys of rows whose change column moved since the last look."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Watermark:
    """A legacy table whose `column` says when a row changed.

    `key` gives the root's key: columns of the table, or of what `join` adds
    (`join="JOIN content c ON c.author_id = authors.id", key=("c.id",)`).
    `zone` is needed only for a column without time zone: the zone the monolith stamps in.
    """

    table: str
    column: str
    key: tuple[str, ...]
    join: str = ""
    zone: str | None = None
