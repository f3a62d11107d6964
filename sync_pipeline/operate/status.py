"""Status: where an entity stands, from the ledger; only slots are asked of the monolith."""

from __future__ import annotations

from typing import Any

from sync_pipeline.db.sql import Cursor
from sync_pipeline.entities.files import read_entity_files
from sync_pipeline.entity import Entity
from sync_pipeline.errors import SyncError
from sync_pipeline.ledger import queue_reads, rebuilds, sinks, upkeep
from sync_pipeline.ledger.backfills import missing_partitions, unfilled
from sync_pipeline.ledger.bases import count_former
from sync_pipeline.ledger.ledger import table_of
from sync_pipeline.ledger.servers import recovery_of
from sync_pipeline.queue.parking import NOT_UNDONE
from sync_pipeline.run.sweep_status import listing_progress, sweep_alerts, sweep_progress
from sync_pipeline.settings import Settings
from sync_pipeline.sources.slots import orphan_alerts, slot_alerts
from sync_pipeline.stores.stores import Stores

_CURSOR = """
    SELECT applied_through, extract(epoch FROM now() - applied_through)::float AS lag_seconds,
           window_since, extract(epoch FROM now() - window_since)::float AS window_seconds, window_holder, blind,
           swept_at, sweep_error, source, coalesce(gap_at > coalesce(swept_from, '-infinity'), false) AS gap,
           (state ->> 'retained_bytes')::bigint AS retained_bytes, owner,
           coalesce(lease_until > now(), false) AS followed,
           jsonb_build_object('deferred', events_deferred, 'dropped', events_dropped, 'unmet', events_unmet) AS events,
           coalesce(unmet_at > now() - interval '1 day', false) AS lately_unmet,
           (SELECT max(h.name) FROM sync.heartbeat h WHERE h.seen_at > now() - interval '1 minute'
            AND to_jsonb(h) -> 'hanging' ? entity) AS hangs_in,
           (SELECT s.cause FROM sync.server s WHERE s.side = 'monolith'
             AND s.changed_at > coalesce(cursor.swept_at, '-infinity')) AS server_changed
    FROM sync.cursor WHERE entity = %s
"""


def status_of(stores: Stores, entity: Entity) -> dict[str, Any]:
    """Cursor, window, sweep, listing, due work, backfill, a rebuild under way, rows of former digests, alerts.

    Empty before the first run.

    Raises UnreachableError.
    """
    with stores.target() as cursor:
        cursor.execute("SELECT to_regclass('sync.cursor') IS NOT NULL")
        if not cursor.fetchone()[0]:
            return {}
        cursor.execute(_CURSOR, (entity.name,))
        row = cursor.fetchone()
        if row is None:
            return {}
        found = dict(zip([column.name for column in cursor.description], row, strict=True))
        found["due"] = queue_reads.keys_by_reason(cursor, entity.name)
        found["backfill"] = _backfill(cursor, entity)
        found["rebuild"] = rebuilds.shown(cursor, entity.name)
        found["sweep"] = sweep_progress(cursor, entity.name)
        found["listing"] = listing_progress(cursor, entity.name, stores.settings) if entity.placing_sinks else None
        found["former_digests"] = count_former(cursor, entity.name, table_of(entity.name))
        found["recovery"] = recovery_of(cursor, entity.name)
        found["filling"] = [sink.name for sink in sinks.filling(cursor, entity.name, entity.sink_names)]
        alerts = [*_hanging(found.pop("hangs_in")), *_alerts(found, stores.settings), *_filling(found["filling"])]
        alerts += sweep_alerts(cursor, entity.name, found["sweep"], found["listing"], stores.settings)
        alerts += upkeep.alerts(cursor, stores.settings.history_days)
        found["alerts"] = [*alerts, *_outages(cursor, entity.name), *_not_undone(cursor, entity.name)]
    found["alerts"] += [*slot_alerts(stores, entity.name, entity.capture.name == "wal", found["alerts"])]
    found["alerts"] += _orphaned_slots(stores, entity)
    return found


def _orphaned_slots(stores: Stores, entity: Entity) -> list[str]:
    """Slots of entities that are gone: an alert of the deployment's first entity, so that it comes once."""
    try:
        files = read_entity_files(stores.settings.entities)
    except SyncError:
        return []  # check says what is wrong with the files
    names = {*files.entities}
    if files.broken or not names:
        return []  # the slot may be that of a file that cannot be read now
    return orphan_alerts(stores, names) if entity.name == min(names) else []


