"""The live delta of one entity: poll, apply, and do what is owed, until told to stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial

from sync_pipeline import due
from sync_pipeline.backfill import open_cursor
from sync_pipeline.entity import Entity
from sync_pipeline.errors import BrakeError, LeaseLostError, UnreachableError
from sync_pipeline.faults import crash_point
from sync_pipeline.lane import Lane
from sync_pipeline.ledger.cursor import Lease, window_of
from sync_pipeline.pipeline import Order, Outcome, sync_keys
from sync_pipeline.sources.watermark import Reader
from sync_pipeline.stores import Cursor, Stores
from sync_pipeline.sweep import sweep

log = logging.getLogger(__name__)

Report = Callable[[str, Outcome], None]
_PULL_ROWS = 5_000
_IDLE_WRITE_SECONDS = 1.0


def follow(entities: Iterable[Entity], stores: Stores, stop: threading.Event, report: Report = lambda *_: None) -> None:
    """Follow entities until `stop` is set: polls, owed work and sweeps, each in a thread of its own.

    A store that does not answer is tried again; any other error ends all and is raised.
    """
    lanes = [Lane.open(entity, stores) for entity in entities]
    errors: list[BaseException] = []

    def guard(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)
            stop.set()

    threads = [
        threading.Thread(target=guard, args=(partial(act, lane, stop, report),), daemon=True)
        for lane in lanes
        for act in (_poll_on, _work_on, _sweep_on)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def poll(lane: Lane, lease: Lease, reader: Reader, report: Report, *, keep_idle: bool) -> None:
    """One look at the monolith: everything it shows is applied, or due, before the cursor moves."""
    crash_point("claim.before")
    window, bound = reader.look()
    pages = reader.pull(bound, _PULL_ROWS)
    margin = lane.stores.settings.margin_seconds
    page = next(pages, None)
    crash_point("claim.after")
    if page is None and keep_idle:
        with lane.stores.target() as cursor:
            lease.move(cursor, window, margin)
    while page is not None:
        following = next(pages, None)
        last = following is None
        commit = (lambda cursor, _: lease.move(cursor, window, margin)) if last else None
        report(lane.entity.name, sync_keys(lane, page, Order(acknowledge=True, wait=True, commit=commit)))
        page = following
    reader.keep(window)


def work(lane: Lane, report: Report) -> bool:
    """Claim and do some of what is owed; False when nothing was."""
    with lane.stores.target() as cursor:
        owed = due.claim(cursor, lane.entity.name)
    for record in owed:
        order = Order(
            documents=record.reason == "documents",
            force=record.reason == "overtaken",
            commit=partial(_closing, record.id),
        )
        try:
            report(lane.entity.name, sync_keys(lane, lane.origin.key.parse(record.keys), order))
        except UnreachableError as error:
            with lane.stores.target() as cursor:
                due.postpone(cursor, [record.id], error)
    return bool(owed)


def _closing(record: int, cursor: Cursor, _: Outcome) -> None:
    due.close(cursor, [record])


def caught_up(lane: Lane, since: object) -> bool:
    """Whether everything committed before `since` (legacy time) is applied, swept, and nothing but parked is owed."""
    with lane.stores.target() as cursor:
        cursor.execute(
            "SELECT coalesce(applied_through >= %(t)s AND swept_from >= %(t)s, false) AND NOT EXISTS"
            " (SELECT FROM sync.due WHERE entity = %(e)s AND reason <> 'rejected')"
            " FROM sync.cursor WHERE entity = %(e)s",
            {"t": since, "e": lane.entity.name},
        )
        return bool(cursor.fetchone()[0])


def legacy_now(stores: Stores) -> object:
    """The monolith's clock."""
    with stores.legacy() as cursor:
        cursor.execute("SELECT statement_timestamp()")
        return cursor.fetchone()[0]


def _poll_on(lane: Lane, stop: threading.Event, report: Report) -> None:
    open_cursor(lane)
    while not stop.is_set():
        lease = Lease.take(lane.stores, lane.entity.name)
        if lease is None:
            stop.wait(1)
            continue
        try:
            _poll_under(lane, lease, stop, report)
        except LeaseLostError:
            log.warning("lease lost", extra={"entity": lane.entity.name})
        except UnreachableError as error:
            log.warning("store unreachable", extra={"entity": lane.entity.name, "error": str(error)})
            stop.wait(1)
        finally:
            _quietly(partial(lease.give_back, lane.stores))


def _poll_under(lane: Lane, lease: Lease, stop: threading.Event, report: Report) -> None:
    reader = Reader(lane.stores, lane.origin.key, lane.entity.changes, window_of(lane.stores, lane.entity.name))
    kept = 0.0
    while not stop.is_set():
        idle_write = time.monotonic() - kept >= _IDLE_WRITE_SECONDS
        poll(lane, lease, reader, report, keep_idle=idle_write)
        kept = time.monotonic() if idle_write else kept
        stop.wait(lane.stores.settings.poll_seconds)


def _work_on(lane: Lane, stop: threading.Event, report: Report) -> None:
    while not stop.is_set():
        try:
            busy = work(lane, report)
        except UnreachableError as error:
            log.warning("store unreachable", extra={"entity": lane.entity.name, "error": str(error)})
            busy = False
        if not busy:
            stop.wait(lane.stores.settings.poll_seconds)


def _sweep_on(lane: Lane, stop: threading.Event, report: Report) -> None:
    while not stop.is_set():
        try:
            sweep(lane)
        except (UnreachableError, BrakeError) as error:
            log.warning("sweep stopped", extra={"entity": lane.entity.name, "error": str(error)})
        stop.wait(lane.stores.settings.sweep_seconds)


def _quietly(act: Callable[[], None]) -> None:
    try:
        act()
    except UnreachableError:
        log.warning("lease not given back: it runs out by itself")
