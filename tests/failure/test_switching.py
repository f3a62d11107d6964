"""From each source to each other under eight editors, as a person switches: install, one line, restart, uninstall."""

import sys
from functools import partial

import pytest

from tests.installed import made, unmade
from tests.newsroom import edited
from tests.world import opened, wait_for

PATIENCE = 120  # seconds
NAMES = ("text", "video", "audio")
# every ordered pair once
ROUND = ["wal", "watermark", "sweep", "outbox", "wal", "outbox"]
ROUND += ["sweep", "wal", "sweep", "watermark", "outbox", "watermark", "wal"]
_LOOK_EVERY_ROW = {"SYNC_SWEEP_SECONDS": "1e9", "SYNC_BRAKE_ROWS": "1000000"}
_ON = "SELECT count(*) FROM sync.cursor WHERE source = %s AND applied_through > %s"
_BEHIND = """
    SELECT entity FROM sync.cursor WHERE coalesce(applied_through < %(since)s OR sweep_wanted > swept_from, true)
    UNION ALL SELECT entity FROM sync.due WHERE reason <> 'rejected'"""


@pytest.fixture
def world(fleet):
    with opened(fleet, "switching", SYNC_ENTITIES="tests.caught", TEST_CAPTURE="watermark", **_LOOK_EVERY_ROW) as world:
        world.load(600, 20)
        for context in contexts(world):
            world.all_in(context.entity.name)
        world.target("UPDATE sync.cursor SET filled_at = now(), swept_at = now(), swept_from = now()")
        yield world


def contexts(world):
    """The entities as their files declare them now."""
    for name in NAMES:
        sys.modules.pop(f"tests.caught.{name}", None)
    return [world.context(name) for name in NAMES]


def run(world, act, contexts):
    for context in contexts:
        for statement in act(context):
            world.legacy(statement)


def is_followed_by(world, source, since):
    return world.target(_ON, [source, since]) == [(len(NAMES),)]


def test_nothing_is_lost(world, monkeypatch):
    ((since,),) = world.legacy("SELECT clock_timestamp()")
    before = []
    with edited(world, seed=23, without=()) as observer:
        for source in ROUND:
            monkeypatch.setenv("TEST_CAPTURE", source)
            now = contexts(world)
            run(world, made, now)
            with world.following(now):
                wait_for(partial(is_followed_by, world, source, since), PATIENCE)
            ((since,),) = world.legacy("SELECT clock_timestamp()")
            run(world, unmade, before)
            before = now
    with world.following(before):
        wait_for(lambda: not world.target(_BEHIND, {"since": since}), PATIENCE)
    run(world, unmade, before)
    assert world.differences() == []
    assert observer.setbacks == []
