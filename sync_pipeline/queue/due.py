"""What is owed: documents of open batches, files to copy, keys found by a sweep, parked rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from sync_pipeline.db.sql import Cursor, Values
from sync_pipeline.ledger import queue_reads, queue_table
from sync_pipeline.ledger.queue_reads import QueueCause, QueueRecord
from sync_pipeline.model.reasons import DEAD_LETTERS, Reason

PRIORITY = {
    Reason.OVERTAKEN: 0,
    Reason.COMPENSATION: 0,
    Reason.DOCUMENTS: 1,
    Reason.MEDIA: 2,
    Reason.RELEASED: 3,
    Reason.MOVED: 3,
    Reason.FUTURE: 3,
    Reason.CHILDREN: 4,
    Reason.PARENT: 5,
    Reason.FANOUT: 6,
    Reason.SWEEP: 7,
    Reason.RECOVERED: 7,
}
CLAIM_SECONDS = 120
# few enough that fresh work never waits long behind a record
KEYS_A_RECORD = 500
# so many records that are not full are put together
_MANY_RECORDS = 50
# dead letters: those that a person has asked for, and those whose time has come, which are behind everything else
ASKED, AGAIN = 5, 9
# rows for a sink that is new
FILL = 8
_REFUSED_A_CLAIM = 100


@dataclass(frozen=True)
class Owed:
    """A claimed record: keys (as text) that are owed, and why."""

    id: int
    reason: Reason
    keys: list[str]
    attempts: int
    age: float = 0.0  # seconds since it was first owed
    sink: str | None = None  # the outer sink that it is owed to; None: all of them
    others: tuple[int, ...] = ()  # further records, where it stands for several dead letters

    def one_by_one(self) -> list[Owed]:
        """Each of the dead letters that this record stands for, as a record of its own."""
        ids = (self.id, *self.others)
        return [replace(self, id=n, keys=[key], others=()) for n, key in zip(ids, self.keys, strict=True)]


@dataclass(frozen=True)
class Useless:
    """What cannot be done now, because a store does not answer: reasons, and names of outer sinks."""

    reasons: Sequence[Reason] = ()
    sinks: Sequence[str] = ()


_NOTHING_USELESS = Useless()


def owe(cursor: Cursor, entity: str, reason: Reason, keys: Sequence[str], revision: int = 0) -> list[int]:
    """Queue keys for a reason, in the caller's transaction; returns the records."""
    records = _queue(cursor, entity, reason, pa.array(keys, pa.string()), {"revision": revision})
    return [identity for identity, _ in records]


def owe_to(cursor: Cursor, entity: str, sink: str | None, keys: Sequence[str], revision: int = 0) -> list[int]:
    """Queue keys for an outer sink (None: for all of them); returns the records."""
    values: Values = {"revision": revision, "sink": sink}
    records = _queue(cursor, entity, Reason.DOCUMENTS, pa.array(keys, pa.string()), values)
    return [identity for identity, _ in records]


def owe_fill(cursor: Cursor, entity: str, sink: str, keys: Sequence[str]) -> None:
    """Queue keys for an outer sink that lacks them, behind all that is fresh."""
    _queue(cursor, entity, Reason.DOCUMENTS, pa.array(keys, pa.string()), {"sink": sink, "priority": FILL})


def owe_part(cursor: Cursor, entity: str, record: Owed, keys: Sequence[str]) -> list[int]:
    """Queue some keys of a record for what it is owed; returns the records."""
    records = _queue(cursor, entity, record.reason, pa.array(keys, pa.string()), {"sink": record.sink})
    return [identity for identity, _ in records]


def owe_swept(cursor: Cursor, entity: str, reason: Reason, keys: Sequence[str], walk: int) -> None:
    """Queue keys that the sweep of this number has found."""
    _queue(cursor, entity, reason, pa.array(keys, pa.string()), {"walk": walk})


def owe_delivery(cursor: Cursor, entity: str, sink: str, keys: pa.Array, revision: int) -> tuple[list[int], str]:
    """Queue what an outer sink is to be sent, claimed by the caller.

    Returns the records, and the name of what a rebuild fills to follow the sink's own; empty where none is under way.
    """
    values: Values = {"revision": revision, "claim_seconds": CLAIM_SECONDS, "sink": sink}
    records = _queue(cursor, entity, Reason.DOCUMENTS, keys, values)
    return [identity for identity, _ in records], next((shadow for _, shadow in records if shadow), "")


@dataclass(frozen=True)
class Age:
    """For how long something is owed already, and how often it was tried."""

    first_at: dt.datetime
    attempts: int


