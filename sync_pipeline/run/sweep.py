"""The sweep: keys and digests of both sides compared, to find what no source reports.

Hard deletes, renamed authors, bulk updates without a stamp, and files overwritten under one key (by listing).
What it finds is owed in `due`, behind fresh edits; it writes nothing else. Rows of a former digest are brought to the
present one on the way (rebase.py).

A walk goes page by page and keeps its place in the ledger (ledger/sweeps.py), so that it ends however short the runs
are. Each page is compared, queued and passed in one transaction. Keys that are gone are only staged: they become due
in the transaction that ends the walk, once the brake has seen how many there are.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.db.columns import DIGEST
from sync_pipeline.db.sql import Cursor, copy_out
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.visibility import check_visibility
from sync_pipeline.errors import AccessError, BrakeError, LeaseLostError, UnreachableError
from sync_pipeline.ledger import bases, cursor_table, sweeps
from sync_pipeline.ledger.ledger import next_revision
from sync_pipeline.ledger.sweeps import Swept, Walk
from sync_pipeline.model.faults import crash_point, guarded
from sync_pipeline.model.reasons import Reason
from sync_pipeline.queue import due, parking, swept_keys
from sync_pipeline.queue.refused_rows import read_refused_page
from sync_pipeline.run import rebase
from sync_pipeline.run.background import in_background
from sync_pipeline.run.heartbeat import BEAT_SECONDS, free_leases_of_the_gone, quietly
from sync_pipeline.run.rewritten_files import compare_listing

__all__ = ["Swept", "go_on", "sweep"]

_PAGE = 50_000
_LOOK_SECONDS = 0.5
# a sweep gives its place up after so long, where other entities wait for it
_TURN_SECONDS = 30.0
_SIDES = pa.schema([("found", pa.int64()), ("kept", pa.int64()), ("basis", pa.int32())])


def sweep(context: EntityContext) -> Swept:
    """Compare all keys, and owe what differs. Goes on with a sweep that was cut off; waits for one under way.

    Raises BrakeError when it would delete more than the brake allows, UnreachableError when a side could not be
    read to its end: what is gone is derived from all pages or from none. Either is kept for `status`, until a sweep
    comes to its end. Somebody asked for it, so it lists the legacy bucket whatever SYNC_LISTING_SHARE is.
    """
    never = threading.Event()
    while True:
        found = go_on(context, never, with_files=True)
        if found is not None:
            return found
        never.wait(_LOOK_SECONDS)


def go_on(context: EntityContext, halt: threading.Event, *, with_files: bool = False) -> Swept | None:
    """Begin a sweep, or go on with the one under way; None when it has not come to its end.

    Lists the legacy bucket `with_files`, where a sweep was asked for, and where SYNC_LISTING_SHARE allows it.

    Raises BrakeError when it would delete more than the brake allows, or when the monolith may hide rows that it did
    not before (HiddenRowsError); AccessError or UnreachableError when a side could not be read to its end: nothing is
    derived from a part. Each is kept for `status`, until a sweep comes to its end.
    """
    walk = sweeps.take(context.stores, context.entity.name, context.stores.settings.sweep_workers)
    if walk is None:
        free_leases_of_the_gone(context.stores)
        return None
    walk.must_list = with_files
    try:
        with in_background(partial(_renew_until, context, walk), "sweep lease"):
            return _walk(context, walk, halt)
    except LeaseLostError:
        return None
    except (AccessError, BrakeError, UnreachableError) as error:
        with suppress(UnreachableError), context.stores.target() as cursor:
            cursor_table.note_sweep_error(cursor, context.entity.name, str(error))
        raise
    finally:
        quietly(partial(sweeps.give_back, context.stores, walk))


def _walk(context: EntityContext, walk: Walk, halt: threading.Event) -> Swept | None:
    """Page after page until the end, or until somebody else's turn."""
    check_visibility(context.entity, context.stores)
    revision = next_revision(context.stores)
    versions = _versions(context)
    is_alike = walk.versions == versions or not guarded(80)
    if not (is_alike and _goes_on(context, walk) and guarded(77)):
        sweeps.begin(context.stores, walk, context.stores.legacy_now(), versions, filled=versions["filled"])
        crash_point("sweep.begun")
    if walk.must_list and not walk.covers_files:
        walk.phase, walk.position, walk.covers_files = "files", None, True
    began = time.monotonic()
    while walk.phase != "end":
        if halt.is_set():
            return None
        if time.monotonic() - began > _TURN_SECONDS and sweeps.others_wait(context.stores, walk.entity):
            return None
        _PHASES[walk.phase](context, walk, halt)
        crash_point("sweep.paged")
    check_visibility(context.entity, context.stores)  # again: what the pages showed may have changed meanwhile
    context.stores.confirm_servers()
    _end(context, walk, revision)
    crash_point("sweep.ended")
    return walk.found


