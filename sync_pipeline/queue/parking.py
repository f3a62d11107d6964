"""Rows set aside until something else changes: dead letters, and those that wait for other rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sync_pipeline.db.sql import Cursor, Values
from sync_pipeline.ledger import queue_reads, queue_table
from sync_pipeline.ledger.log import record_events
from sync_pipeline.ledger.queue_table import ParkedRow, WaitingRow
from sync_pipeline.model.files import REFUSED_FILE, UNFORESEEN_FILE
from sync_pipeline.model.reasons import DEAD_LETTERS, PARKED, Reason
from sync_pipeline.model.rows import Reject
from sync_pipeline.queue.due import AGAIN, ASKED, KEYS_A_RECORD, PRIORITY

# a store may have its reasons for an hour: such a row is tried again after 1, 2, 4 … 240 minutes, for as long as it is
_REFUSED_FILES = (REFUSED_FILE, UNFORESEEN_FILE)
# the error of a letter whose row is to be put back as it was, and cannot be
NOT_UNDONE = "CompensationFailed"
_CHILDREN_SECONDS = 60
# a row that is refused is tried again after a minute, then after ever longer, up to
_AGAIN_SECONDS = 60
_LONGEST_SECONDS = 6 * 3600
_PARTNERS = 100


@dataclass(frozen=True)
class Wait:
    """A row (key text) that waits for another one, of an entity: a child for its parent, or a parent for a child."""

    key: str
    reason: Reason
    entity: str
    awaited: str
    digest: int | None = None  # of the row that waits

    @property
    def message(self) -> str:
        """Why it waits."""
        if self.reason == Reason.PARENT:
            return f"refers to {self.entity} {self.awaited}, which is not in the new side"
        return f"gone from the monolith, but {self.entity} {self.awaited} still refers to it in the new side"


def park(
    cursor: Cursor, entity: str, rejects: Iterable[Reject], revision: int, retries: int, basis: int | None = None
) -> None:
    """Park rows with their reason, and with the basis under which they were refused, if a change of it may help.

    They wait for a change of the row, for a replay, or for their time: after 1, 2, 4 … minutes, 6 hours at most, more
    or less, since what refused them may have changed. A document waits for a change or a replay alone. A file may be
    uploaded after the row that names it: a row whose file is missing is tried again after 2, 4, 8 … 600 s, `retries`
    times for the same fault, and then by sweeps. A row that was discarded stays so while it is the same.
    """
    rows = [
        ParkedRow(
            *(r.key, revision, AGAIN, r.step, r.error, storable(r.message)[:2000], r.digest, basis),
            r.constraint,
            r.sink,
        )
        for r in rejects
    ]
    if not rows:
        return
    keys = [row.key for row in rows]
    queue_table.park(cursor, entity, rows)
    times: Values = {
        "retries": retries,
        "again": _AGAIN_SECONDS,
        "longest": _LONGEST_SECONDS,
        "errors": list(_REFUSED_FILES),
    }
    queue_table.time_tries(cursor, entity, keys, times)
    # the same fault again is no news
    record_events(cursor, entity, "parked", queue_reads.parked_anew(cursor, entity, keys), revision)


def storable(message: str) -> str:
    """A message without what no text of PostgreSQL holds: NUL, and halves of surrogate pairs."""
    return message.encode("utf-8", "replace").decode().replace("\0", "\\0")


def wait(cursor: Cursor, entity: str, waits: Sequence[Wait], revision: int, limit: float) -> None:
    """Set rows aside until those they wait for are written. A child that waits longer than `limit` s is a dead letter.

    Even then it is released when its parent lands.
    """
    rows = [
        WaitingRow(w.reason, w.key, revision, PRIORITY[w.reason], w.entity, w.awaited, w.message, w.digest)
        for w in sorted(waits, key=lambda w: w.key)
    ]
    if not rows:
        return
    queue_table.wait(cursor, entity, rows)
    times: Values = {"limit": limit, "children_seconds": _CHILDREN_SECONDS, "parked": list(PARKED)}
    timed = queue_table.time_waits(cursor, entity, [row.key for row in rows], times)
    began = [(row.key, row.step, row.message) for row in timed if row.is_new]
    ran_out = [(row.key, row.step, row.message) for row in timed if row.has_run_out]
    record_events(cursor, entity, "waits", began, revision)
    record_events(cursor, entity, "parked", ran_out, revision)


def release(cursor: Cursor, entity: str, keys: Sequence[str], revision: int) -> None:
    """Rows that were written are parked no longer."""
    if keys:
        queue_table.release(cursor, entity, keys, {"revision": revision, "unchanged": False, "sink": None})


def release_unchanged(cursor: Cursor, entity: str, keys: Sequence[str], revision: int) -> None:
    """Rows that have not changed are parked no longer, but for what an outer sink has refused or was discarded."""
    if keys:
        queue_table.release(cursor, entity, keys, {"revision": revision, "unchanged": True, "sink": None})


def release_sent(cursor: Cursor, entity: str, keys: Sequence[str], revision: int, sink: str) -> None:
    """Rows that were sent to one outer sink are parked no longer, but for what another one has refused."""
    if keys:
        queue_table.release(cursor, entity, keys, {"revision": revision, "unchanged": False, "sink": sink})


def release_waiting(cursor: Cursor, entity: str, keys: Sequence[str], revision: int) -> None:
    """Whatever waits for these rows is owed now. Only adds records: nobody's lock is waited for."""
    values = {"revision": revision, "priority": PRIORITY[Reason.RELEASED], "keys_a_record": KEYS_A_RECORD}
    queue_table.queue_waiting(cursor, entity, keys, values)


def refused_as_they_are(
    cursor: Cursor, entity: str, keys: Sequence[str], digests: Sequence[int], basis: int
) -> set[str]:
    """Those of the legacy rows (key, digest) that are parked as they are: the sweep has nothing new to say of them."""
    if not keys:
        return set()
    values: Values = {"basis": basis, "parked": list(PARKED)}
    return queue_reads.parked_as_they_are(cursor, entity, keys, digests, values)


def undone(cursor: Cursor, entity: str, keys: Sequence[str], revision: int) -> None:
    """Rows whose documents were refused are as they were before."""
    queue_table.set_undone(cursor, entity, keys, DEAD_LETTERS)
    message = "row, files and document are as they were before"
    record_events(cursor, entity, "compensated", [(key, "document", message) for key in keys], revision)


def not_undone(cursor: Cursor, entity: str, key: str, why: str) -> None:
    """A row whose document was refused could not be put back: its letter says so, until it can."""
    queue_table.set_not_undone(cursor, entity, key, DEAD_LETTERS, (NOT_UNDONE, why))
    record_events(cursor, entity, "not compensated", [(key, "document", why)], 0)


def refused_by(cursor: Cursor, entity: str, constraints: Sequence[str]) -> list[str]:
    """Rows (key texts) that are parked since one of these constraints refused them; of each the latest hundred."""
    return queue_reads.refused_by(cursor, entity, constraints, _PARTNERS)


def replay(cursor: Cursor, entity: str, step: str) -> None:
    """Make rows due at once that an index did not take (at the step `document`), or a table (`row`)."""
    queue_table.try_step_now(cursor, entity, step, ASKED)
