"""A cell: a source and a failover. Eight editors go on all the time, and the engine mends all by itself."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from demo.fleet import Fleet
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.operate.status import status_of
from sync_pipeline.run import garbage, recover
from sync_pipeline.sinks.media.ownership import MARK_OBJECT
from sync_pipeline.stores import servers
from tests.failover import Pair, edited_since, paired, writing
from tests.matrix.failovers.captured import SOURCES, UNCLAIMED, captured
from tests.matrix.failovers.lost import Rows, count_lost
from tests.matrix.matrix import FAILS, HOLDS, Cell, Matrix, Outcome
from tests.observer import Observer
from tests.oracle import KINDS
from tests.world import World, wait_for

# figures, and what was wrong
Happened = tuple[dict[str, str], list[str]]
Failover = Callable[[Pair, World, str, int], Happened]

_PATIENCE = 120
_SETTINGS = {
    "SYNC_MARGIN_SECONDS": "0.2",
    "SYNC_RECHECK_SECONDS": "0.2",
    "SYNC_GARBAGE_GRACE_SECONDS": "1",
}
_POLLED = "SELECT 1 FROM sync.batch WHERE cause <> 'backfill' OFFSET 5"
_COMMITS = "SELECT count(DISTINCT xid) FROM demo.edit_log"
_BATCHES = "SELECT count(*) FROM sync.batch"
# a slot that a standby has taken over stays marked as such
_MADE_ANEW = "SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'logical' AND NOT synced"
# what is not done yet; after each failover the engine owes itself a whole sweep
_LEFT = """
    SELECT entity, 'applied through ' || coalesce(applied_through::text, 'nothing') FROM sync.cursor
     WHERE applied_through IS NULL OR applied_through < %(since)s
    UNION ALL SELECT entity, 'not swept' FROM sync.cursor WHERE coalesce(swept_from < sweep_wanted, swept_from IS NULL)
    UNION ALL SELECT entity, 'recovering ' || part FROM sync.recovery WHERE done_at IS NULL
    UNION ALL SELECT entity, concat_ws(' ', reason, message) FROM sync.due WHERE reason <> 'rejected'"""


def play(source: str, failover: Failover, fleet: Fleet, seed: int) -> Outcome:
    """Fail over under editors, wait for the engine, and ask the oracle; the first differences are the outcome."""
    settings = {**_SETTINGS, "SYNC_SWEEP_SECONDS": "2" if source == "sweep" else "1e9"}
    side = "target" if failover is new_side_loses else "legacy"
    name = f"{failover.__name__}_{source}".replace(" ", "_")  # buckets are kept, so each cell has its own
    with _hurried(), _folder() as folder, paired(fleet, folder, side, name, **settings) as (pair, world):
        world.load(200, 40)
        contexts = captured(world, source)
        with world.following(contexts):
            with writing(world, seed, UNCLAIMED.get(source, frozenset())):
                wait_for(lambda: world.target(_POLLED))
                figures, faults = failover(pair, world, source, seed)
            began = time.monotonic()
            ((since,),) = world.legacy("SELECT clock_timestamp()")
            faults += _left_when_settled(world, since)
            figures["settled after, s"] = f"{time.monotonic() - began:.0f}"
            faults += _strays(world)
        faults += [" ".join(difference) for difference in world.differences()]
        faults += _alerts(contexts)
    return Outcome(FAILS if faults else HOLDS, "; ".join(faults[:5])[:400], figures)


def monolith_loses_nothing(pair: Pair, world: World, source: str, seed: int) -> Happened:
    """Commits wait for the standby, which keeps failover slots as well: readers of the new side see nothing go back."""
    pair.follow(with_slots=source == "wal")
    pair.lose_nothing(with_slots=source == "wal")
    if source == "wal":
        wait_for(lambda: pair.has_slots(len(KINDS)), 60)
    with Observer(world.target_url, world.search_url) as observer:
        ((before,),) = world.legacy(_COMMITS)
        pair.fail_over()
        ((after,),) = world.legacy(_COMMITS)
        _wait_for_editors(world)
    faults = [f"{back.where} {back.key} went from {back.before} to {back.after}" for back in observer.setbacks]
    if after < before:
        faults.append(f"{before - after} commits were lost: this is no lossless failover")
    faults += [f"slot {name} was made anew" for (name,) in world.legacy(_MADE_ANEW)]
    return {"lost": "0"}, faults


def monolith_loses(pair: Pair, world: World, source: str, seed: int) -> Happened:
    """Rows are edited, born and deleted, come over, and are lost with the primary, as what editors write then."""
    rows = Rows.make(world, seed)
    pair.follow(with_slots=source == "wal")
    if source == "wal":
        wait_for(lambda: pair.has_slots(len(KINDS)), 60)
    pair.cut_off()
    rows.lose(seed + 1, tells_deletes=source != "watermark")
    lost = count_lost(pair, world, _COMMITS)
    pair.fail_over()
    rows.edit_again()
    _wait_for_editors(world)
    return {"lost": f"{lost} commits"}, [] if lost else ["no commits were lost"]


def new_side_loses(pair: Pair, world: World, source: str, seed: int) -> Happened:
    """Batches that wrote and deleted rows, documents and files are lost, and what they told is no longer so."""
    rows = Rows.make(world, seed)
    pair.follow()
    pair.cut_off()
    rows.lose(seed + 1, tells_deletes=source != "watermark")
    rows.wait_until_file_is_removed()
    lost = count_lost(pair, world, _BATCHES)
    pair.fail_over(rows.undo)
    _wait_for_editors(world)
    return {"lost": f"{lost} batches"}, [] if lost else ["no batches were lost"]


def _wait_for_editors(world: World) -> None:
    """Wait until they have gone on."""
    ((since,),) = world.legacy("SELECT clock_timestamp()")
    wait_for(lambda: edited_since(world, since))


def _left_when_settled(world: World, since: object) -> list[str]:
    """Wait until nothing is left to be done of what is committed by now; what is left when the time is up."""

    def left() -> list[str]:
        world.hurry()
        return [f"not settled: {entity}: {what}" for entity, what in world.target(_LEFT, {"since": since})]

    try:
        wait_for(lambda: not left(), _PATIENCE)
    except AssertionError:
        return left()
    return []


def _alerts(contexts: list[EntityContext]) -> list[str]:
    return [alert for context in contexts for alert in status_of(context.stores, context.entity)["alerts"]]


def _strays(world: World) -> list[str]:
    """Files in the new bucket that the ledger does not know, once the garbage is removed."""

    def found() -> list[str]:
        pages = world.client.get_paginator("list_objects_v2").paginate(Bucket=world.target_bucket)
        listed = {item["Key"] for page in pages for item in page.get("Contents", [])}
        known = {key for (key,) in world.target("SELECT target_key FROM sync.media")}
        return sorted(key for key in listed - known if not key.endswith(MARK_OBJECT))

    try:
        wait_for(lambda: not found())
    except AssertionError:
        return [f"file {key} is unknown" for key in found()]
    return []


@contextmanager
def _hurried() -> Iterator[None]:
    """Waits that are made for slow machines, shorter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recover, "SETTLE_SECONDS", 5.0)
        patch.setattr(servers, "LOOK_SECONDS", 1.0)
        patch.setattr(garbage, "EVERY_SECONDS", 0.5)
        yield


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="failover-") as folder:
        Path(folder).chmod(0o755)  # servers may run under another account
        yield Path(folder)


def _cells() -> Iterator[Cell]:
    for words, failover in FAILOVERS.items():
        for source in SOURCES:
            yield Cell(f"{words}, {source}", partial(play, source, failover))


FAILOVERS = {
    "monolith, nothing lost": monolith_loses_nothing,
    "monolith, commits lost": monolith_loses,
    "new side, commits lost": new_side_loses,
}
FAILOVERS_BY_SOURCE = Matrix("failovers", "Failovers by source", tuple(_cells()))