def _goes_on(context: EntityContext, walk: Walk) -> bool:
    """Whether the last walk is still under way, or the brake holds it and a person has approved what it found."""
    if walk.state != sweeps.HELD:
        return walk.state == sweeps.WALKING
    with context.stores.target() as cursor:
        allowed = sweeps.approved(cursor, walk.entity)
    return allowed is not None and walk.found.gone <= allowed


def _versions(context: EntityContext) -> dict[str, Any]:
    """What a walk compares under; pages of different ones do not make a whole."""
    return {
        "basis": context.ledger.basis,
        "query": hashlib.sha256(context.entity.origin.sql.encode()).hexdigest(),
        "filled": _is_filled(context),
        "server": _server(context),
    }


def _server(context: EntityContext) -> list[str] | None:
    """The monolith's server as the ledger has recorded it; None where our role may not ask for it."""
    context.stores.confirm_servers()
    known = context.stores.servers.monolith
    return [str(known.system), str(known.timeline), known.changed_at.isoformat()] if known else None


def _renew_until(context: EntityContext, walk: Walk, stop: threading.Event) -> None:
    while not stop.wait(BEAT_SECONDS):
        quietly(partial(sweeps.renew, context.stores, walk))


def _compare_keys(context: EntityContext, walk: Walk, halt: threading.Event) -> None:
    """The next `_PAGE` legacy keys against the ledger's of their range, at most `_PAGE` of these at once."""
    former = rebase.former_digests(context)
    left = _read_page(context, walk, former)
    # a page that is short may lack rows that went while it was read: only an empty one is the end
    until = context.origin.key.position(left) if left.num_rows else None
    if former and left.num_rows:
        walk.found.rebased += rebase.rebase_page(context, left, former, halt)
        if halt.is_set():  # whoever goes on reads this page again, and finds fewer rows of former digests
            with context.stores.target() as cursor:
                sweeps.move(cursor, walk)
            return
    bound: list[str] | None = []
    while bound is not None:
        with context.stores.target() as cursor:
            context.ledger.stage_digests(cursor, left)
            bound = _bound(cursor, context, walk.position, until)
            passed = _staged(cursor, context, bound) if bound else left.num_rows
            differing = _differing(cursor, context, walk, bound or until)
            walk.found.compared += passed
            _queue(cursor, context, walk, differing)
            walk.position = bound or until
            if walk.position is None:
                _leave_keys(cursor, context, walk)
            sweeps.move(cursor, walk)
            crash_point("sweep.page")
        left = left.slice(passed)
        if halt.is_set():
            return


def _read_page(context: EntityContext, walk: Walk, former: Sequence[rebase.FormerDigest]) -> pa.Table:
    """Read the next legacy keys with their digests, and the former digests beside them where rows may bear these."""
    others = {name: sql for digest in former for name, sql in digest.expressions.items()}
    limit = min(_PAGE, rebase.PAGE) if former else _PAGE
    return context.origin.digests(walk.position, limit, *([others] if others else []))


def _leave_keys(cursor: Cursor, context: EntityContext, walk: Walk) -> None:
    """Decide whether the walk lists the files. One that leaves them out answers no request, not even a later one."""
    has_files, share = bool(context.entity.placing_sinks), context.stores.settings.listing_share
    walk.covers_files = not has_files or walk.must_list or sweeps.listing_is_due(cursor, walk.entity, share)
    walk.phase = "files" if has_files and walk.covers_files else "refused"


def _bound(
    cursor: Cursor, context: EntityContext, after: list[str] | None, until: list[str] | None
) -> list[str] | None:
    """The ledger's `_PAGE`th key of a range that holds more; after a mass delete one legacy page may span all keys."""
    key = context.origin.key
    found = copy_out(
        cursor,
        f"SELECT {key.plain('l')} FROM {context.ledger.table} l WHERE {key.after(cursor, 'l', after)}"
        f" AND {key.until(cursor, 'l', until)} AND digest IS NOT NULL ORDER BY {key.ordered('l')}"
        f" OFFSET {_PAGE - 1} LIMIT 2",
        key.schema,
    )
    return key.position(found, 0) if found.num_rows > 1 else None


def _staged(cursor: Cursor, context: EntityContext, until: list[str]) -> int:
    """How many of the staged legacy keys are not above a key."""
    cursor.execute(
        f'SELECT count(*) FROM pg_temp."plan_{context.entity.name}" s'
        f" WHERE {context.origin.key.until(cursor, 's', until)}"
    )
    return int(cursor.fetchone()[0])


