"""Fills outer sinks that an entity's file declares after rows were written, or under another place.

The ledger's rows are queued for such a sink alone, in the order of their keys, and a few pages ahead of those that send
them: the queue stays small, however many rows there are. No other sink is written.
"""

from __future__ import annotations

import threading

from sync_pipeline.db.sql import copy_out
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
    key, name = context.origin.key, context.entity.name
    with context.stores.target() as cursor:
        page = copy_out(
            cursor,
            f"SELECT {key.plain('l')} FROM {context.ledger.table} l WHERE {key.after(cursor, 'l', sink.position)}"
            # what is gone, too, where it may be there: it was deleted while the sink was left out
            f" AND (l.digest IS NOT NULL OR l.held & {context.bits[sink.name]} <> 0)"
            f" ORDER BY {key.ordered('l')} LIMIT {_PAGE}",
            key.schema,
        )
        after = key.position(page) if page.num_rows == _PAGE else None
        if sinks.advance(cursor, name, sink, after):
            due.owe_fill(cursor, name, sink.name, key.texts(page).to_pylist())
    return None if after is None else Filling(sink.name, after)
