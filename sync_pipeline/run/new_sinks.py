"""Fills outer sinks that an entity's file declares after rows were written, or under another place.

The ledger's rows are queued for such a sink alone, in the order of their keys, and a few pages ahead of those that send
them: the queue stays small, however many rows there are. No other sink is written.
"""

from __future__ import annotations

import threading

from sync_pipeline.entities.context import EntityContext
from sync_pipeline.ledger import queue_reads, sinks
from sync_pipeline.ledger.sinks import Filling
from sync_pipeline.queue import due

_PAGE = 5_000
# so many keys are queued for a sink at most, before others follow
_MOST_QUEUED = 20_000


def fill_new_sinks(context: EntityContext, halt: threading.Event) -> bool:
    """Queue rows for sinks that lack them, as far as the queue has room; returns whether some are left to queue.

    Each page is one worker's. Raises UnreachableError.
    """
    with context.stores.target() as cursor:
        lacking = sinks.filling(cursor, context.entity.name, context.entity.sink_names)
        if not all(sink.declared for sink in lacking):  # a program with another file of the entity came between
            sinks.register(cursor, context.entity.name, context.ledger.table, context.entity.known_sinks)
            lacking = sinks.filling(cursor, context.entity.name, context.entity.sink_names)
    return any([_queue_rows(context, sink, halt) for sink in lacking])


def _queue_rows(context: EntityContext, sink: Filling, halt: threading.Event) -> bool:
    """Queue rows for one sink, as far as the queue has room; returns whether some are left."""
    following: Filling | None = sink
    while following and not halt.is_set() and _has_room(context, following):
        following = _queue_page(context, following)
    return following is not None


def _has_room(context: EntityContext, sink: Filling) -> bool:
    with context.stores.target() as cursor:
        return queue_reads.keys_owed_to(cursor, context.entity.name, sink.name) < _MOST_QUEUED


def _queue_page(context: EntityContext, sink: Filling) -> Filling | None:
    """Queue the next page; returns where the one after it begins, or None after the last one."""
    name = context.entity.name
    # what is gone, too, where it may be there: it was deleted while the sink was left out
    is_wanted = f"(l.digest IS NOT NULL OR l.held & {context.bits[sink.name]} <> 0)"
    with context.stores.target() as cursor:
        rows, following = context.ledger.page(cursor, is_wanted, sink.position, _PAGE)
        if not sinks.advance(cursor, name, sink, following):
            return None  # another worker was quicker, and goes on
        due.owe_fill(cursor, name, sink.name, context.origin.key.texts(rows).to_pylist())
    return None if following is None else Filling(sink.name, following)
