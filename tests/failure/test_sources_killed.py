"""A follower that goes by an outbox or by the log is killed under eight editors, with the sweep off."""

import sys
import threading

import pytest

from tests.caught._tables import made, unmade
from tests.newsroom import edited, follow, leave_out_the_sweep, settle, was_swept
from tests.world import opened, wait_for

KILLS = 4
_THROUGH = "SELECT min(applied_through) FROM sync.cursor"


@pytest.fixture(params=["outbox", "wal"])
def world(fleet, request):
    """A monolith with what the source needs, and entities that are caught by it."""
    for name in ("text", "video", "audio"):
        sys.modules.pop(f"tests.caught.{name}", None)
    with opened(fleet, "killed", SYNC_ENTITIES="tests.caught", TEST_CAPTURE=request.param) as world:
        world.load(800, 20)
        for name in ("text", "video", "audio"):
            lane = world.lane(name)
            for statement in made(lane):
                world.legacy(statement)
            world.all_in(name)
        yield world
        for lane in world.lanes.values():
            for statement in unmade(lane):
                world.legacy(statement)


def test_nothing_is_lost(world, tmp_path):
    leave_out_the_sweep(world)
    with edited(world, seed=11, without=()) as observer:
        for kill in range(KILLS):
            live = follow(tmp_path / f"{kill}.log")
            ((before,),) = world.target(_THROUGH)
            wait_for(lambda before=before: world.target(_THROUGH) != [(before,)], 60)
            threading.Event().wait(0.3 * kill)  # each at another time after it got going
            live.kill()
    settle(world, tmp_path / "end.log")
    assert not was_swept(world)
    assert world.differences() == []
    assert observer.setbacks == []
