"""Filling an index or a table: all legacy rows page by page, each page as any other batch, unchanged rows as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa

from sync_pipeline.batch.order import Order, Outcome
from sync_pipeline.db.sql import Cursor
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.ledger.rebuilds import Rebuild
from sync_pipeline.pipeline import sync_page
from sync_pipeline.rebuild.report import FILLED, Report

CAUSE = "rebuild"


def fill(context: EntityContext, rebuild: Rebuild, order: Callable[[], Order], report: Report) -> None:
    """Go on after the rebuild's position. Raises as sync_keys does, and as the order's `hand_over`."""

    def commit(cursor: Cursor, outcome: Outcome) -> None:
        rebuild.advance(cursor, outcome.position, outcome.read)

    while not rebuild.filled:
        each = replace(order(), commit=commit, cause=CAUSE)
        outcome = sync_page(context, rebuild.position, None, "true", each)
        rebuild.position, rebuild.filled = outcome.position, outcome.position is None
        rebuild.rows += outcome.read
        report(FILLED, outcome.read + outcome.parked)
        pa.default_memory_pool().release_unused()  # as a backfill does
