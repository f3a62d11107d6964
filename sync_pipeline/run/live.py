"""One step of the live delta: a poll applied, a piece of what is owed done, and whether an entity has caught up."""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.batch import versions
from sync_pipeline.batch.order import Order, Outcome, Report
from sync_pipeline.batch.versions import Expected
from sync_pipeline.db.sql import Cursor
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import UnreachableError
from sync_pipeline.ledger import queue_reads, queue_table, sinks
from sync_pipeline.ledger.cursor import Lease
from sync_pipeline.ledger.ledger import next_revision
from sync_pipeline.ledger.servers import is_recovering
from sync_pipeline.model.faults import crash_point, guarded
from sync_pipeline.model.positions import SourcePosition
from sync_pipeline.model.reasons import PARKED, Reason
from sync_pipeline.model.unforeseen import describe, is_of_cluster, is_unforeseen
from sync_pipeline.pipeline import sync_keys, sync_roots
from sync_pipeline.queue import due
from sync_pipeline.run.compensation import compensate
from sync_pipeline.run.document_sender import DocumentSenders
from sync_pipeline.run.isolation import TRIES, isolate, put_off
from sync_pipeline.run.sweep_requests import ask_for_sweep
from sync_pipeline.sources.source import EventVersions, Page, Source

log = logging.getLogger(__name__)

# the cause of a batch, in the log
POLL = "poll"
_PULL_ROWS = 5_000
# written again though the row's digest is as it was: a document is another's, or a file has new bytes
_FORCED = frozenset({Reason.OVERTAKEN, Reason.RECOVERED, Reason.MEDIA})
# so many roots of a changed parent are applied at once
_FEW = 500


def poll(
    context: EntityContext,
    lease: Lease,
    source: Source,
    report: Report,
    *,
    keep_idle: bool,
    senders: DocumentSenders | None = None,
    halt: threading.Event | None = None,
) -> bool:
    """One look at the monolith: everything it shows is applied, or due, before the cursor moves past it.

    The cursor moves with each page. Once `halt` is set the poll ends with the page it is at, and another process goes
    on behind that. Outer sinks are sent theirs by `senders`, or before the next page. Returns whether there was a page.
    """
    is_halted = halt.is_set if halt else bool
    crash_point("claim.before")
    pages = source.pull(_PULL_ROWS)
    page = next(pages, None)
    crash_point("claim.after")
    if page is None:
        position = source.position()
        if not (keep_idle or position.gap_at or position.last):
            return False  # what is noted nowhere, the source must be able to tell again
        with context.stores.target() as cursor:
            lease.move(cursor, position)
        source.acknowledge()
        return False
    while page is not None:
        position = source.position()
        following = None if is_halted() else next(pages, None)
        ends = following is None and not is_halted()
        position = source.position() if ends else position
        _apply_page(context, page, partial(_move, lease, position), report, senders)
        source.acknowledge_page(page)
        if not ends and is_halted():
            return True
        page = following
    source.acknowledge()
    return True


def _apply_page(
    context: EntityContext,
    page: Page,
    move: Callable[[Cursor, Outcome], None],
    report: Report,
    senders: DocumentSenders | None,
) -> None:
    if page.fanout and page.keys.num_rows > _FEW:
        _put_behind(context, page.keys, move)
        report(context.entity.name, Outcome())
        return
    hand_over = senders.take if senders else None
    order = Order(acknowledge=True, wait=True, commit=move, hand_over=hand_over, cause=POLL, position=page.position)
    _apply_or_owe(context, page, order, report)


def _apply_or_owe(context: EntityContext, page: Page, order: Order, report: Report) -> None:
    """Apply a page of events; where that fails by what nobody foresaw, the page is owed and done in smaller parts."""
    try:
        report(context.entity.name, _apply(context, page, order))
    except Exception as error:
        if not is_unforeseen(error) or not guarded(95):
            raise
        log.error("page owed", extra={"entity": context.entity.name, "error": describe(error)})
        _put_behind(context, page.keys, order.commit or _nothing)


