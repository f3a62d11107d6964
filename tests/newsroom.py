"""Editors at work beside the engine, which runs in processes of its own and is killed or cut off under them.

The sweep is off: what the watermark and `due` claim, they must hold alone. So editors leave out what no stamp
reports: hard deletes and renamed authors.
"""

import threading
import time
from contextlib import contextmanager

from demo.edit import Editors
from tests.command import Command
from tests.observer import Observer

UNSTAMPED = frozenset({"hard_delete", "rename_author"})
WITHOUT_SWEEP = {"SYNC_SWEEP_SECONDS": "1e9"}
_BEHIND = """
    SELECT entity, applied_through::text FROM sync.cursor WHERE applied_through IS NULL OR applied_through < %s
    UNION ALL SELECT entity, reason || ' ' || coalesce(message, '') FROM sync.due WHERE reason <> 'rejected'"""


def leave_out_the_sweep(world):
    """Have nobody wait for the first one."""
    for name in world.contexts:
        world.target("UPDATE sync.cursor SET swept_at = now() WHERE entity = %s", [name])


def was_swept(world):
    return world.target("SELECT entity FROM sync.cursor WHERE swept_from IS NOT NULL") != []


@contextmanager
def edited(world, seed, without=UNSTAMPED, late_every=8):
    """Eight editors at work until the end of the block, and an observer of what readers of the new side see."""
    editors = Editors(
        world.monolith.admin_url,
        world.client,
        world.legacy_bucket,
        rate=40,
        seconds=600,
        workers=8,
        seed=seed,
        late_seconds=(1, 4),
        late_every=late_every,
        without=without,
    )
    tallies = []
    thread = threading.Thread(target=lambda: tallies.append(editors.run()))
    with Observer(world.target_url, world.search_url) as observer:
        thread.start()
        try:
            yield observer
        finally:
            editors.halt()
            thread.join()
    assert tallies, "the editors gave up"
    assert tallies[0].committed > 100
    assert tallies[0].late > 0


def follow(log, *, entity="--all", **settings):
    """The live delta, in a process of its own."""
    return Command(log, "sync", entity, "--follow", **{**WITHOUT_SWEEP, **settings})


def settle(world, log, seconds=180, **settings):
    """Follow until all that is committed now is applied, and nothing but parked rows is owed."""
    ((since,),) = world.legacy("SELECT clock_timestamp()")
    world.hurry()
    live = follow(log, **settings)
    limit = time.monotonic() + seconds
    while left := world.target(_BEHIND, [since]):
        assert time.monotonic() < limit, f"{left[:20]}\n{live.tail()}"
        assert live.alive(), live.tail()
        time.sleep(0.1)
    end(live)


def end(live):
    """Ask a follower to end; nothing may have stopped it."""
    live.interrupt()
    assert live.wait() == 0, live.tail()


def reconciled(world, log):
    """What the engine itself says of both sides."""
    command = Command(log, "reconcile", "--all", "--format", "json", SYNC_RECHECK_SECONDS="0.2")
    return command.wait(), command.tail()
