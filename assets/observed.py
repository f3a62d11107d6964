"""What is observed of an entity's sinks: what they hold, how far they are behind and what they owe.

A page shows rows and bytes of the last materialization if it names any, and else of the last observation. Sinks are
observed far more often than they are materialized, so only observations name them.
"""

from __future__ import annotations

import datetime as dt

import dagster as dg

from assets.lineage import sink_keys
from sync_pipeline.entity import Entity
from sync_pipeline.holdings import holdings
from sync_pipeline.status import status_of
from sync_pipeline.stores import Stores

Figures = dict[str, float | int]


def observed(stores: Stores, entity: Entity) -> dict[dg.AssetKey, Figures]:
    """By sink, figures as they are now. Raises UnreachableError."""
    standing, held = _standing(stores, entity), holdings(stores, entity)
    found: dict[dg.AssetKey, Figures] = {key: dict(standing) for key in sink_keys(entity).values()}
    for sink, holding in held.items():
        found[sink_keys(entity)[sink]] |= {"dagster/row_count": holding.rows, "dagster/size_bytes": holding.size}
    return found


def _standing(stores: Stores, entity: Entity) -> Figures:
    status = status_of(stores, entity)
    through = status.get("applied_through")
    behind = (dt.datetime.now(dt.UTC) - through).total_seconds() if through else float("nan")
    return {"seconds behind": round(behind, 2), "due": sum(map(int, status.get("due", {}).values()))}
