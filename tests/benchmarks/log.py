"""What the log costs a batch: bytes, and time beside the same batch without it, turn by turn.

python -m tests.benchmarks.log
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from demo.fleet import down, up
from demo.home import Home
from sync_pipeline.batch.order import Order
from sync_pipeline.lane import Lane
from sync_pipeline.ledger.log import Entry
from sync_pipeline.pipeline import sync_keys
from tests.world import World, opened

_EDIT = "UPDATE content SET title = title || '.', updated_at = clock_timestamp() WHERE id = ANY(%s)"


@contextmanager
def _without() -> Iterator[None]:
    with patch.object(Entry, "write", lambda *_: None):
        yield


def _seconds(world: World, lane: Lane, keys: list[int]) -> float:
    """One batch of changed rows, documents left to others."""
    world.legacy(_EDIT, (keys,))
    table = lane.origin.key.parse(map(str, keys))
    began = time.perf_counter()
    sync_keys(lane, table, Order(acknowledge=True, hand_over=lambda _: None))
    return time.perf_counter() - began


def _measured(world: World, lane: Lane, keys: list[int], turns: int) -> None:
    logged, bare = [], []
    for _ in range(turns):
        logged.append(_seconds(world, lane, keys))
        with _without():
            bare.append(_seconds(world, lane, keys))
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
                lane = world.all_in("text")
                keys = [key for (key,) in world.target("SELECT id FROM catalog.text ORDER BY id")]
                for rows, turns in ((40, 300), (3_600, 10)):
                    _measured(world, lane, keys[:rows], turns)
        finally:
            down(home)


if __name__ == "__main__":
    main()