def _backfill(cursor: Cursor, entity: Entity) -> dict[str, Any]:
    """How much of the history is in as the entity's present version makes it."""
    cursor.execute(
        "SELECT count(*) FILTER (WHERE done), count(*) FILTER (WHERE NOT done), coalesce(sum(rows), 0)::bigint"
        " FROM sync.backfill f JOIN sync.basis b ON b.id = f.basis WHERE (f.entity, b.entity_version) = (%s, %s)",
        (entity.name, entity.version),
    )
    done, unfinished, rows = cursor.fetchone()
    missing = missing_partitions(cursor, entity.name, entity.partitions)
    return {
        "declared": max(done, len(missing) + _done_of_any(cursor, entity.name)),
        "done": done,
        "unfinished": unfinished,
        "rows": rows,
        "missing": unfilled(cursor, entity.name, entity.partitions),
    }


def _done_of_any(cursor: Cursor, entity: str) -> int:
    cursor.execute("SELECT count(*) FROM sync.backfill WHERE entity = %s AND done", (entity,))
    return int(cursor.fetchone()[0])


def _alerts(found: dict[str, Any], settings: Settings) -> list[str]:
    """What somebody should look at."""
    alerts = []
    if (found["window_seconds"] or 0) > settings.window_alert_seconds:
        alerts.append(
            f"a transaction of the monolith has been open for {found['window_seconds']:.0f} s"
            f" (SYNC_WINDOW_ALERT_SECONDS is {settings.window_alert_seconds:g}): {found['window_holder']}"
        )
    if found["blind"]:
        alerts.append(str(found["blind"]))
    if (found["retained_bytes"] or 0) > settings.wal_alert_bytes:
        alerts.append(
            f"the slot keeps {found['retained_bytes']:,} bytes of the monolith's log"
            f" (SYNC_WAL_ALERT_BYTES is {settings.wal_alert_bytes:,})"
        )
    if found["lately_unmet"]:
        alerts.append(
            f"{found['events']['unmet']:,} events told versions that their rows did not show within"
            f" SYNC_FUTURE_LIMIT_SECONDS ({settings.future_limit_seconds:g}): the rows were taken as they stood"
        )
    if found["gap"]:
        alerts.append("the source of changes began anew: what it may have missed waits for the sweep")
    if found["server_changed"]:
        alerts.append(
            f"{found['server_changed']}, so that commits may be lost: until the next whole sweep, rows may be over that"
            " the monolith does not hold any more"
        )
    if left := found["recovery"]:
        alerts.append(
            f"{left['cause']}, so that commits may be lost: its {', '.join(left['parts'])} are being compared with the"
            f" ledger ({left['checked']:,} checked, {left['queued']:,} queued), and until that has ended nothing is"
            " called clean or drained"
        )
    if found["rebuild"] and not found["rebuild"]["at_work"]:
        cut = found["rebuild"]
        alerts.append(
            f"the rebuild of {cut['name']} was cut off: sync-pipeline rebuild {cut['kind']} goes on with it,"
            " rebuild abandon gives it up"
        )
    if found["sweep_error"]:
        alerts.append(f"the last sweep stopped: {found['sweep_error']}")
    return alerts


def _filling(names: list[str]) -> list[str]:
    """Sinks that lack rows."""
    return [f"{', '.join(names)}: new, or at another place, and filled now with the rows that are there"] * bool(names)


def _hanging(worker: str | None) -> list[str]:
    """A worker that lives, but whose poll of the entity does not move."""
    if worker is None:
        return []
    return [f"its poll hangs in {worker}: another follower may take it over; if none does, start that one again"]


def _not_undone(cursor: Cursor, entity: str) -> list[str]:
    """Compensations that fail."""
    count, since, message = queue_reads.with_error(cursor, entity, NOT_UNDONE)
    detail = f"{count} rows whose documents were refused since {since} could not be put back: {message}"
    return [detail] if count else []


def _outages(cursor: Cursor, entity: str) -> list[str]:
    return [
        f"{one.keys} keys wait for a store (due: {one.reason}) since {one.since:%Y-%m-%d %H:%M:%S}: {one.message}"
        for one in queue_reads.outages(cursor, entity)
    ]
