"""What the log costs a batch: bytes, time beside the same batch without it, turn by turn, and time of its statements.

python -m tests.benchmarks.log
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from demo.fleet import down, up
from demo.home import Home
from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.ledger.log import BODY, Entry, pack, unpack
from sync_pipeline.pipeline import sync_keys
from tests.world import World, opened

_TURNS = 300
_EDIT = "UPDATE content SET title = title || '.', updated_at = clock_timestamp() WHERE id = ANY(%s)"


@contextmanager
def _without() -> Iterator[None]:
    with patch.object(Entry, "write", lambda *_: None):
        yield


def _seconds(world: World, context: EntityContext, keys: list[int]) -> float:
    """One batch of changed rows, documents left to others."""
    world.legacy(_EDIT, (keys,))
    table = context.origin.key.parse(map(str, keys))
    began = time.perf_counter()
    sync_keys(context, table, Order(acknowledge=True, hand_over=lambda _: None))
    return time.perf_counter() - began


def _alone(world: World, context: EntityContext, rows: int) -> None:
    """The log's part of a batch alone: made here, written there; the rest of the batch is no noise in it."""
    with context.stores.target() as cursor:
        cursor.execute("SELECT revision, size, body FROM sync.batch WHERE rows = %s ORDER BY id DESC LIMIT 1", (rows,))
        revision, size, packed = cursor.fetchone()
        body = unpack(packed, size, BODY)
        entry = Entry("text", revision, 1, "poll", context.stores.worker, "", rows, 0, 0, rows, 0)
        made, written, journeys = [], [], []
        for _ in range(_TURNS):
            made.append(_time(lambda: pack(body)))
            journeys.append(_time(lambda: cursor.execute("SELECT 1")))
            entry.write(cursor, body)
            written.append(_time(lambda: cursor.execute("SELECT 1")))
        cursor.roll_back()
        cursor.execute("BEGIN")
    there = statistics.median(written) - statistics.median(journeys)
    print(f"{rows:5,} rows, alone: packed in {1e3 * statistics.median(made):.3f} ms, written in {1e3 * there:.3f} ms")


def _time(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def _measured(world: World, context: EntityContext, keys: list[int], turns: int) -> None:
    logged, bare = [], []
    for _ in range(turns):
        logged.append(_seconds(world, context, keys))
        with _without():
            bare.append(_seconds(world, context, keys))
    ((size,),) = world.target("SELECT avg(pg_column_size(b.*)) FROM sync.batch b WHERE rows = %s", (len(keys),))
    with_it, without = statistics.median(logged), statistics.median(bare)
    differences = sorted(a - b for a, b in zip(logged, bare, strict=True))
    low, high = (differences[len(differences) * part // 4] for part in (1, 3))
    print(
        f"{len(keys):5,} rows: {size:,.0f} bytes; {1e3 * with_it:.2f} ms with the log, {1e3 * without:.2f} without;"
        f" in pairs {1e3 * statistics.median(differences):+.2f} ms (quartiles {1e3 * low:+.2f} to {1e3 * high:+.2f})"
    )


def main() -> None:
    """Two sizes of batches on servers of their own."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        try:
            with opened(up(home), "log") as world:
                world.load(8_000, 0)
                context = world.all_in("text")
                keys = [key for (key,) in world.target("SELECT id FROM catalog.text ORDER BY id")]
                for rows, turns in ((40, 300), (3_600, 10)):
                    _measured(world, context, keys[:rows], turns)
                    _alone(world, context, rows)
        finally:
            down(home)


if __name__ == "__main__":
    main()
