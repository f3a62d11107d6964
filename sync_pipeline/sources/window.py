"""The window of late commits: how far back a poll must look so that no transaction's rows are passed over.

A row stamped at 12:00:00 may become visible at 12:05:00, when its transaction commits. Instead of waiting for it
(one forgotten session would stop everything) each poll remembers who was open, and looks again from a
transaction's start once it has ended. What a snapshot newly shows was written by a transaction that was open
when the poll before looked, or began after that; so the bound of a poll is the earlier of the poll before and
the starts of all transactions that have ended since. A prepared transaction gives no start of its own: the one
it had as a session, or the bound of the poll that first met it, stands for it.

Numbers that are drawn from a sequence come late in the same way. A transaction's start is then the number at which
the sequence stood when a poll looked that did not meet it yet; the sequence is read before the sessions, so whoever
is not among them draws later. One that was open at the first look has no such start: its end has all rows read.

The monolith's clock may be set back, or a failover may lead to a server with a slower one. Rows are then stamped
before the poll before, although they are written after it. So each look is also read by a clock of our own, and what a
look has seen is taken back by as much as the monolith's clock has lost since (`Window.set_back`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sync_pipeline.db.sql import Cursor
from sync_pipeline.model.faults import guarded
from sync_pipeline.stores.clock import Reading
from sync_pipeline.stores.sessions import keyword, ours

_SESSIONS = f"""
    SELECT statement_timestamp(), coalesce(jsonb_object_agg(a.pid || '@' || extract(epoch FROM a.xact_start),
        jsonb_build_object('since', a.xact_start, 'who', concat_ws(' ', 'pid ' || a.pid, a.usename,
            nullif(a.application_name, ''), '(' || a.state || ')', {keyword("a.query")})))
            FILTER (WHERE a.xact_start IS NOT NULL), '{{}}'),
        count(*) FILTER (WHERE a.state = 'disabled' OR a.query = '<insufficient privilege>')
    FROM pg_stat_activity a
    WHERE a.datid = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND coalesce(a.backend_type, 'hidden too') NOT IN ('autovacuum worker', 'walsender')
      AND NOT {ours("a")}
"""
# a name may be used again, its transaction's number is not
_PREPARED = """
    SELECT 'prepared ' || transaction || ' ' || gid FROM pg_prepared_xacts WHERE database = current_database()
"""


@dataclass(frozen=True)
class Mark:
    """A point in the order of stamps: an instant, and of each sequence the lowest number not drawn by then.

    A sequence that is not named stands at its beginning.
    """

    at: dt.datetime
    numbers: Mapping[str, int] = field(default_factory=dict)

    def earlier(self, by: dt.timedelta) -> Mark:
        """Return the mark with an earlier instant, at most as early as the first that there is."""
        return replace(self, at=self.at - min(by, self.at - BEGINNING.at))

    def without(self, sequences: Collection[str]) -> Mark:
        """The same, with these sequences at their beginning."""
        return replace(self, numbers={name: n for name, n in self.numbers.items() if name not in sequences})


# a look takes some time: so much is no step of a clock
_TOLERANCE = dt.timedelta(seconds=0.1)
# before any stamp: a transaction that was prepared before the first look may have stamped at any time
BEGINNING = Mark(dt.datetime(1, 1, 1, tzinfo=dt.UTC))


def earliest(*marks: Mark) -> Mark:
    """The earliest of each part."""
    names = set.intersection(*({*mark.numbers} for mark in marks))
    return Mark(min(mark.at for mark in marks), {name: min(mark.numbers[name] for mark in marks) for name in names})


@dataclass(frozen=True)
class Window:
    """What a poll saw before it read: clock and sequences, and the open transactions with their starts.

    Sequences count as they stood some seconds ago: a crash may take one back a little, and a number may have been
    drawn just before its transaction began. `trail` holds what was seen since.
    """

    seen: Mark
    holders: dict[str, Mark] = field(default_factory=dict)
    who: dict[str, str] = field(default_factory=dict)
    hidden: int = 0  # sessions that hide their transaction's start
    trail: tuple[Mark, ...] = ()
    read: Reading | None = None  # our own clocks, just before this was seen
    is_set_back: bool = False  # the monolith's clock has been set back since

    @property
    def low(self) -> dt.datetime:
        """Everything stamped and committed before this is visible now."""
        return min([self.seen.at, *(mark.at for mark in self.holders.values())])

    @property
    def oldest(self) -> str | None:
        """Who holds the window open longest."""
        if not self.holders:
            return None
        name = min(self.holders, key=lambda holder: self.holders[holder].at)
        return self.who.get(name, name)

    @property
    def unmarked(self) -> bool:
        """Whether the end of some open transaction will have all rows read."""
        return any(self.seen.numbers.keys() - mark.numbers.keys() for mark in self.holders.values())

    def without(self, sequences: Collection[str]) -> Window:
        """The same, with these sequences at their beginning."""
        return replace(
            self,
            seen=self.seen.without(sequences),
            holders={name: mark.without(sequences) for name, mark in self.holders.items()},
            trail=tuple(mark.without(sequences) for mark in self.trail),
        )

    def set_back(self, now: dt.datetime, elapsed: dt.timedelta, tolerance: dt.timedelta) -> Window:
        """Return the window as early as the monolith's clock may have shown it, where that clock has lost time.

        It has lost time where less of it has passed there than `elapsed`, by more than `tolerance`. A transaction that
        was open then may have stamped rows before its own start, because it began by the clock as it was before.
        """
        lost = self.seen.at - (now - elapsed)
        if lost <= tolerance or not guarded(107):
            return self
        return replace(
            self,
            seen=self.seen.earlier(lost),
            holders={name: mark.earlier(lost) for name, mark in self.holders.items()},
            trail=tuple(mark.earlier(lost) for mark in self.trail),
            is_set_back=True,
        )

    def as_state(self) -> dict[str, Any]:
        """For the cursor's row."""
        holders = {name: mark_to_state(mark) for name, mark in self.holders.items()}
        state = {"seen": mark_to_state(self.seen), "holders": holders, "hidden": self.hidden}
        return {**state, "read": self.read.as_state()} if self.read else state

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Window:
        """Back from the cursor's row."""
        holders = {name: mark_from_state(mark) for name, mark in state["holders"].items()}
        seen = mark_from_state(state.get("seen") or state["seen_at"])
        read = Reading.from_state(state["read"]) if state.get("read") else None
        return cls(seen, holders, hidden=state.get("hidden", 0), trail=(seen,), read=read)


