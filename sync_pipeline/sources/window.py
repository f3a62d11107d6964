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
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sync_pipeline.sessions import keyword, ours
from sync_pipeline.sql import Cursor

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

    def without(self, sequences: Collection[str]) -> Mark:
        """The same, with these sequences at their beginning."""
        return replace(self, numbers={name: n for name, n in self.numbers.items() if name not in sequences})


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

    def as_state(self) -> dict[str, Any]:
        """For the cursor's row."""
        holders = {name: mark_to_state(mark) for name, mark in self.holders.items()}
        return {"seen": mark_to_state(self.seen), "holders": holders, "hidden": self.hidden}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Window:
        """Back from the cursor's row."""
        holders = {name: mark_from_state(mark) for name, mark in state["holders"].items()}
        seen = mark_from_state(state.get("seen") or state["seen_at"])
        return cls(seen, holders, hidden=state.get("hidden", 0), trail=(seen,))


def look(
    cursor: Cursor,
    before: Window | None,
    lookback: dt.timedelta,
    sequences: Collection[str] = (),
    margin: dt.timedelta = dt.timedelta(0),
) -> tuple[Window, Mark]:
    """(the window now, the bound from which the next read must look; the clock's margin is the caller's).

    Sessions are read before prepared transactions: one that is prepared in between shows in both.
    """
    numbers = {}
    for name in sequences:
        cursor.execute(f"SELECT last_value + is_called::int FROM {name}")
        numbers[name] = int(cursor.fetchone()[0])
    cursor.execute(_SESSIONS)
    seen_at, sessions, hidden = cursor.fetchone()
    cursor.execute(_PREPARED)
    prepared = [name for (name,) in cursor.fetchall()]
    return advance(before, Mark(seen_at, numbers), sessions, prepared, hidden, lookback, margin)


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
        name: Mark(dt.datetime.fromisoformat(session["since"]), known[name].numbers if name in known else drawn)
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
