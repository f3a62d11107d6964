"""Crash points and guards, named in one place. Only tests set them; without them nothing here acts."""

from __future__ import annotations

import os
import signal

# before and after every boundary of a batch, in the order in which it passes them; then claiming what is due
CRASH_POINTS = (
    "claim.before",
    "claim.after",
    "read.before",
    "read.after",
    "media.before",
    "media.after",
    "rows.before",
    "rows.after",
    "documents.before",
    "documents.after",
    "close.before",
    "close.after",
    "acknowledge.before",
    "acknowledge.after",
    "due.before",
    "due.after",
)

# beside those of the batches that fill: between the steps of a rebuild, in their order
REBUILD_CRASH_POINTS = (
    "rebuild.begun",
    "rebuild.made",
    "rebuild.filled",
    "rebuild.standstill",
    "rebuild.swapped",
)

# beside those of the batch that undoes: in the order in which a compensation passes them
COMPENSATION_CRASH_POINTS = (
    "compensation.before",
    "compensation.undone",
    "compensation.sent",
)

# of a sweep, in the order in which it passes them: within a page's transaction and after it, within the last one and
# after that
SWEEP_CRASH_POINTS = ("sweep.begun", "sweep.page", "sweep.paged", "sweep.ending", "sweep.ended")

# of a page of rows that bear a former digest: after those are set whose digests tell all, after a compared chunk
REBASE_CRASH_POINTS = ("rebase.stamped", "rebase.compared")

# of a table's, which is made, known and rehearsed at once
TABLE_CRASH_POINTS = ("rebuild.begun", "rebuild.filled", "rebuild.standstill", "rebuild.swapped")

# rows of hazards that a test may switch off, to see that it would notice
GUARDS = frozenset(
    (
        *(1, 6, 8, 17, 19, 22, 24, 25, 28, 30, 32, 36, 42, 45, 50),
        *(54, 55, 56, 57, 58, 62, 63, 64, 65, 70, 71, 72, 75, 77, 78, 79, 80, 81, 82, 87, 89),
        *(91, 92, 93, 94, 95, 96, 97, 98),
        *(99, 100, 101, 104, 106, 107, 108, 109, 110, 111, 112, 113, 114, 115, 116, 120),
        *(131, 132, 133, 134, 135, 136, 140, 141, 143, 144, 145, 146, 149),
    )
)

_passed: dict[str, int] = {}


def crash_point(name: str) -> None:
    """Die here, as by `kill -9`, when SYNC_TEST_CRASH_AT names this point (`point` or `point:nth pass`)."""
    wanted = os.environ.get("SYNC_TEST_CRASH_AT")
    if not wanted:
        return
    point, _, nth = wanted.partition(":")
    if point != name:
        return
    _passed[name] = _passed.get(name, 0) + 1
    if _passed[name] >= int(nth or 1):
        os.kill(os.getpid(), signal.SIGKILL)


def guarded(hazard: int) -> bool:
    """Whether the answer to a hazard is in place; always, unless SYNC_TEST_GUARDS_OFF lists it."""
    off = os.environ.get("SYNC_TEST_GUARDS_OFF")
    return not off or str(hazard) not in off.split(",")
