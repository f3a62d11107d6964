"""Keys: does the query give each of them once?"""

from __future__ import annotations

from collections.abc import Iterator

from sync_pipeline.errors import UnreachableError
from sync_pipeline.origin import Origin
from sync_pipeline.preflight.key_order import ERROR_ROWS, estimate
from sync_pipeline.preflight.notice import Notice
from sync_pipeline.sessions import Purpose

_SHOWN = 3


def look_at_repeated_keys(about: str, origin: Origin) -> Iterator[Notice]:
    """Name keys that the query gives more than once; a query of many rows is not read whole for that.

    Raises UnreachableError.
    """
    keys = origin.key.plain("q")
    with origin.stores.legacy() as cursor:
        if estimate(cursor, origin) > ERROR_ROWS:
            return
    try:
        with origin.stores.legacy_rows(Purpose.POLL) as cursor:
            cursor.execute(
                f"SELECT {keys} FROM ({origin.sql}) q WHERE ({keys}) IS NOT NULL GROUP BY {keys} HAVING count(*) > 1"
                f" LIMIT {_SHOWN}"
            )
            found = cursor.fetchall()
    except UnreachableError:
        return  # it takes too long here; a batch parks what it finds
    if found:
        names = "; ".join(", ".join(map(str, key)) for key in found)
        columns = ", ".join(origin.key.columns)
        what = f"the query gives a key ({columns}) more than once, for example {names}: such rows are parked"
        yield Notice("error", about, what, "join or aggregate so that each key has one row, or add a column to the key")
