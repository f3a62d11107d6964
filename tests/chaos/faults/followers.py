"""Several followers at once, and one that stands still while another takes its place."""

import signal
from collections.abc import Iterator
from random import Random

from tests.chaos.faults.fault import fault
from tests.chaos.scene import Scene

_LEASES_RUN_OUT = "UPDATE sync.cursor SET lease_until = now() - interval '1 s'"


@fault(weight=2)
def more_followers(scene: Scene, dice: Random) -> Iterator[None]:
    """One or two more, which go again in order or not."""
    more = [scene.crew.follow() for _ in range(dice.choice((1, 1, 2)))]
    yield
    for worker in more:
        scene.crew.retire(worker, dice.choice((signal.SIGTERM, signal.SIGKILL)))


@fault(weight=2)
def follower_stands_still(scene: Scene, dice: Random) -> Iterator[None]:
    """A follower stops in mid-work until its leases have run out; another takes over, and the first goes on."""
    still = dice.choice(scene.crew.followers)
    still.signal(signal.SIGSTOP)
    more = scene.crew.follow()
    scene.world.target(_LEASES_RUN_OUT)
    try:
        yield
    finally:
        still.signal(signal.SIGCONT)
        scene.over.wait(dice.random())
        scene.crew.retire(more, signal.SIGKILL)