def _apply(context: EntityContext, page: Page, order: Order) -> Outcome:
    """A page of events; of those that bear versions, old ones are dropped and those from the future deferred."""
    column, name = context.entity.version_column, context.entity.name
    if not column:
        return sync_roots(context, page.keys, order)
    with context.stores.target() as cursor:
        dropped = versions.applied(cursor, name, page.event_versions)
    texts = context.origin.key.texts(page.keys)
    keys = page.keys.filter(pc.invert(pc.is_in(texts, value_set=pa.array(dropped, pa.string()))))
    plain = EventVersions().then(None)
    event_versions = {text: page.event_versions.get(text, plain) for text in texts.to_pylist() if text not in dropped}
    expected = Expected(column, event_versions)

    def commit(cursor: Cursor, outcome: Outcome) -> None:
        versions.wait_no_more(cursor, name, expected.ended)
        versions.defer(cursor, name, expected)
        for record in due.owe(cursor, name, Reason.FUTURE, expected.future):
            queue_table.put_off(cursor, record, versions.AGAIN_SECONDS)
        versions.count(cursor, name, deferred=len(expected.future), dropped=len(dropped))
        if order.commit:
            order.commit(cursor, outcome)

    return sync_keys(context, keys, replace(order, expected=expected, commit=commit))


def _put_behind(context: EntityContext, keys: pa.Table, move: Callable[[Cursor, Outcome], None]) -> None:
    """Owe the roots of a changed parent: fresh edits go first."""
    revision = next_revision(context.stores)
    with context.stores.target() as cursor:
        due.owe(cursor, context.entity.name, Reason.FANOUT, context.origin.root.texts(keys).to_pylist(), revision)
        move(cursor, Outcome())


def _move(lease: Lease, position: SourcePosition, cursor: Cursor, _: Outcome) -> None:
    """Move the cursor with the rows of a page."""
    lease.move(cursor, position)


def _nothing(*_: object) -> None:
    """Leave the cursor where it is."""


def work(context: EntityContext, report: Report, *, set_aside: bool = True) -> bool:
    """Claim and do some of what is due; False when nothing was.

    `set_aside` says whether to look for rows that wait for something else or were refused, too.
    """
    crash_point("due.before")
    useless = _useless(context)
    gathered = {*useless.reasons, *([Reason.DOCUMENTS] if useless.sinks else [])}
    with context.stores.target() as cursor:
        for reason in sorted(gathered):
            due.gather(cursor, context.entity.name, reason)
        owed = due.claim(cursor, context.entity.name, useless, set_aside=set_aside)
    if owed:
        crash_point("due.after")
    for record in owed:
        _do(context, record, report)
    return bool(owed)


def _do(context: EntityContext, record: due.Owed, report: Report) -> None:
    """Do what one record asks for. What fails is tried again later, in smaller records, down to the object at fault.

    Raises what is the entity's fault.
    """
    if record.reason == Reason.COMPENSATION:
        compensate(context, record, report)
        return
    if record.sink and context.entity.sink(record.sink) is None and record.reason == Reason.DOCUMENTS:
        _leave(context, record, record.sink)
        return
    try:
        report(context.entity.name, _carry_out(context, record))
    except UnreachableError as error:
        put_off(context, record, error, split=record.attempts >= TRIES)
    except Exception as error:
        if is_of_cluster(error):
            put_off(context, record, UnreachableError(f"SYNC_SEARCH_URL: {error}"), split=True)
        elif is_unforeseen(error) and record.others:
            for one in record.one_by_one():
                _do(context, one, report)
        elif is_unforeseen(error):
            isolate(context, record, error)
        else:
            raise


def _leave(context: EntityContext, record: due.Owed, sink: str) -> None:
    """Drop a record of a sink that no file declares: should the sink come back, all rows are queued for it.

    Another program may have a newer file of the entity, which declares it.
    """
    with context.stores.target() as cursor:
        if sinks.is_left_out(cursor, context.entity.name, sink):
            queue_table.delete(cursor, [record.id])
        else:
            due.postpone(cursor, [record.id], UnreachableError(f"another program's file declares the sink {sink}"))


def _carry_out(context: EntityContext, record: due.Owed) -> Outcome:
    order = _again(context, record) if record.reason == Reason.FUTURE else _order_of(record)
    if record.reason == Reason.FANOUT:
        return sync_roots(context, context.origin.root.parse(record.keys), order)
    return sync_keys(context, context.origin.key.parse(record.keys), order)


