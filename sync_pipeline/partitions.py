"""Backfill partitions: how an entity's history is cut into pieces that never move."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass

from sync_pipeline.errors import DeclarationError

UNDATED = "undated"
EARLIER = "earlier"
UNDATED_AND_EARLIER = (UNDATED, EARLIER)


@dataclass(frozen=True)
class Monthly:
    """One partition a month of an immutable timestamp column, one for rows without a date, one for older rows.

    The newest month is open-ended, so that no row falls between partitions. It stays so for a history that was begun
    in that month, whatever the date is when the month is filled.
    """

    column: str
    start: str  # "2015-01"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", self.start):
            raise DeclarationError(f"Monthly(start={self.start!r}): a month reads 2015-01")

    def names(self, today: dt.date | None = None) -> list[str]:
        """Every partition's name, oldest first."""
        today = today or dt.datetime.now(dt.UTC).date()
        year, month = (int(part) for part in self.start.split("-"))
        months = max(0, (today.year - year) * 12 + today.month - month)
        return [*UNDATED_AND_EARLIER, *(_month(year, month + n) for n in range(months + 1))]

    def bounds(self, name: str, *, open_ended: bool = False) -> tuple[str | None, str | None]:
        """(first instant, instant after the last) of a dated partition as ISO text; None is open.

        `open_ended` says that it was the newest one when its history was begun.
        """
        names = self.names()
        if name not in names or name == UNDATED:
            raise DeclarationError(
                f"there is no dated partition {name!r}; the first is {names[2]}, the last {names[-1]}"
            )
        if name == EARLIER:
            return None, f"{names[2]}-01 00:00:00+00"
        at = names.index(name)
        is_open = open_ended or at + 1 == len(names)
        return f"{name}-01 00:00:00+00", None if is_open else f"{names[at + 1]}-01 00:00:00+00"


@dataclass(frozen=True)
class KeyRanges:
    """`count` ranges of the key, cut where they hold about as many rows each, and frozen when a backfill opens."""

    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.count <= 10_000:
            raise DeclarationError(f"KeyRanges({self.count}): between 1 and 10000 ranges")

    def names(self) -> list[str]:
        """Every partition's name, in key order."""
        return [f"range-{n:04d}" for n in range(1, self.count + 1)]


Partitions = Monthly | KeyRanges


def _month(year: int, month: int) -> str:
    return f"{year + (month - 1) // 12:04d}-{(month - 1) % 12 + 1:02d}"
