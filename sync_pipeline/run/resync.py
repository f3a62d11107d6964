"""Resync: rows that a condition names are read and applied again, page by page, whatever a source reported of them."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg2

from sync_pipeline.batch.order import Order, Outcome
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import SettingError
from sync_pipeline.pipeline import sync_page
from sync_pipeline.stores.stores import first_line

CAUSE = "sync --where"


def sync_where(context: EntityContext, condition: str) -> Iterator[Outcome]:
    """Apply the rows of which a condition on the query's columns is true, one outcome for each page.

    Rows that are gone from the monolith fulfil no condition: the sweep finds these. Raises SettingError for a condition
    that does not run, UnreachableError.
    """
    within = f"({condition}\n)"  # a comment at its end ends with the line
    _check(context, condition, within)
    position: list[str] | None = None
    while True:
        outcome = sync_page(context, position, None, within, Order(cause=CAUSE))
        yield outcome
        position = outcome.position
        if position is None:
            return


def _check(context: EntityContext, condition: str, within: str) -> None:
    try:
        with context.stores.legacy_rows() as cursor:
            cursor.execute(f"SELECT FROM ({context.origin.sql}) q WHERE {within} LIMIT 0")
    except psycopg2.ProgrammingError as error:
        columns = ", ".join(context.origin.schema.names[:-1])
        raise SettingError(
            f"--where {condition!r}: {first_line(error)}; the query of {context.entity.name} has the columns {columns}"
        ) from error
