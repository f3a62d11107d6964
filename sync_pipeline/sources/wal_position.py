"""Positions in the monolith's log: whose log it is, and whether a position of ours still means the same in it.

After a failover the promoted standby has the system id of the old server and a timeline of its own. Commits that the
old server had told us of and never shipped do not exist there, and others take their place in the log.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sync_pipeline.errors import GapError
from sync_pipeline.model.faults import guarded
from sync_pipeline.model.positions import State

_SWITCH = re.compile(r"^(\d+)\s+([0-9A-F]+)/([0-9A-F]+)", re.MULTILINE)
_INSERTED = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"


@dataclass(frozen=True)
class Log:
    """Which log a server writes: its system id and timeline."""

    system: str
    timeline: int


def read_log(replication: Any) -> Log:
    """The server's log, by a replication cursor."""
    replication.execute("IDENTIFY_SYSTEM")
    system, timeline, *_ = replication.fetchone()
    return Log(str(system), int(timeline))


def check_position(replication: Any, cursor: Any, slot: str, state: State) -> Log:
    """Check that our position is in the server's log, by a replication cursor and an ordinary one.

    Raises:
        GapError: the log is another server's, ends before our position, or has left ours before it.
    """
    log, lsn = read_log(replication), int(state["lsn"])
    if log.system != state["system"]:
        raise GapError(f"slot {slot} is another server's: system id {log.system}, formerly {state['system']}")
    if not guarded(58):
        return log
    left_at = _left_at(replication, log, int(state.get("timeline", log.timeline)))
    if left_at is not None and lsn > left_at:
        raise GapError(
            f"slot {slot} is on timeline {log.timeline}, which left timeline {state['timeline']} at {lsn - left_at:,}"
            " bytes before our position: the server has failed over, and commits that we have read are not in its log"
        )
    cursor.execute(_INSERTED)
    (end,) = cursor.fetchone()
    if lsn > end:
        raise GapError(f"slot {slot}: the server's log ends {lsn - end:,} bytes before our position")
    return log


def _left_at(replication: Any, log: Log, timeline: int) -> int | None:
    """Where the server's timeline left one of ours: None for the same one, 0 where it does not descend from it."""
    if timeline == log.timeline:
        return None
    if timeline > log.timeline:
        return 0
    replication.execute(f"TIMELINE_HISTORY {log.timeline}")
    _, content = replication.fetchone()
    text = bytes(content).decode() if isinstance(content, memoryview | bytes) else str(content)
    switches = {int(parent): (int(high, 16) << 32) + int(low, 16) for parent, high, low in _SWITCH.findall(text)}
    return switches.get(timeline, 0)
