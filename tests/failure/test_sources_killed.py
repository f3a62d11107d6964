"""A follower that goes by an outbox or by the log is killed under eight editors, with the sweep off."""

import sys
import threading

import pytest

from sync_pipeline.capture import subject_of
from sync_pipeline.sources import outbox_tables, publication
from sync_pipeline.sources.outbox import Outbox
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
            for statement in _made(lane):
                world.legacy(statement)
            world.all_in(name)
        yield world
        for lane in world.lanes.values():
            for statement in _unmade(lane):
                world.legacy(statement)


def _made(lane):
    if isinstance(lane.entity.capture, Outbox):
        return outbox_tables.install(subject_of(lane), lane.entity.capture)
    return publication.install(subject_of(lane))


def _unmade(lane):
    return [] if isinstance(lane.entity.capture, Outbox) else publication.uninstall(subject_of(lane))


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
