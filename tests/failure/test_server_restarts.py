"""Each server is killed in mid-work and started again, under eight editors: nothing is lost, doubled or turned back.

Live delta and backfill are at work when it goes. It comes back only when the engine has felt that it is away. What
editors wrote and could not commit is not claimed; bytes that they overwrite without the row's commit are the sweep's.
"""

import pytest

from demo.fleet import down, up
from demo.home import Home
from tests.command import Command
from tests.newsroom import (
    UNSTAMPED,
    WITHOUT_SWEEP,
    edited,
    end,
    follow,
    leave_out_the_sweep,
    reconciled,
    settle,
    was_swept,
)
from tests.world import opened, wait_for

CONTENTS, FILES = 1_000, 150
PATIENCE = 120  # seconds
SERVERS = ("legacy", "target", "search", "objects")
# those whose absence is kept in `due`, and does not stop a poll
OWED = {"search": "documents", "objects": "media"}
SINCE = "2023-01"  # what is older, or has no date, comes in under the test
DONE = "SELECT count(*) FROM sync.backfill WHERE entity = 'video' AND done"


@pytest.fixture(scope="module")
def world(jars, tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("servers"))
    try:
        with opened(up(home), "restarts") as world:
            world.load(CONTENTS, FILES)
            leave_out_the_sweep(world)
            for name in ("text", "audio"):
                world.all_in(name)
            world.all_in("video", f"created_at >= '{SINCE}-01'")
            yield world
    finally:
        down(home)


def test_killed_and_started_again(world, tmp_path):
    with edited(world, seed=5, without=UNSTAMPED | {"overwrite_file"}) as observer:
        live = follow(tmp_path / "live")
        for server in SERVERS:
            history = fill(world, tmp_path / f"history-{server}", server)
            restart(world, server, live, history)
            if history.wait(PATIENCE) != 0:
                assert "Unreachable" in history.tail()
                again = fill(world, tmp_path / f"history-{server}", server)
                assert again.wait() == 0, again.tail()
            assert live.alive(), live.tail()
        end(live)
    settle(world, tmp_path / "live")
    assert world.differences() == []
    assert observer.setbacks == []
    assert not was_swept(world)
    assert reconciled(world, tmp_path / "reconcile")[0] == 0, (tmp_path / "reconcile").read_text()


def fill(world, log, server):
    """A backfill of a quarter of what is left of the videos' history."""
    names = world.contexts["video"].entity.partitions.names()
    left = [name for name in names if name < SINCE or not name[0].isdigit()]
    parts = [part for name in left[SERVERS.index(server) :: len(SERVERS)] for part in ("--partition", name)]
    return Command(log, "backfill", "video", *parts, **WITHOUT_SWEEP)


def restart(world, server, live, history):
    """Kill it while both are at work, and start it when both have felt it."""
    killed, before = getattr(world.fleet, server), world.target(DONE)[0][0]
    wait_for(lambda: world.target(DONE)[0][0] > before + 2, PATIENCE)
    assert live.alive(), live.tail()
    assert history.alive(), history.tail()
    killed.kill()
    wait_for(lambda: is_felt(world, server, live), PATIENCE)
    killed.start()
    killed.wait_healthy()


def is_felt(world, server, live):
    if server in OWED:
        return world.target("SELECT 1 FROM sync.due WHERE reason = %s AND attempts > 0", [OWED[server]])
    setting = {"legacy": "SYNC_LEGACY_DB", "target": "SYNC_TARGET_DB"}[server]
    return f"unreachable entity=text error={setting}" in live.log.read_text()
