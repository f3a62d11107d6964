"""Connections between the engine and one of its five endpoints: slow, cut, refused, or swallowed."""

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from tests.chaos.faults.fault import fault
from tests.chaos.proxy import Link
from tests.chaos.scene import Scene


@fault(weight=2)
def connection_slow(scene: Scene, dice: Random) -> Iterator[None]:
    """Each piece takes up to a tenth of a second."""
    with _link(scene, dice, "slow") as link:
        link.slow(dice.uniform(0.005, 0.1))
        yield


@fault(weight=3)
def connection_cut(scene: Scene, dice: Random) -> Iterator[None]:
    """After so many bytes, again and again."""
    with _link(scene, dice, "cut") as link:
        link.cut_after(int(10 ** dice.uniform(2.5, 5.5)))
        yield


@fault(weight=1.5)
def connection_refused(scene: Scene, dice: Random) -> Iterator[None]:
    """Nobody listens."""
    with _link(scene, dice, "refused") as link:
        link.refuse()
        yield


@fault(weight=1.5)
def connection_swallowed(scene: Scene, dice: Random) -> Iterator[None]:
    """A black hole; what it swallowed arrives late, or never."""
    with _link(scene, dice, "swallowed", cut=dice.random() < 0.5) as link:
        link.swallow()
        yield


@contextmanager
def _link(scene: Scene, dice: Random, how: str, *, cut: bool = True) -> Iterator[Link]:
    setting = dice.choice(list(scene.network.links))
    link = scene.network.links[setting]
    scene.done[f"{setting} {how}"] += 1
    try:
        yield link
    finally:
        link.heal(cut=cut)
