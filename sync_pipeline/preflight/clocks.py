"""The clocks of both database servers and of this machine."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping

from sync_pipeline.db.sql import Cursor
from sync_pipeline.model.notices import Notice
from sync_pipeline.stores.stores import Stores

ABOUT = "clocks"


def check_clocks(stores: Stores) -> Iterator[Notice]:
    """How far the servers' clocks are from ours. Raises UnreachableError."""
    with stores.legacy() as cursor:
        legacy = _ahead(cursor)
    with stores.target() as cursor:
        target = _ahead(cursor)
    yield apart(
        {"this machine": 0.0, "legacy database": legacy, "target database": target}, stores.settings.margin_seconds
    )


def apart(ahead: Mapping[str, float], margin_seconds: float) -> Notice:
    """Whether clocks, each so many seconds ahead of ours, are further apart than SYNC_MARGIN_SECONDS covers."""
    first, last = (pick(ahead, key=lambda name: ahead[name]) for pick in (min, max))
    seconds = ahead[last] - ahead[first]
    if seconds <= margin_seconds:
        return Notice("ok", ABOUT, f"no further apart than {seconds:.1f} s")
    what = f"{last} is {seconds:.1f} s ahead of {first}, SYNC_MARGIN_SECONDS covers {margin_seconds:g}"
    return Notice("warning", ABOUT, what, "set the clocks by NTP, or raise SYNC_MARGIN_SECONDS")


def _ahead(cursor: Cursor) -> float:
    before = dt.datetime.now(dt.UTC)
    cursor.execute("SELECT clock_timestamp()")
    there: dt.datetime = cursor.fetchone()[0]
    after = dt.datetime.now(dt.UTC)
    return (there - (before + (after - before) / 2)).total_seconds()
