"""What is observed of an entity's sinks: what they hold, how far they are behind and what they owe.

A page shows rows and bytes of the last materialization if it names any, and else of the last observation. Sinks are
observed far more often than they are materialized, so only observations name them.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import dagster as dg

from assets.lineage import sink_keys
from checks.dead_letter_pages import dead_letter_page
from sync_pipeline.entity import Entity
from sync_pipeline.model.reasons import DEAD_LETTERS
from sync_pipeline.operate.sink_sizes import sink_sizes
from sync_pipeline.operate.status import status_of
from sync_pipeline.queue import dead_letters
from sync_pipeline.stores.stores import Stores

Figures = dict[str, float | int | dg.MarkdownMetadataValue]


def observed(stores: Stores, entity: Entity) -> dict[dg.AssetKey, Figures]:
    """By sink, figures as they are now. Raises UnreachableError."""
    status, held, keys = status_of(stores, entity), sink_sizes(stores, entity), sink_keys(entity)
    found: dict[dg.AssetKey, Figures] = {key: _lag(status) for key in keys.values()}
    for sink, size in held.items():
        found[keys[sink]] |= {"dagster/row_count": size.rows, "dagster/size_bytes": size.size}
    if status:
        found[keys["relational"]] |= _dead_letters(stores, entity)
    return found


def _dead_letters(stores: Stores, entity: Entity) -> Figures:
    """Dead letters as a page; nothing where there are none."""
    with stores.target() as cursor:
        causes = dead_letters.overview(cursor, dead_letters.DeadLetterFilter(entity.name), 0).causes
    return {"dead letters": dg.MetadataValue.md(dead_letter_page(entity.name, causes))} if causes else {}


def _lag(status: dict[str, Any]) -> Figures:
    through = status.get("applied_through")
    behind = (dt.datetime.now(dt.UTC) - through).total_seconds() if through else float("nan")
    queued = sum(int(keys) for reason, keys in status.get("due", {}).items() if reason not in DEAD_LETTERS)
    return {"seconds behind": round(behind, 2), "due": queued}
