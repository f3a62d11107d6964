"""Hosts: one that is lost with all its connections open, and a second deployment that takes this one's place."""

import signal
from collections.abc import Iterator
from random import Random

from tests.chaos.faults.fault import fault
from tests.chaos.scene import Scene


@fault(weight=2)
def host_lost(scene: Scene, dice: Random) -> Iterator[None]:
    """A follower dies and no server hears of it: its connections stay open and carry nothing, not even their end."""
    follower = dice.choice(scene.crew.followers)
    for link in scene.network.links.values():
        link.freeze()
    follower.send(signal.SIGKILL)
    try:
        yield
    finally:
        for link in scene.network.links.values():
            link.heal()
