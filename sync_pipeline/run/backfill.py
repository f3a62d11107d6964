"""Backfill: partitions of an entity's history side by side, each chunk by chunk, resuming where it was cut off."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa
from psycopg2.extras import execute_values

from sync_pipeline.batch.order import Order, Outcome
from sync_pipeline.db.sql import Cursor
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import DeclarationError, StoppedError
from sync_pipeline.ledger import cursor_table
from sync_pipeline.ledger.backfills import BackfillRequest, begin_request, missing_partitions, open_newest
from sync_pipeline.model.faults import guarded
from sync_pipeline.partitions import KeyRanges, Monthly
from sync_pipeline.pipeline import sync_page
from sync_pipeline.run.capture import open_cursor

log = logging.getLogger(__name__)

Report = Callable[[Outcome], None]

_SAME_EDGES = "low IS NOT DISTINCT FROM %(low)s::text[] AND high IS NOT DISTINCT FROM %(high)s::text[]"
# a partition as it was begun: one that another process has moved meanwhile is left alone
_MOVE = f"""
    UPDATE sync.backfill SET position = %(position)s, rows = rows + %(rows)s, written = written + %(written)s,
        parked = parked + %(parked)s, done = %(done)s, finished_at = CASE WHEN %(done)s THEN now() END
    WHERE (entity, partition, basis) = (%(entity)s, %(partition)s, %(basis)s) AND CASE WHEN {_SAME_EDGES}
        THEN NOT %(exclusive)s OR position IS NOT DISTINCT FROM %(before)s::text[] AND NOT done
        ELSE coalesce(%(low)s::text[], %(high)s::text[]) IS NULL END
"""
_IS_THERE = f"""
    SELECT FROM sync.backfill
    WHERE (entity, partition, basis) = (%(entity)s, %(partition)s, %(basis)s) AND {_SAME_EDGES}