def observe(
    cursor: Cursor,
    before: Window | None,
    lookback: dt.timedelta,
    sequences: Collection[str] = (),
    margin: dt.timedelta = dt.timedelta(0),
) -> tuple[Window, Mark]:
    """(the window now, the bound from which the next read must look; the clock's margin is the caller's).

    Sessions are read before prepared transactions: one that is prepared in between shows in both.
    """
    read = Reading.now()
    numbers = {}
    for name in sequences:
        cursor.execute(f"SELECT last_value + is_called::int FROM {name}")
        numbers[name] = int(cursor.fetchone()[0])
    cursor.execute(_SESSIONS)
    seen_at, sessions, hidden = cursor.fetchone()
    cursor.execute(_PREPARED)
    prepared = [name for (name,) in cursor.fetchall()]
    if before:
        before = _on_clock(before, seen_at, Reading.now(), lookback, margin)
    window, bound = advance(before, Mark(seen_at, numbers), sessions, prepared, hidden, lookback, margin)
    return replace(window, read=read), bound


def _on_clock(before: Window, now: dt.datetime, read: Reading, lookback: dt.timedelta, margin: dt.timedelta) -> Window:
    """Return the look before as the monolith's present clock would have shown it.

    Half of the margin is tolerated: a look takes time, and the margin is subtracted from each bound anyway.
    """
    if before.read:
        return before.set_back(now, read.since(before.read), max(margin / 2, _TOLERANCE))
    return before.set_back(now, lookback, margin) if now < before.seen.at else before


def advance(
    before: Window | None,
    now: Mark,
    sessions: dict[str, dict[str, str]],
    prepared: list[str],
    hidden: int,
    lookback: dt.timedelta,
    margin: dt.timedelta = dt.timedelta(0),
) -> tuple[Window, Mark]:
    """The window after a look, and the bound of its read."""
    if before:
        before = before.without(_set_back(before, now))
    known = before.holders if before else {}
    drawn = before.seen.numbers if before else {}
    holders = {
        name: Mark(_start(name, session["since"], before), known[name].numbers if name in known else drawn)
        for name, session in sessions.items()
    }
    who = {name: session["who"] for name, session in sessions.items()}
    ended = [mark for name, mark in known.items() if name not in holders and name not in prepared]
    bound = earliest(before.seen, *ended) if before else BEGINNING
    if before and (hidden or before.hidden):  # one that has ended since was hidden, too
        bound = replace(bound, at=min(bound.at, now.at - lookback))
    for name in prepared:
        # a session that has ended since the look before may be it; caught in between, it shows as both until the next
        holders[name] = earliest(known.get(name, bound), *ended)
    trail = _trail(before, now, margin)
    return Window(Mark(now.at, trail[0].numbers), holders, who, hidden, trail), bound


def _start(name: str, since: str, before: Window | None) -> dt.datetime:
    """Return the earliest instant at which a session's transaction may have stamped a row.

    That is its start, unless the clock has been set back: then what the look before knew of it, or that look itself.
    """
    start = dt.datetime.fromisoformat(since)
    if before and name in before.holders:
        return min(start, before.holders[name].at)
    return min(start, before.seen.at) if before and before.is_set_back else start


def _set_back(before: Window, now: Mark) -> set[str]:
    """Sequences that stand lower than at the look before: nobody knows what was drawn in between."""
    return {name for mark in before.trail for name, n in mark.numbers.items() if now.numbers.get(name, n) < n}


def _trail(before: Window | None, now: Mark, margin: dt.timedelta) -> tuple[Mark, ...]:
    """What was seen within the margin, and the newest from before it; of a new sequence only what it is now."""
    older = before.trail if before else ()
    trail = [*(Mark(m.at, {name: m.numbers.get(name, n) for name, n in now.numbers.items()}) for m in older), now]
    while len(trail) > 1 and trail[1].at <= now.at - margin:
        del trail[0]
    return tuple(trail)


def mark_to_state(mark: Mark) -> str | list[Any]:
    """Returns a mark as the cursor's row keeps it."""
    return [mark.at.isoformat(), dict(mark.numbers)] if mark.numbers else mark.at.isoformat()


def mark_from_state(written: str | list[Any]) -> Mark:
    """Returns the mark that `mark_to_state` wrote."""
    at, numbers = (written, {}) if isinstance(written, str) else written
    return Mark(dt.datetime.fromisoformat(at), numbers)
