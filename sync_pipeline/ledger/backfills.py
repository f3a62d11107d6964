"""Backfills as the ledger records them: what was asked for, which partitions are in, and which are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from sync_pipeline.db.sql import Cursor
from sync_pipeline.model.faults import guarded
from sync_pipeline.partitions import UNDATED_AND_EARLIER, Monthly, Partitions

_ASKED = """
    SELECT partition, done, request FROM sync.backfill
    WHERE (entity, basis) = (%(entity)s, %(basis)s) AND partition = ANY(%(partitions)s)
"""
# a partition that was cut off stays where it is
_BEGIN = """
    INSERT INTO sync.backfill AS b (entity, partition, basis, request)
    SELECT %(entity)s, name, %(basis)s, %(request)s FROM unnest(%(partitions)s::text[]) name
    ON CONFLICT (entity, partition) DO UPDATE SET basis = excluded.basis, request = excluded.request,
        done = false, finished_at = NULL,
        position = CASE WHEN b.done OR b.basis <> excluded.basis THEN NULL ELSE b.position END,
        rows = CASE WHEN b.done OR b.basis <> excluded.basis THEN 0 ELSE b.rows END,
        written = CASE WHEN b.done OR b.basis <> excluded.basis THEN 0 ELSE b.written END,
        parked = CASE WHEN b.done OR b.basis <> excluded.basis THEN 0 ELSE b.parked END,
        started_at = CASE WHEN b.done OR b.basis <> excluded.basis THEN now() ELSE b.started_at END
"""


@dataclass(frozen=True)
class BackfillRequest:
    """Partitions of one entity that are to be filled together.

    A request that was cut off and is made again goes on with the partitions that are not done. One that was done to
    its end begins anew, except in a run of Dagster that is tried again: what the run has filled stays filled.

    `whole` asks for the entity's history rather than for partitions by name. While that history has never been in,
    partitions that any request has filled stay filled.
    """

    partitions: Sequence[str]
    whole: bool = False
    run: str | None = None

    @property
    def name(self) -> str:
        """By which the ledger knows it again."""
        names = "\n".join(sorted(self.partitions)).encode()
        return self.run or ("the whole history" if self.whole else sha256(names).hexdigest())


def begin_request(cursor: Cursor, entity: str, basis: int, request: BackfillRequest) -> None:
    """Record the request's partitions as not done, except those that it has filled before it was cut off."""
    cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"sync.backfill {entity}",))  # one request at a time
    cursor.execute("SELECT FROM sync.cursor WHERE entity = %s AND filled_at IS NOT NULL", (entity,))
    never_filled = not cursor.rowcount
    named = {"entity": entity, "basis": basis, "partitions": [*request.partitions], "request": request.name}
    cursor.execute(_ASKED, named)
    asked = cursor.fetchall()
    own = {partition: done for partition, done, name in asked if name == request.name}
    kept: set[str] = set()
    if request.whole and never_filled:
        kept = {partition for partition, done, _ in asked if done}
    elif request.run or not all(own.values()):
        kept = {partition for partition, done in own.items() if done}
    cursor.execute(_BEGIN, {**named, "partitions": [name for name in request.partitions if name not in kept]})


def missing_partitions(cursor: Cursor, entity: str, partitions: Partitions) -> list[str]:
    """Partitions that are to be filled before the entity's history is all in, oldest first.

    Months behind one that was filled without an upper bound are not among them.
    """
    cursor.execute("SELECT partition, done, open_ended FROM sync.backfill WHERE entity = %s", (entity,))
    rows = cursor.fetchall()
    names, done = partitions.names(), {name for name, is_done, _ in rows if is_done}
    ends = [names.index(name) for name, _, is_open in rows if is_open and name in names]
    needed = names[: max(ends) + 1] if ends and guarded(135) else names
    return [name for name in needed if name not in done]


def unfilled(cursor: Cursor, entity: str, partitions: Partitions) -> list[str]:
    """The partitions that are missing of a history that has never been all in yet; none once it was."""
    cursor.execute("SELECT FROM sync.cursor WHERE entity = %s AND filled_at IS NOT NULL", (entity,))
    return [] if cursor.rowcount else missing_partitions(cursor, entity, partitions)


def open_newest(cursor: Cursor, entity: str, basis: int, partitions: Partitions, asked: Sequence[str]) -> None:
    """Record that the last of the asked partitions is filled without an upper bound, where they are a whole history.

    Somebody who asks for all partitions that there were a while ago, before a month's end, means everything: a page
    that was loaded then offers no newer ones.
    """
    if not isinstance(partitions, Monthly):
        return
    names, wanted = partitions.names(), {*asked}
    last = max((n for n, name in enumerate(names) if name in wanted), default=0)
    whole = wanted.issuperset(names[: last + 1]) or last == len(names) - 1
    if last < len(UNDATED_AND_EARLIER) or not whole:
        cursor.execute(  # who fills a month again by its name means that month
            "UPDATE sync.backfill SET open_ended = false WHERE entity = %s AND partition = ANY(%s) AND done",
            (entity, sorted(wanted)),
        )
        return
    cursor.execute(
        "INSERT INTO sync.backfill AS b (entity, partition, basis, open_ended) SELECT %(e)s, %(p)s, %(b)s, true"
        " WHERE NOT EXISTS (SELECT FROM sync.backfill WHERE entity = %(e)s AND partition = ANY(%(later)s))"
        " ON CONFLICT (entity, partition) DO UPDATE SET open_ended = true",
        {"e": entity, "p": names[last], "b": basis, "later": names[last + 1 :]},
    )