def age_of(cursor: Cursor, ids: Sequence[int]) -> Age | None:
    """The oldest one's of these records, if there are any."""
    first_at, attempts = queue_reads.age(cursor, ids)
    return None if first_at is None or attempts is None else Age(first_at, attempts)


def as_old(cursor: Cursor, ids: Sequence[int], age: Age | None) -> None:
    """These records go on for others: what is owed stays as old as it is."""
    if age:
        queue_table.set_age(cursor, ids, age.first_at, age.attempts)


def _queue(cursor: Cursor, entity: str, reason: Reason, keys: pa.Array, values: Values) -> list[tuple[int, str]]:
    """Returns (id, name of the shadow that a rebuild fills of its sink) for each record."""
    defaults: Values = {"revision": 0, "priority": PRIORITY[reason], "walk": None, "claim_seconds": None, "sink": None}
    named = {**defaults, **values}
    parts = (keys.slice(first, KEYS_A_RECORD) for first in range(0, len(keys), KEYS_A_RECORD))
    return [queue_table.insert(cursor, entity, reason, part, named) for part in parts]


def gather(cursor: Cursor, entity: str, reason: Reason) -> None:
    """Put many small records into few: while a store is away what is owed grows with its keys, not with the time."""
    records, full = queue_reads.count_unclaimed(cursor, entity, reason, KEYS_A_RECORD)
    if records - full >= _MANY_RECORDS:
        queue_table.put_together(cursor, entity, reason, KEYS_A_RECORD)


def claim(
    cursor: Cursor, entity: str, useless: Useless = _NOTHING_USELESS, limit: int = 1, *, set_aside: bool = True
) -> list[Owed]:
    """Claim the most urgent records by lease, so that no lock is held while they are worked on.

    Those that are `useless` now are left. Without `set_aside`, rows that wait for something else or were refused are
    left as well: to look for them takes four times as long.
    """
    values: Values = {
        "useless": list(useless.reasons),
        "useless_sinks": list(useless.sinks),
        "limit": limit,
        "refused_limit": _REFUSED_A_CLAIM,
        "claim_seconds": CLAIM_SECONDS,
        "asked": ASKED,
        "again": AGAIN,
    }
    claimed = queue_table.claim(cursor, entity, values, set_aside=set_aside)
    rows = [Owed(row.id, Reason(row.reason), row.keys, row.attempts, row.age, row.sink) for row in claimed]
    refused = [row for row in rows if row.reason == Reason.REJECTED]
    if len(refused) > 1:  # one batch, and one line in the log: what is still refused is parked again key by key
        keys = [key for row in refused for key in row.keys]
        first = replace(refused[0], keys=keys, others=tuple(row.id for row in refused[1:]))
        rows = [*(row for row in rows if row.reason != Reason.REJECTED), first]
    return rows


def postpone(cursor: Cursor, ids: Sequence[int], error: Exception) -> None:
    """What was owed could not be done: again after 1, 2, 4 … 60 s, with jitter."""
    queue_table.postpone(cursor, ids, type(error).__name__, str(error)[:2000])


@dataclass(frozen=True)
class QueueFilter:
    """Which of what is owed is asked for; dead letters are a thing of their own."""

    entity: str
    reason: Reason | None = None
    key: str | None = None

    @property
    def where(self) -> str:
        """The condition, over named parameters."""
        return (
            "entity = %(entity)s AND reason <> ALL(%(dead)s) AND (%(reason)s IS NULL OR reason = %(reason)s)"
            " AND (%(key)s IS NULL OR key = %(key)s OR %(key)s = ANY(keys))"
        )

    @property
    def values(self) -> Values:
        """The parameters."""
        return {**vars(self), "dead": list(DEAD_LETTERS)}


def replay(cursor: Cursor, chosen: QueueFilter) -> int:
    """Make what waits due at once, with all its retries before it; the number of records."""
    return queue_table.try_now(cursor, chosen.where, chosen.values)


@dataclass(frozen=True)
class QueueOverview:
    """What is owed: how many records, their causes, and the most urgent ones."""

    total: int
    causes: list[QueueCause]
    records: list[QueueRecord]


def overview(cursor: Cursor, chosen: QueueFilter, limit: int) -> QueueOverview:
    """What is owed, with the first `limit` records."""
    return QueueOverview(
        queue_reads.count(cursor, chosen.where, chosen.values),
        queue_reads.causes(cursor, chosen.where, chosen.values),
        queue_reads.records(cursor, chosen.where, chosen.values, limit),
    )
