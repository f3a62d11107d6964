"""The follower of the awkward monolith is killed under eight writers, and a server with it: nothing is lost."""

import re
import threading
from functools import partial

import pytest

from sync_pipeline.run.sweep_requests import ask_for_sweep
from tests.awkward.changes import overwrite_file
from tests.awkward.ground import awkward_world, behind, differences, installed, unread
from tests.awkward.writers import Writers
from tests.command import Command
from tests.world import wait_for

KILLS = 3
PATIENCE = 180  # seconds
# by the source: seconds between sweeps, the server that goes with it. Seven entities that sweep without a pause would
# leave a restarted server no time to come up
RUNS = {
    "outbox": ("1e9", "target"),
    "wal": ("1e9", "legacy"),
    "watermark": ("3", "search"),
    "sweep": ("2", "objects"),
}
FELT = re.compile("unreachable|left alone|sweep stopped", re.IGNORECASE)
_THROUGH = "SELECT min(applied_through) FROM sync.cursor"


@pytest.mark.parametrize(
    "source",
    ["wal", "sweep", *(pytest.param(name, marks=pytest.mark.long) for name in ("outbox", "watermark"))],
)
def test_nothing_is_lost(fleet, tmp_path, source):
    seconds, server = RUNS[source]
    settings = {"SYNC_SWEEP_SECONDS": seconds, "SYNC_MARGIN_SECONDS": "0.2", "SYNC_BRAKE_ROWS": "100000"}
    settings |= {"SYNC_FUTURE_LIMIT_SECONDS": "2"}  # versions whose transactions were rolled back
    sweeps = float(seconds) < PATIENCE
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
        settle(world, live, swept=sweeps)
        live.interrupt()
        assert live.wait() == 0, live.tail()
        if sweeps:  # the follower's sweeps never rest, so that some of what they find is always still to be written
            last = Command(tmp_path / "last.log", "sync", "--all", "--until-caught-up", SYNC_SWEEP_SECONDS="1e9")
            assert last.wait() == 0, last.tail()
        assert differences(world) == []
        assert writers.committed > 100
        swept = world.target("SELECT 1 FROM sync.cursor WHERE swept_from IS NOT NULL")
        assert bool(swept) is sweeps


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
        wait_for(lambda: FELT.search(live.log.read_text()[said:]) or server.name == "search", PATIENCE)
    finally:
        server.start()
        server.wait_healthy()


def settle(world, live, swept):
    """Wait until all that is committed now is written; where sweeps never rest, until it is read."""
    ((since,),) = world.legacy("SELECT clock_timestamp()")
    for context in world.contexts.values() if swept else ():
        ask_for_sweep(context, since)
    left = partial(unread, world, since) if swept else partial(behind, world, since, swept=False)
    wait_for(lambda: world.hurry() or not left() or not live.alive(), PATIENCE)
    assert live.alive(), live.tail()
