"""Stamps in the future, where a table has many: they are read apart from the others, and seldom.

A clock that runs ahead, a placeholder such as 2099-12-31, or the doubled hour at the end of summer time puts rows above
any bound. A few of them are read at each poll. A whole page of them would be read five times a second for years, so
polls then end a minute above the monolith's clock. What lies higher is read twice a minute, and only row versions that
were written since the last time.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sync_pipeline.db.sql import Cursor, bind
from sync_pipeline.sources.spans import Span
from sync_pipeline.sources.stamps import Stamp
from sync_pipeline.sources.window import Mark

# stamps of clocks that run ahead by less are read at each poll
AHEAD = dt.timedelta(minutes=1)
_READ_SECONDS = 30.0
# transaction ids come round after twice as many
_OLDEST_XID = 1_000_000_000


@dataclass
class _Stand:
    """How far the rows above the cap of one stamp are read.

    Row versions of transactions below `xid` have been reported, and so has everything committed before `floor`.
    """

    xid: int | None
    floor: dt.datetime
    following: tuple[int, dt.datetime] | None = None  # both, once the span that is being read is finished
    read_at: float = -_READ_SECONDS

    def as_state(self) -> list[Any]:
        following = [self.following[0], self.following[1].isoformat()] if self.following else None
        return [self.xid, self.floor.isoformat(), following]

    @classmethod
    def from_state(cls, state: list[Any]) -> _Stand:
        xid, floor, following = state
        then = (following[0], dt.datetime.fromisoformat(following[1])) if following else None
        return cls(xid, dt.datetime.fromisoformat(floor), then)


@dataclass
class FutureStamps:
    """The stamps whose rows above the cap are read apart, by name."""

    stands: dict[str, _Stand] = field(default_factory=dict)

    def as_state(self) -> dict[str, Any]:
        """Returns what the cursor's row keeps of it."""
        return {name: stand.as_state() for name, stand in self.stands.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> FutureStamps:
        """Returns what `as_state` wrote."""
        return cls({name: _Stand.from_state(written) for name, written in state.items()})

    def floors(self) -> Iterator[dt.datetime]:
        """Yields what bounds the time through which all commits are reported."""
        return (stand.floor for stand in self.stands.values())

    def cap(self, cursor: Cursor, stamp: Stamp, now: dt.datetime, rows: int) -> dt.datetime | None:
        """Returns where a poll of a stamp ends; None where few rows lie above, now and then asked anew."""
        stand = self.stands.get(stamp.name)
        if stand is None:
            return None
        if self._is_due(stand) and _has_few_above(cursor, stamp, now + AHEAD, rows // 2):
            del self.stands[stamp.name]
            return None
        return now + AHEAD

    def next_span(self, cursor: Cursor, stamp: Stamp, cap: dt.datetime, through: dt.datetime) -> Span | None:
        """Returns the rows above the cap that are new, when it is time to read them."""
        stand = self.stands[stamp.name]
        return self.begin(cursor, stamp, cap, through, stand.floor) if self._is_due(stand) else None

    def begin(self, cursor: Cursor, stamp: Stamp, cap: dt.datetime, through: dt.datetime, floor: dt.datetime) -> Span:
        """Begin to read the rows above the cap; `through` is what has been committed and is visible now."""
        stand = self.stands.setdefault(stamp.name, _Stand(None, floor))
        cursor.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
        now = int(cursor.fetchone()[0])
        stand.following, stand.read_at = (now, through), time.monotonic()
        known = stand.xid if stand.xid is not None and 0 <= now - stand.xid < _OLDEST_XID else None
        return Span(stamp.name, Mark(cap), floor=stand.floor, xid=known, is_future=True)

    def finish(self, span: Span) -> None:
        """Note that a span above the cap has been read to its end."""
        stand = self.stands.get(span.stamp)
        if span.is_future and stand and stand.following:
            (stand.xid, stand.floor), stand.following = stand.following, None

    def _is_due(self, stand: _Stand) -> bool:
        return time.monotonic() - stand.read_at >= _READ_SECONDS


def _has_few_above(cursor: Cursor, stamp: Stamp, cap: dt.datetime, few: int) -> bool:
    table, within = stamp.table, ""
    if stamp.zone:  # on the column itself, which an index serves
        within = f" AND {stamp.column} > ({bind(cursor, cap)}::timestamptz AT TIME ZONE 'UTC') - interval '1 day'"
    cursor.execute(
        f"SELECT count(*) FROM (SELECT FROM {table.name} {table.join} WHERE {stamp.instant} > {bind(cursor, cap)}"
        f"{within} LIMIT {few + 1}) w"
    )
    return int(cursor.fetchone()[0]) <= few
