"""The relational sink: rows of an entity in the new PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sync_pipeline.errors import DeclarationError


@dataclass(frozen=True)
class RelationalTable:
    """A table of the new side: `columns` maps each column to its PostgreSQL type and constraints.

    The table is made if it is not there. `where` names a boolean column of the adapted frame: only rows
    that have it true are written.
    """

    name: str  # schema.table
    key: tuple[str, ...]
    columns: Mapping[str, str]
    where: str | None = None

    def __post_init__(self) -> None:
        if self.name.count(".") != 1:
            raise DeclarationError(f"RelationalTable({self.name!r}): say schema.table")
        missing = [column for column in self.key if column not in self.columns]
        if missing:
            raise DeclarationError(f"RelationalTable({self.name!r}): key column {missing[0]!r} is not in columns")
