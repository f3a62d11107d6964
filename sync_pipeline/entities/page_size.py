"""How many rows of an entity make a page: as many as the setting says, or fewer where they are large.

A page is cut where its text reaches SYNC_CHUNK_BYTES. What the last pages held says how many rows the next one asks
for, so that little is read in vain.
"""

from __future__ import annotations

from dataclasses import dataclass

_MANY_ROWS = 100_000


class PageTooLargeError(Exception):
    """The rows that were asked for hold more bytes than a page may. Ask for fewer."""


@dataclass
class PageSize:
    """The most rows that a page of one entity should ask for; shared by the threads of the entity."""

    most_bytes: int
    _fits: int | None = None

    def rows(self, most: int) -> int:
        """Returns how many rows, or roots, to ask for; `most` where nothing speaks against it."""
        return most if self._fits is None else max(1, min(most, self._fits))

    def note(self, rows: int, size: int) -> None:
        """Take account of a read: so many rows, or roots, of so many bytes.

        After one that was too large, pages grow again to twice as many rows each time.
        """
        fits = max(1, self.most_bytes * 3 // 4 * rows // max(1, size))
        if size >= self.most_bytes:
            self._fits = fits
        elif self._fits is not None:
            grown = min(fits, 2 * self._fits)
            self._fits = grown if grown < _MANY_ROWS else None

    def shrink(self, rows: int) -> int:
        """Returns how many rows to ask for where so many were too large: half as many, or as many as would fit."""
        self._fits = max(1, min(rows // 2, self._fits or rows))
        return self._fits