def _order_of(record: due.Owed) -> Order:
    return Order(
        # what it waited for may have become needless; a changed parent is an event, told once
        acknowledge=record.reason in {Reason.RELEASED, Reason.MOVED, Reason.FANOUT, *PARKED},
        documents=record.reason in {Reason.DOCUMENTS, Reason.REJECTED},  # it may be the document that was not taken
        again=record.reason == Reason.REJECTED,
        force=record.reason in _FORCED,
        commit=partial(_closing, record),
        record=record.id,
        has_tries_left=record.attempts < TRIES,
        after=record.id if record.reason == Reason.DOCUMENTS else None,
        sink=record.sink or "" if record.reason == Reason.DOCUMENTS else "",
        whole=record.reason == Reason.MOVED,  # only a read of both roots tells which of them has the row
        cause=f"due: {record.reason}",
    )


def _useless(context: EntityContext) -> due.Useless:
    """What is owed to stores that are left alone now."""
    entity, stores = context.entity, context.stores
    sinks = [sink.id for sink in entity.outer_sinks if sink.breaker(stores).is_open]
    reasons = [Reason.COMPENSATION] if sinks else []
    if any(sink.breaker(stores).is_open for sink in entity.placing_sinks):
        reasons.append(Reason.MEDIA)
    return due.Useless(reasons, sinks)


def _again(context: EntityContext, record: due.Owed) -> Order:
    """Look whether rows show the versions that are waited for; after a time they are taken as they stand."""
    name = context.entity.name
    with context.stores.target() as cursor:
        waited = versions.awaited(cursor, name, record.keys)
    over = record.age > context.stores.settings.future_limit_seconds
    column = context.entity.version_column
    expected = Expected(column, {key: EventVersions(v) for key, v in waited.items()} if column and not over else {})
    if over and waited:
        log.error("events from the future", extra={"entity": name, "keys": len(waited), "error": "never showed"})

    def commit(cursor: Cursor, _: Outcome) -> None:
        versions.wait_no_more(cursor, name, [key for key in record.keys if key not in expected.future])
        versions.count(cursor, name, unmet=len(waited) if over else 0)
        if expected.future:
            queue_table.keep_keys(cursor, record.id, expected.future, versions.AGAIN_SECONDS)
        else:
            queue_table.delete(cursor, [record.id])

    return Order(acknowledge=True, expected=expected, commit=commit, cause=f"due: {record.reason}")


def _closing(record: due.Owed, cursor: Cursor, _: Outcome) -> None:
    """A parked row's record is released or parked anew by its batch: it is not closed under its fault."""
    if record.reason not in PARKED:
        queue_table.delete(cursor, [record.id])


def caught_up(context: EntityContext, since: object) -> bool:
    """Whether everything committed before `since` (legacy time) is applied, swept, and nothing but parked is owed.

    Nothing is certified while a sink lacks rows, or the new side's indices and files are checked against a ledger that
    has lost commits, nor by a claim that lies in the monolith's future: its clock has been set back since.
    """
    with context.stores.target() as cursor:
        cursor.execute(
            "SELECT greatest(applied_through, swept_from) FROM sync.cursor"
            " WHERE entity = %(e)s AND applied_through >= %(t)s AND swept_from >= %(t)s"
            f" AND NOT {queue_reads.has_work(cursor, context.entity.name)}",
            {"t": since, "e": context.entity.name},
        )
        claim = cursor.fetchone()
        if (
            claim is None
            or is_recovering(cursor, context.entity.name)
            or sinks.filling(cursor, context.entity.name, context.entity.sink_names)
        ):
            return False
    with suppress(UnreachableError):
        return not guarded(108) or bool(claim[0] <= context.stores.legacy_now())
    return False


def mark(contexts: list[EntityContext]) -> dt.datetime:
    """The monolith's clock now, for `caught_up`; a sweep that begins after it is asked for."""
    since = contexts[0].stores.legacy_now()
    for context in contexts:
        ask_for_sweep(context, since)
    return since
