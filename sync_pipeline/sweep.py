"""The sweep: keys and digests of both sides compared, to find what no source reports.

Hard deletes, renamed authors, bulk updates without a stamp, and files overwritten under one key (by listing).
What it finds is owed in `due`, behind fresh edits; it writes nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from botocore.exceptions import BotoCoreError, ClientError

from sync_pipeline import due, parking
from sync_pipeline.errors import BrakeError, UnreachableError
from sync_pipeline.faults import guarded
from sync_pipeline.lane import Lane
from sync_pipeline.ledger.ledger import next_revision
from sync_pipeline.ledger.servers import take_back_claims
from sync_pipeline.origin import DIGEST
from sync_pipeline.sql import bind, copy_out

_PAGE = 50_000
_LOOK_SECONDS = 0.5
_SIDES = pa.schema([("found", pa.int64()), ("kept", pa.int64()), ("basis", pa.int32())])


@dataclass
class Swept:
    """What a whole sweep found, in keys."""

    compared: int = 0
    changed: int = 0
    gone: int = 0
    outdated: int = 0  # written under another version of adapter or digest: a backfill is due
    unfilled: int = 0  # not in the ledger, and the history is not all in: the backfill brings them
    files: int = 0  # rows whose file is no longer the one that was copied, and that were not owed yet


def sweep(lane: Lane) -> Swept:
    """Compare all keys, and owe what differs.

    Raises BrakeError when it would delete more than the brake allows, UnreachableError when a side could not be
    read to its end: nothing is derived from a part. Either is kept for `status`, until a sweep comes to its end.
    """
    try:
        return _sweep(lane)
    except (BrakeError, UnreachableError) as error:
        with suppress(UnreachableError), lane.stores.target() as cursor:
            cursor.execute("UPDATE sync.cursor SET sweep_error = %s WHERE entity = %s", (str(error), lane.entity.name))
        raise


def _sweep(lane: Lane) -> Swept:
    filled = _is_filled(lane)
    revision = next_revision(lane.stores)
    began = lane.stores.legacy_now()
    swept = Swept()
    changed: list[str] = []
    gone: list[str] = []
    for found in _differences(lane, swept):
        known = found.column("basis").is_valid()
        table = found if filled else found.filter(known)
        swept.unfilled += found.num_rows - table.num_rows
        texts = lane.origin.key.texts(table)
        away = table.column("found").is_null()
        gone += texts.filter(away.combine_chunks()).to_pylist()
        changed += texts.filter(pc.invert(away).combine_chunks()).to_pylist()
    _brake(lane, swept.compared, len(gone))
    rewritten = _rewritten_files(lane) if lane.entity.media else []
    swept.changed, swept.gone, swept.files = len(changed), len(gone), len(rewritten)
    keys = sorted({*changed, *gone})
    lane.stores.confirm_servers()
    with lane.stores.target() as cursor:
        lane.stores.servers.check_read(cursor, revision)
        cursor.execute("DELETE FROM sync.due WHERE entity = %s AND reason = 'sweep'", (lane.entity.name,))
        due.owe(cursor, lane.entity.name, "sweep", keys, 0)
        due.owe(cursor, lane.entity.name, "media", rewritten, 0)
        parking.look_again(cursor, lane.entity.name, keys)
        cursor.execute(
            "UPDATE sync.cursor SET swept_from = CASE WHEN %s OR filled_at IS NULL THEN %s ELSE swept_from END,"
            " swept_at = now(), sweep_error = NULL WHERE entity = %s",
            (filled, began, lane.entity.name),  # the history may have come in meanwhile
        )
    return swept


def sweep_is_due(lane: Lane) -> bool:
    """Whether the last whole sweep is too long ago, or somebody waits for a newer one."""
    with lane.stores.target() as cursor:
        cursor.execute(
            "SELECT swept_at IS NULL OR swept_at < now() - %s * interval '1 s'"
            " OR coalesce(sweep_wanted > coalesce(swept_from, '-infinity'), false) FROM sync.cursor WHERE entity = %s",
            (lane.stores.settings.sweep_seconds, lane.entity.name),
        )
        return bool(cursor.fetchone()[0])


def ask_for_sweep(lane: Lane, since: object) -> None:
    """Have whoever follows the entity sweep again, unless the last sweep began after `since` (legacy time)."""
    with lane.stores.target() as cursor:
        take_back_claims(cursor, since, lane.entity.name)
        cursor.execute("UPDATE sync.cursor SET sweep_wanted = %s WHERE entity = %s", (since, lane.entity.name))


def await_sweep(lane: Lane, seconds: float) -> bool:
    """Have whoever follows the entity sweep, and wait until what it found is applied; False when nobody follows.

    Waits no longer than `seconds`. Raises UnreachableError.
    """
    name = lane.entity.name
    with lane.stores.target() as cursor:
        cursor.execute("SELECT coalesce(lease_until > now(), false) FROM sync.cursor WHERE entity = %s", (name,))
        if not cursor.fetchone()[0]:
            return False
    since = lane.stores.legacy_now()
    ask_for_sweep(lane, since)
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and not _is_swept(lane, since):
        threading.Event().wait(_LOOK_SECONDS)
    return True


def _is_swept(lane: Lane, since: object) -> bool:
    with lane.stores.target() as cursor:
        cursor.execute(
            "SELECT coalesce(swept_from >= %s, false) AND NOT EXISTS (SELECT FROM sync.due d"
            " WHERE d.entity = c.entity AND d.reason IN ('sweep', 'media')) FROM sync.cursor c WHERE entity = %s",
            (since, lane.entity.name),
        )
        return bool(cursor.fetchone()[0])


def _is_filled(lane: Lane) -> bool:
    with lane.stores.target() as cursor:
        cursor.execute("SELECT filled_at IS NOT NULL FROM sync.cursor WHERE entity = %s", (lane.entity.name,))
        return bool(cursor.fetchone()[0])


def _differences(lane: Lane, swept: Swept) -> Iterator[pa.Table]:
    """Key ranges that hold `_PAGE` legacy keys each, compared in the target's database."""
    after: list[str] | None = None
    while True:
        legacy = lane.origin.digests(after, _PAGE)
        last = legacy.num_rows < _PAGE
        until = None if last else lane.origin.key.position(legacy)
        found = _compare_range(lane, legacy, after, until)
        swept.compared += legacy.num_rows
        outdated = pc.and_kleene(
            pc.and_kleene(found.column("found").is_valid(), found.column("kept").is_valid()),
            pc.not_equal(found.column("basis"), lane.ledger.basis),
        )
        outdated = pc.fill_null(outdated, False)
        swept.outdated += pc.sum(outdated).as_py() or 0
        yield found.filter(pc.invert(outdated))
        if last:
            return
        after = until


