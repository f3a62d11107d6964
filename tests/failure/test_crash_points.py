"""Killed at every boundary under eight editors, the engine loses nothing, doubles nothing, and turns nothing back.

Texts and audios are all in before the first kill, and videos come in by a backfill that is killed as well. None reads
a partition again that it has finished: what the live delta loses, stays lost.
"""

import signal

import pytest

from sync_pipeline.model.faults import CRASH_POINTS
from tests.command import Command
from tests.newsroom import WITHOUT_SWEEP, edited, follow, leave_out_the_sweep, reconciled, settle, was_swept

# claiming is the live delta's: history has no events and owes nothing
OF_HISTORY = [point for point in CRASH_POINTS if point.partition(".")[0] not in {"claim", "due"}]
CONTENTS, FILES, POISON = 2_000, 200, 2
LOOKS = 20


@pytest.fixture(scope="module")
def world(fresh_world):
    fresh_world.load(CONTENTS, FILES, POISON)
    leave_out_the_sweep(fresh_world)
    for name in ("text", "audio"):
        fresh_world.all_in(name)
    return fresh_world


def fill(world, log, **settings):
    """A backfill of what is left of the videos' history."""
    parts = [part for month in unfilled(world) for part in ("--partition", month)]
    return Command(log, "backfill", "video", *parts, **WITHOUT_SWEEP, **settings)


def unfilled(world):
    done = {month for (month,) in world.target("SELECT partition FROM sync.backfill WHERE entity = 'video' AND done")}
    return [month for month in world.contexts["video"].entity.partitions.names() if month not in done]


@pytest.mark.hazard(19)
@pytest.mark.hazard(44)
def test_killed_at_every_boundary(world, tmp_path):
    with edited(world, seed=3) as observer:
        for point in CRASH_POINTS:
            killed = [follow(tmp_path / f"live-{point}", SYNC_TEST_CRASH_AT=f"{point}:2")]
            if point in OF_HISTORY:
                killed.append(fill(world, tmp_path / f"history-{point}", SYNC_TEST_CRASH_AT=f"{point}:4"))
            for command in killed:
                assert command.wait() == -signal.SIGKILL, f"{point}: {command.tail()}"
        live, history = follow(tmp_path / "live"), fill(world, tmp_path / "history")
        assert history.wait() == 0, history.tail()
        live.kill()
    settle(world, tmp_path / "live")
    assert world.differences() == []
    assert observer.setbacks == []
    assert min(track.looks for track in (*observer.rows.values(), *observer.documents.values())) > LOOKS
    assert not was_swept(world)
    assert reconciled(world, tmp_path / "reconcile")[0] == 0, (tmp_path / "reconcile").read_text()