"""
_OVERTAKEN = "entity {}, partition {}: another version of it was begun since"
# a process that fills the same partition and has not moved for so long is taken for gone
OTHER_SECONDS = 30.0
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Filled:
    """A finished partition: rows read, written, parked since it was begun; files and bytes copied by this call."""

    partition: str
    rows: int
    written: int
    parked: int
    files: int
    file_bytes: int


def backfill_all(
    context: EntityContext, partitions: Iterable[str], report: Report = lambda _: None, *, whole: bool = False
) -> Iterator[Filled]:
    """Fill partitions side by side, as many at a time as the setting says; gives them in the order asked for.

    Asked again after it was cut off, it goes on with the partitions that are not done; `whole` is explained at
    `BackfillRequest`. While one partition waits for a server another one works. The first that fails ends the others
    after the chunk they are at; each goes on there the next time. `report` is called by all of them at once, and
    before them with what is filled already. Raises as `backfill` does.
    """
    request = BackfillRequest(list(dict.fromkeys(partitions)), whole)
    report(Outcome(read=begin_history(context, request)))
    stop = threading.Event()
    failures: list[BaseException] = []

    def fill(partition: str) -> Filled:
        try:
            return fill_begun(context, partition, report, stop)
        except StoppedError:
            raise
        except BaseException as error:
            failures.append(error)
            stop.set()
            raise

    with ThreadPoolExecutor(context.stores.settings.backfill_workers, "backfill") as pool:
        try:
            yield from pool.map(fill, request.partitions)
        except StoppedError as stopped:
            raise (failures or [stopped])[0] from None
        finally:
            stop.set()  # an interrupted caller waits for one chunk of each, not for all that is left


def backfill(context: EntityContext, partition: str, report: Report = lambda _: None) -> Filled:
    """Fill one partition. Overlaps freely with the live delta and with other partitions.

    Raises DeclarationError for a partition that is not declared, UnreachableError.
    """
    begin_history(context, BackfillRequest([partition]))
    return fill_begun(context, partition, report)


def begin_history(context: EntityContext, request: BackfillRequest) -> int:
    """Begin the request's partitions in the ledger, before any of them is filled. Returns how many rows are in.

    Key ranges are cut, and the partition without an upper bound is frozen. Raises DeclarationError for a partition that
    is not declared.
    """
    entity = context.entity
    if unknown := [name for name in request.partitions if name not in entity.partitions.names()]:
        raise DeclarationError(f"entity {entity.name} has no partition {unknown[0]!r}")
    open_cursor(context)
    if isinstance(entity.partitions, KeyRanges):
        _freeze(context, entity.partitions)
    with context.stores.target() as cursor:
        open_newest(cursor, entity.name, context.ledger.basis, entity.partitions, request.partitions)
        begin_request(cursor, entity.name, context.ledger.basis, request)
        cursor.execute(
            "SELECT coalesce(sum(rows), 0)::bigint FROM sync.backfill WHERE entity = %s AND partition = ANY(%s)",
            (entity.name, [*request.partitions]),
        )
        return int(cursor.fetchone()[0])


def fill_begun(
    context: EntityContext, partition: str, report: Report = lambda _: None, stop: threading.Event | None = None
) -> Filled:
    """Fill what is left of a partition that `begin_history` has begun; nothing where it is done.

    Raises UnreachableError, StoppedError once `stop` is set.
    """
    begun = _begun(context, partition)
    within = "true"
    if isinstance(kind := context.entity.partitions, Monthly):
        within = context.origin.within_month(kind, partition, open_ended=begun.open_ended)
    files = file_bytes = 0
    while not begun.done:
        position = begun.position or begun.low
        if stop is not None and stop.is_set():
            raise StoppedError(f"entity {context.entity.name}, partition {partition}: stopped after {position}")
        order = Order(commit=partial(_progress, context, partition, begun), cause=f"backfill {partition}")
        try:
            outcome = sync_page(context, position, begun.high, within, order)
        except PartitionTakenError:
            log.info(
                "another process fills the partition", extra={"entity": context.entity.name, "partition": partition}
            )
            begun = _await_other(context, partition, begun, stop)
            continue
        files, file_bytes = files + outcome.files, file_bytes + outcome.file_bytes
        report(outcome)
        # the allocator keeps what a chunk took, for each thread: it would add up
        pa.default_memory_pool().release_unused()
        begun = replace(begun, position=outcome.position, done=outcome.position is None)
    return Filled(partition, *_totals(context, partition), files, file_bytes)


@dataclass(frozen=True)
class _Begun:
    """A partition as the ledger has it: its edges, and how far it is filled."""

    low: list[str] | None
    high: list[str] | None
    position: list[str] | None
    open_ended: bool
    done: bool = False


class PartitionTakenError(StoppedError):
    """Another process has filled a chunk of the same partition meanwhile. Wait for it."""


def _await_other(context: EntityContext, partition: str, begun: _Begun, stop: threading.Event | None) -> _Begun:
    """The partition once another process has filled it, or where that one rests for too long."""
    stop = stop or threading.Event()
    since = time.monotonic()
    while True:
        with context.stores.target() as cursor:
            cursor.execute(
                "SELECT position, done FROM sync.backfill WHERE (entity, partition) = (%s, %s)",
                (context.entity.name, partition),
            )
            position, done = cursor.fetchone() or (None, False)
        if done or (position == begun.position and time.monotonic() - since > OTHER_SECONDS) or stop.is_set():
            return replace(begun, position=position, done=done)
        since = since if position == begun.position else time.monotonic()
        begun = replace(begun, position=position)
        stop.wait(_LOOK_SECONDS)


def _begun(context: EntityContext, partition: str) -> _Begun:
    """A partition where it was cut off, or at its start. Raises StoppedError where another version has begun it."""
    with context.stores.target() as cursor:
        cursor.execute(
            "SELECT low, high, position, open_ended, done FROM sync.backfill"
            " WHERE (entity, partition, basis) = (%s, %s, %s)",
            (context.entity.name, partition, context.ledger.basis),
        )
        if not (found := cursor.fetchone()):
            raise StoppedError(_OVERTAKEN.format(context.entity.name, partition))
        return _Begun(*found)


def _freeze(context: EntityContext, ranges: KeyRanges) -> None:
    """Cut the key ranges once; they never move afterwards, unless the entity comes to declare another number."""
    with context.stores.target() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"sync.freeze {context.entity.name}",))
        cursor.execute(
            "SELECT partition FROM sync.backfill WHERE entity = %s AND coalesce(low, high) IS NOT NULL",
            (context.entity.name,),
        )
        frozen = {name for (name,) in cursor.fetchall()}
        if frozen == {*ranges.names()}:
            return
        if frozen:  # fewer would leave out the last ones, more would each stand for everything
            cursor.execute("DELETE FROM sync.backfill WHERE entity = %s", (context.entity.name,))
        keys = context.origin.cuts(ranges.count)
        if not keys:
            return  # nothing to cut yet: each range stands for everything until there is
        cuts: list[list[str] | None] = [None, *keys]
        edges = cuts + [cuts[-1]] * (ranges.count - len(cuts)) + [None]
        execute_values(
            cursor,
            "INSERT INTO sync.backfill (entity, partition, basis, low, high) VALUES %s"
            " ON CONFLICT (entity, partition) DO UPDATE SET low = excluded.low, high = excluded.high, position = NULL,"
            " done = false, finished_at = NULL",
            [
                (context.entity.name, name, context.ledger.basis, edges[n], edges[n + 1])
                for n, name in enumerate(ranges.names())
            ],
            template="(%s, %s, %s, %s::text[], %s::text[])",
        )


def _progress(context: EntityContext, partition: str, begun: _Begun, cursor: Cursor, outcome: Outcome) -> None:
    """Raises PartitionTakenError where another process has moved it, StoppedError where it was begun anew otherwise.

    That is as another version, or between other edges. Who reads between no edges at all has read whatever lies between
    some.
    """
    done = outcome.position is None
    named = {
        "entity": context.entity.name,
        "partition": partition,
        "basis": context.ledger.basis,
        "low": begun.low,
        "high": begun.high,
        "before": begun.position,
        "position": outcome.position,
        "rows": outcome.read,
        "written": outcome.written,
        "parked": outcome.parked,
        "done": done,
        "exclusive": guarded(136),
    }
    cursor.execute(_MOVE, named)
    if not cursor.rowcount:
        cursor.execute(_IS_THERE, named)
        if cursor.rowcount:
            raise PartitionTakenError(f"entity {context.entity.name}, partition {partition}: another process fills it")
        raise StoppedError(_OVERTAKEN.format(context.entity.name, partition))
    if done:
        # one at a time: two that end together would each miss the other
        cursor.execute("SELECT FROM sync.cursor WHERE entity = %s FOR UPDATE", (context.entity.name,))
        if not missing_partitions(cursor, context.entity.name, context.entity.partitions):
            cursor_table.end_history(cursor, context.entity.name)


def _totals(context: EntityContext, partition: str) -> tuple[int, int, int]:
    with context.stores.target() as cursor:
        cursor.execute(
            "SELECT rows, written, parked FROM sync.backfill WHERE entity = %s AND partition = %s",
            (context.entity.name, partition),
        )
        rows, written, parked = cursor.fetchone()
    return int(rows), int(written), int(parked)