def _compare_range(lane: Lane, legacy: pa.Table, after: list[str] | None, until: list[str] | None) -> pa.Table:
    key, name = lane.origin.key, lane.entity.name
    with lane.stores.target() as cursor:
        lane.ledger.stage_digests(cursor, legacy)
        within = f"{key.after(cursor, 'l', after)} AND {key.until(cursor, 'l', until)}"
        columns = ", ".join(f"coalesce(s.{c}, l.{c}) AS {c}" for c in key.plain().split(", "))
        return copy_out(
            cursor,
            f'SELECT {columns}, s.{DIGEST}, l.digest, l.basis FROM pg_temp."plan_{name}" s FULL JOIN'
            f" (SELECT * FROM {lane.ledger.table} l WHERE {within} AND digest IS NOT NULL) l"
            f" ON {key.joins('s', key, 'l')}"
            f" WHERE s.{DIGEST} IS DISTINCT FROM l.digest OR l.basis <> {lane.ledger.basis}",
            pa.schema([*key.schema, *_SIDES]),
        )


def _brake(lane: Lane, compared: int, gone: int) -> None:
    settings = lane.stores.settings
    if guarded(32) and gone > settings.brake_rows and gone > settings.brake_fraction * (compared + gone):
        raise BrakeError(
            f"entity {lane.entity.name}: {gone} of {compared + gone} rows are gone from the monolith;"
            " if that is meant, raise SYNC_BRAKE_FRACTION or SYNC_BRAKE_ROWS"
        )


def _rewritten_files(lane: Lane) -> list[str]:
    """Keys of rows whose file in the legacy bucket is no longer the one that was copied."""
    with lane.stores.target() as cursor:
        cursor.execute("CREATE TEMP TABLE IF NOT EXISTS listing (source_key text, etag text) ON COMMIT DELETE ROWS")
        for page in _listing(lane):  # some stores list a file without its ETag while it is being written
            values = ",".join(bind(cursor, (item["Key"], item.get("ETag"))) for item in page)
            cursor.execute(f"INSERT INTO listing VALUES {values}")
        cursor.execute(
            "SELECT DISTINCT r.key FROM sync.media_ref r LEFT JOIN sync.media m USING (target_key)"
            " LEFT JOIN listing l ON l.source_key = r.source_key"
            " WHERE r.entity = %s AND l.etag IS DISTINCT FROM m.source_etag AND NOT EXISTS (SELECT FROM sync.due d"
            "   WHERE d.entity = r.entity AND (d.reason = 'media' AND r.key = ANY(d.keys)"
            "     OR (d.reason = %s OR d.undone_at IS NOT NULL) AND r.key = d.key)) ORDER BY 1",
            (lane.entity.name, due.DISCARDED),
        )
        return [key for (key,) in cursor.fetchall()]


def _listing(lane: Lane) -> Iterator[list[Any]]:
    pages = lane.stores.legacy_s3.get_paginator("list_objects_v2")
    try:
        for page in pages.paginate(Bucket=lane.stores.settings.legacy_bucket.name):
            if page.get("Contents"):
                yield list(page["Contents"])
    except (BotoCoreError, ClientError) as error:
        raise UnreachableError(f"SYNC_LEGACY_S3_BUCKET could not be listed to its end: {error}") from error
