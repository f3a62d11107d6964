"""The window of late commits: how far back a poll must look so that no transaction's rows are passed over.

A row stamped at 12:00:00 may become visible at 12:05:00, when its transaction commits. Instead of waiting for it
(one forgotten session would stop everything) each poll remembers who was open, and looks again from a
transaction's start once it has ended. What a snapshot newly shows was written by a transaction that was open
when the poll before looked, or began after that; so the bound of a poll is the earlier of the poll before and
the starts of all transactions that have ended since. A prepared transaction gives no start of its own: the one
it had as a session, or the bound of the poll that first met it, stands for it.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

from sync_pipeline.stores import APPLICATION, Cursor

# before any stamp: a transaction that was prepared before the first look may have stamped at any time
BEGINNING = dt.datetime(1, 1, 1, tzinfo=dt.UTC)

_SESSIONS = """
    SELECT statement_timestamp(), coalesce(jsonb_object_agg(a.pid || '@' || extract(epoch FROM a.xact_start),
        jsonb_build_object('since', a.xact_start, 'who', 'pid ' || a.pid || ' ' || coalesce(a.usename, '') || ': '
            || left(coalesce(a.query, ''), 200))) FILTER (WHERE a.xact_start IS NOT NULL), '{}'),
        count(*) FILTER (WHERE a.state = 'disabled' OR a.query = '<insufficient privilege>')
    FROM pg_stat_activity a
    WHERE a.datid = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND coalesce(a.backend_type, 'hidden too') NOT IN ('autovacuum worker', 'walsender')
      AND NOT (a.application_name = %s AND a.usename = current_user)
"""
# a name may be used again, its transaction's number is not
_PREPARED = """
    SELECT 'prepared ' || transaction || ' ' || gid FROM pg_prepared_xacts WHERE database = current_database()
"""


@dataclass(frozen=True)
class Window:
    """What a poll saw before it read: the database's clock, and the open transactions with their starts."""

    seen_at: dt.datetime
    holders: dict[str, dt.datetime] = field(default_factory=dict)
    who: dict[str, str] = field(default_factory=dict)
    hidden: int = 0  # sessions that hide their transaction's start

    @property
    def low(self) -> dt.datetime:
        """Everything stamped and committed before this is visible now."""
        return min([self.seen_at, *self.holders.values()])

    @property
    def oldest(self) -> str | None:
        """Who holds the window open longest."""
        if not self.holders:
            return None
        name = min(self.holders, key=lambda holder: self.holders[holder])
        return self.who.get(name, name)

    def as_state(self) -> dict[str, Any]:
        """For the cursor's row."""
        holders = {k: v.isoformat() for k, v in self.holders.items()}
        return {"seen_at": self.seen_at.isoformat(), "holders": holders, "hidden": self.hidden}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Window:
        """Back from the cursor's row."""
        holders = {k: dt.datetime.fromisoformat(v) for k, v in state["holders"].items()}
        return cls(dt.datetime.fromisoformat(state["seen_at"]), holders, hidden=state.get("hidden", 0))


def look(cursor: Cursor, before: Window | None, lookback: dt.timedelta) -> tuple[Window, dt.datetime]:
    """(the window now, the bound from which the next read must look; the margin is the caller's).

    Sessions are read before prepared transactions: one that is prepared in between shows in both.
    """
    cursor.execute(_SESSIONS, (APPLICATION,))
    seen_at, sessions, hidden = cursor.fetchone()
    cursor.execute(_PREPARED)
    prepared = [name for (name,) in cursor.fetchall()]
    return advance(before, seen_at, sessions, prepared, hidden, lookback)


def advance(
    before: Window | None,
    seen_at: dt.datetime,
    sessions: dict[str, dict[str, str]],
    prepared: list[str],
    hidden: int,
    lookback: dt.timedelta,
) -> tuple[Window, dt.datetime]:
    """The window after a look, and the bound of its read."""
    holders = {name: dt.datetime.fromisoformat(session["since"]) for name, session in sessions.items()}
    who = {name: session["who"] for name, session in sessions.items()}
    ended: list[dt.datetime] = []
    if before is None:
        bound = BEGINNING
    else:
        ended = [since for name, since in before.holders.items() if name not in holders and name not in prepared]
        bound = min([before.seen_at, *ended])
        if hidden or before.hidden:  # one that has ended since was hidden, too
            bound = min(bound, seen_at - lookback)
    for name in prepared:
        # a session that has ended since the look before may be it; caught in between, it shows as both until the next
        known = before.holders.get(name, bound) if before else BEGINNING
        holders[name] = min([known, *ended])
    return Window(seen_at, holders, who, hidden), bound