def _differing(cursor: Cursor, context: EntityContext, walk: Walk, until: list[str] | None) -> pa.Table:
    """Keys of both sides that differ, of the range after the walk's position; counts those it leaves out."""
    key, name = context.origin.key, context.entity.name
    within = f"{key.after(cursor, 'l', walk.position)} AND {key.until(cursor, 'l', until)}"
    staged = f'(SELECT * FROM pg_temp."plan_{name}" s WHERE {key.until(cursor, "s", until)})'
    found = copy_out(
        cursor,
        f"SELECT {key.first_known('s', 'l')}, s.{DIGEST}, l.digest, l.basis FROM {staged} s FULL JOIN"
        f" (SELECT * FROM {context.ledger.table} l WHERE {within} AND digest IS NOT NULL) l"
        f" ON {key.joins('s', key, 'l')}"
        f" WHERE s.{DIGEST} IS DISTINCT FROM l.digest OR l.basis <> {context.ledger.basis}",
        pa.schema([*key.schema, *_SIDES]),
    )
    both = pc.and_(found.column("found").is_valid(), found.column("kept").is_valid())
    outdated = pc.fill_null(pc.and_kleene(both, pc.not_equal(found.column("basis"), context.ledger.basis)), False)
    walk.found.outdated += pc.sum(outdated).as_py() or 0
    found = found.filter(pc.invert(outdated))
    if walk.filled:
        return found
    known = found.filter(found.column("basis").is_valid())
    walk.found.unfilled += found.num_rows - known.num_rows
    return known


def _queue(cursor: Cursor, context: EntityContext, walk: Walk, differing: pa.Table) -> None:
    """Owe what has changed, but for what was refused as it is; stage what is gone."""
    name, texts = context.entity.name, context.origin.key.texts(differing)
    away = differing.column("found").is_null().combine_chunks()
    gone, changed = texts.filter(away).to_pylist(), texts.filter(pc.invert(away)).to_pylist()
    digests = differing.column("found").filter(pc.invert(away)).to_pylist()
    same = parking.refused_as_they_are(cursor, name, changed, digests, context.ledger.basis)
    due.owe_swept(cursor, name, Reason.SWEEP, [key for key in changed if key not in same], walk.number)
    if guarded(78):
        swept_keys.stage_deleted(cursor, name, gone)
    else:
        due.owe_swept(cursor, name, Reason.SWEEP, gone, walk.number)
    walk.found.changed += len(changed)
    walk.found.gone += len(gone)


def _compare_files(context: EntityContext, walk: Walk, _: threading.Event) -> None:
    """The next page of the legacy bucket's listing."""
    after, began = walk.position[0] if walk.position else None, time.monotonic()
    page = compare_listing(context, after)
    with context.stores.target() as cursor:
        walk.found.files += page.queue(cursor, context, walk)
        walk.position = [page.until] if page.until is not None else None
        walk.phase = "files" if walk.position else "refused"
        sweeps.move(cursor, walk)
        sweeps.note_listing(cursor, walk, time.monotonic() - began, is_first=after is None)
        crash_point("sweep.page")


def _queue_refused(context: EntityContext, walk: Walk, _: threading.Event) -> None:
    """The next dead letters whose rows may no longer be what was refused."""
    after = int(walk.position[0]) if walk.position else 0
    page = read_refused_page(context, after)
    with context.stores.target() as cursor:
        page.wake(cursor)
        walk.position = [str(page.last)] if page.last is not None else None
        walk.phase = "refused" if walk.position else "end"
        sweeps.move(cursor, walk)
        crash_point("sweep.page")


_PHASES: dict[str, Callable[[EntityContext, Walk, threading.Event], None]] = {
    "keys": _compare_keys,
    "files": _compare_files,
    "refused": _queue_refused,
}


def _end(context: EntityContext, walk: Walk, revision: int) -> None:
    """Make what is gone due, and have the walk count.

    Raises BrakeError where the brake holds it, UnreachableError where the monolith's server is another one since the
    revision was drawn: the next walk starts over.
    """
    found, settings = walk.found, context.stores.settings
    total = found.compared + found.gone
    much = found.gone > settings.brake_rows and found.gone > settings.brake_fraction * total
    with context.stores.target() as cursor:
        context.stores.servers.check_read(cursor, revision)
        allowed = sweeps.approved(cursor, walk.entity)
        held = much and guarded(32) and not (allowed is not None and found.gone <= allowed)
        if held:
            sweeps.hold(cursor, walk)
            sweeps.close_approval(cursor, walk.entity, "exceeded")
        else:
            covers_files = walk.covers_files or not guarded(141)
            swept_keys.queue_deleted(cursor, walk.entity, walk.number, covers_files=covers_files)
            sweeps.end(cursor, walk)
            bases.note_walked(cursor, walk.entity, context.ledger.basis, found.outdated)
            sweeps.close_approval(cursor, walk.entity, "used" if much else "not needed")
        crash_point("sweep.ending")
    if held:
        more = f", and {allowed} were approved" if allowed is not None else ""
        raise BrakeError(
            f"entity {walk.entity}: {found.gone} of {total} rows are gone from the monolith, more than SYNC_BRAKE_ROWS"
            f" and SYNC_BRAKE_FRACTION let pass{more}; if that is meant: sync-pipeline sweep approve {walk.entity}"
        )


def _is_filled(context: EntityContext) -> bool:
    with context.stores.target() as cursor:
        cursor.execute("SELECT filled_at IS NOT NULL FROM sync.cursor WHERE entity = %s", (context.entity.name,))
        return bool(cursor.fetchone()[0])
