"""Keys: does the query give each of them once?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sync_pipeline.db.keys import Key
from sync_pipeline.entities.origin import Origin
from sync_pipeline.entity import Entity
from sync_pipeline.errors import UnreachableError
from sync_pipeline.model.notices import Notice
from sync_pipeline.preflight.key_order import ERROR_ROWS, estimate
from sync_pipeline.stores.sessions import Purpose

_SHOWN = 3


def check_repeated_keys(about: str, origin: Origin, entity: Entity) -> Iterator[Notice]:
    """Name keys that the query gives more than once; a query of many rows is not read whole for that.

    Raises UnreachableError.
    """
    with origin.stores.legacy() as cursor:
        if estimate(cursor, origin) > ERROR_ROWS:
            return
    try:
        if found := _repeated(origin, origin.key):
            what = f"the query gives a key ({_columns(origin.key)}) more than once, {_example(found)}"
            remedy = "join or aggregate so that each key has one row, or add a column to the key"
            yield Notice("error", about, f"{what}: such rows are parked", remedy)
            return
        table = entity.table
        if table.outer_key and table.where is None:  # of several rows the table may be meant to hold one
            own = table.identity_of(origin.key)
            if found := _repeated(origin, own):
                what = (
                    f"the query gives several rows with one primary_key of {table.name} ({_columns(own)}),"
                    f" {_example(found)}: all but one of them are parked"
                )
                remedy = "correct the query, or leave out primary_key, so that the table holds a row for each"
                yield Notice("error", about, what, remedy)
    except UnreachableError:
        return  # it takes too long here; a batch parks what it finds


def _repeated(origin: Origin, key: Key) -> list[Any]:
    """Some keys, or parts of them, that several rows have."""
    keys = key.plain("q")
    with origin.stores.legacy_rows(Purpose.POLL) as cursor:
        cursor.execute(
            f"SELECT {keys} FROM ({origin.sql}) q WHERE ({keys}) IS NOT NULL GROUP BY {keys} HAVING count(*) > 1"
            f" LIMIT {_SHOWN}"
        )
        return list(cursor.fetchall())


def _columns(key: Key) -> str:
    return ", ".join(key.columns)


def _example(found: list[Any]) -> str:
    return f"for example {'; '.join(', '.join(map(str, key)) for key in found)}"
