"""Several followers at once, and one that stands still while another takes its place."""

import signal
import time
from collections.abc import Iterator
from random import Random

from tests.chaos.faults.fault import fault
from tests.chaos.scene import Scene

_STANDS_SECONDS = 6
_TAKEN = """
    UPDATE sync.cursor SET owner = 'somebody', epoch = epoch + 1, lease_until = now() + %s * interval '1 s'
    WHERE entity = %s"""
# one transaction: an editor may delete any book that it sees
_BOOK_AND_SCENE = """
    INSERT INTO book (no, name) VALUES (%(number)s, 'late') ON CONFLICT DO NOTHING;
    INSERT INTO scene (book, note) VALUES (%(number)s, 'early')"""
_LEASES_RUN_OUT = "UPDATE sync.cursor SET lease_until = now() - interval '1 s'"


@fault(weight=2)
def more_followers(scene: Scene, dice: Random) -> Iterator[None]:
    """One or two more, which go again in order or not."""
    more = [scene.crew.follow() for _ in range(dice.choice((1, 1, 2)))]
    yield
    for worker in more:
        worker.retire(dice.choice((signal.SIGTERM, signal.SIGKILL)))


@fault(weight=2)
def follower_stands_still(scene: Scene, dice: Random) -> Iterator[None]:
    """A follower stops in mid-work until its leases have run out; another takes over, and the first goes on."""
    still = dice.choice(scene.crew.followers)
    still.send(signal.SIGSTOP)
    more = scene.crew.follow()
    try:
        scene.world.target(_LEASES_RUN_OUT)
        yield
    finally:  # another fault may have taken the server away
        still.send(signal.SIGCONT)
        scene.over.wait(dice.random())
        more.retire(signal.SIGKILL)


@fault(weight=2, needs_history=True)
def history_stands_still(scene: Scene, dice: Random) -> Iterator[None]:
    """A backfill stops between what it has read and what it writes, again and again, while others get on."""
    worker = scene.crew.histories[-1]
    if worker.done:
        worker = scene.crew.fill(worker.arguments[1])
    limit = time.monotonic() + _STANDS_SECONDS
    try:
        while not worker.done and time.monotonic() < limit:
            worker.send(signal.SIGSTOP)
            scene.over.wait(dice.uniform(0.1, 0.5))
            worker.send(signal.SIGCONT)
            scene.over.wait(dice.uniform(0.05, 0.3))
        yield
    finally:
        worker.send(signal.SIGCONT)


@fault(weight=1)
def lease_taken(scene: Scene, dice: Random) -> Iterator[None]:
    """Somebody takes an entity's lease and does nothing with it, so that others get on before it."""
    entity = dice.choice(list(scene.world.contexts))
    scene.world.target(_TAKEN, (dice.uniform(1, 4), entity))
    yield


@fault(weight=5, grounds=("awkward",))
def parent_after_child(scene: Scene, dice: Random) -> Iterator[None]:
    """Works are held back while scenes of new ones come, and of old ones go."""
    scene.world.target(_TAKEN, (dice.uniform(1, 4), "aw_work"))
    numbers = [10_000 + dice.randrange(10**6) for _ in range(10)]
    for number in numbers:
        scene.world.legacy(_BOOK_AND_SCENE, {"number": number})
    yield
    for number in numbers[::2]:
        scene.world.legacy("DELETE FROM book WHERE no = %s", (number,))
