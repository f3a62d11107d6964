"""A follower is killed under eight editors, and the monolith's server with it: by outbox and log with the sweep off."""

import re
import sys
import threading

import pytest

from tests.installed import made, unmade
from tests.newsroom import edited, follow, leave_out_the_sweep, settle, was_swept
from tests.world import opened, wait_for

KILLS = 4
RESTARTED = 2
PATIENCE = 120  # seconds
SETTINGS = {"outbox": {}, "wal": {}, "sweep": {"SYNC_SWEEP_SECONDS": "1", "SYNC_BRAKE_ROWS": "100000"}}
FELT = re.compile("store unreachable|sweep stopped")
_THROUGH = "SELECT min(applied_through) FROM sync.cursor"


@pytest.fixture(params=SETTINGS)
def source(request):
    return request.param


@pytest.fixture
def world(fleet, source):
    """A monolith with what the source needs, and entities that are caught by it."""
    for name in ("text", "video", "audio"):
        sys.modules.pop(f"tests.caught.{name}", None)
    with opened(fleet, "killed", SYNC_ENTITIES="tests.caught", TEST_CAPTURE=source) as world:
        world.load(800, 20)
        for name in ("text", "video", "audio"):
            context = world.context(name)
            for statement in made(context):
                world.legacy(statement)
            world.all_in(name)
        world.target("UPDATE sync.cursor SET filled_at = now()")  # a key the ledger lacks was missed
        yield world
        for context in world.contexts.values():
            for statement in unmade(context):
                world.legacy(statement)


def moved_on(world):
    """The follower has got going, or got on."""
    ((before,),) = world.target(_THROUGH)
    wait_for(lambda: world.target(_THROUGH) != [(before,)], PATIENCE)


def restart(server, live):
    """Kill the server; it comes back when the follower has felt it."""
    server.kill()
    try:
        wait_for(lambda: FELT.search(live.tail()), PATIENCE)
    finally:
        server.start()
        server.wait_healthy()


@pytest.mark.hazard(8)
def test_nothing_is_lost(world, source, tmp_path):
    leave_out_the_sweep(world)
    # often late: the monolith's restart undoes those that are open, and editors have few seconds left after it
    with edited(world, seed=11, without={"overwrite_file"}, late_every=1) as observer:
        for kill in range(KILLS):
            live = follow(tmp_path / f"{kill}.log", **SETTINGS[source])
            moved_on(world)
            if kill == RESTARTED:
                restart(world.fleet.legacy, live)
                moved_on(world)
            threading.Event().wait(0.3 * kill)  # each at another time after it got going
            live.kill()
    settle(world, tmp_path / "end.log", **SETTINGS[source])
    assert was_swept(world) is (source == "sweep")
    assert world.differences() == []
    assert observer.setbacks == []
