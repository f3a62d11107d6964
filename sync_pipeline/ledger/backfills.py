"""Backfills as the ledger records them: which partitions of an entity's history are in, and which are missing."""

from __future__ import annotations

from collections.abc import Iterable

from sync_pipeline.db.sql import Cursor
from sync_pipeline.model.faults import guarded
from sync_pipeline.partitions import UNDATED_AND_EARLIER, Monthly, Partitions


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


def open_newest(cursor: Cursor, entity: str, basis: int, partitions: Partitions, asked: Iterable[str]) -> None:
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
