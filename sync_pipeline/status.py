"""Status: where an entity stands, from the ledger alone."""

from __future__ import annotations

from typing import Any

from sync_pipeline.stores import Stores


def status_of(stores: Stores, entity: str) -> dict[str, Any]:
    """Cursor, window, sweep, due work by reason and backfill progress of one entity; empty before its first run."""
    with stores.target() as cursor:
        cursor.execute("SELECT to_regclass('sync.cursor') IS NOT NULL")
        if not cursor.fetchone()[0]:
            return {}
        cursor.execute(
            "SELECT applied_through, window_since, window_holder, blind, swept_at, sweep_error, owner"
            " FROM sync.cursor WHERE entity = %s",
            (entity,),
        )
        row = cursor.fetchone()
        if row is None:
            return {}
        found = dict(zip([column.name for column in cursor.description], row, strict=True))
        cursor.execute(
            "SELECT reason, sum(coalesce(cardinality(keys), 1))::bigint FROM sync.due WHERE entity = %s GROUP BY 1",
            (entity,),
        )
        found["due"] = dict(cursor.fetchall())
        cursor.execute(
            "SELECT count(*) FILTER (WHERE done), count(*) FILTER (WHERE NOT done), sum(rows)::bigint"
            " FROM sync.backfill WHERE entity = %s",
            (entity,),
        )
        done, started, rows = cursor.fetchone()
        found["backfill"] = {"done": done, "unfinished": started, "rows": rows or 0}
    return found
