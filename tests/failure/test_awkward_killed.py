"""The follower of the awkward monolith is killed under eight writers, and a server with it: nothing is lost."""

import threading

import pytest

from tests.awkward.changes import overwrite_file
from tests.awkward.ground import awkward_world, behind, differences, installed
from tests.awkward.writers import Writers
from tests.command import Command
from tests.world import wait_for

KILLS = 3
PATIENCE = 180  # seconds
# (source, seconds between sweeps, the server that goes with it)
RUNS = [("outbox", "1e9", "target"), ("wal", "1e9", "legacy"), ("watermark", "1", "search")]
_THROUGH = "SELECT min(applied_through) FROM sync.cursor"


@pytest.mark.parametrize(("source", "seconds", "server"), RUNS)
def test_nothing_is_lost(fleet, tmp_path, source, seconds, server):
    settings = {"SYNC_SWEEP_SECONDS": seconds, "SYNC_MARGIN_SECONDS": "0.2", "SYNC_BRAKE_ROWS": "100000"}
    with awkward_world(fleet, f"killed_{source}", source, rows=120, **settings) as world, installed(world):
        world.backfill()
        world.target("UPDATE sync.cursor SET swept_at = now()")
        # bytes that are overwritten by a transaction that a kill ends are nobody's to tell
        with Writers(world, seed=9, without=frozenset({overwrite_file})).at_work() as writers:
            for kill in range(KILLS):
                live = follow(tmp_path / f"{kill}.log")
                moved_on(world)
                threading.Event().wait(0.3 * kill)  # each at another time after it got going
                live.kill()
            live = follow(tmp_path / "live.log")
            moved_on(world)
            restart(getattr(fleet, server), live)
            moved_on(world)
        settle(world, live, swept=source == "watermark")
        live.interrupt()
        assert live.wait() == 0, live.tail()
        assert differences(world) == []
        assert writers.committed > 100
        swept = world.target("SELECT 1 FROM sync.cursor WHERE swept_from IS NOT NULL")
        assert bool(swept) is (source == "watermark")


def follow(log):
    return Command(log, "sync", "--all", "--follow")


def moved_on(world):
    """The follower has got going, or got on."""
    ((before,),) = world.target(_THROUGH)
    wait_for(lambda: world.target(_THROUGH) != [(before,)], PATIENCE)


def restart(server, live):
    """Kill it under the follower and the writers; it comes back when the follower has felt it."""
    said = len(live.log.read_text())
    server.kill()
    try:
        wait_for(lambda: "unreachable" in live.log.read_text()[said:].lower() or server.name == "search", PATIENCE)
    finally:
        server.start()
        server.wait_healthy()


def settle(world, live, swept):
    """Until all that is committed now is done."""
    ((since,),) = world.legacy("SELECT clock_timestamp()")
    world.hurry()
    wait_for(lambda: not behind(world, since, swept=swept) or not live.alive(), PATIENCE)
    assert live.alive(), live.tail()
