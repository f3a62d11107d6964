"""A second deployment: a new side of its own, and by mistake the same indices, prefixes, outbox and slots."""

from collections.abc import Iterator
from random import Random

from demo.databases import create_target, drop_database
from tests.chaos.faults.fault import fault
from tests.chaos.scene import Scene
from tests.command import Command


@fault(weight=1)
def second_deployment(scene: Scene, _: Random) -> Iterator[None]:
    """It follows the same monolith with another ledger; what belongs to the first one stays as it is."""
    name = f"{scene.plan.name}_two"
    server = scene.world.fleet.target
    scene.heal(lambda: create_target(server, name))
    settings = {**scene.crew.settings, "SYNC_TARGET_DB": create_target(server, name)}
    second = Command(scene.crew.folder / "second.log", "sync", "--all", "--follow", **settings)
    try:
        yield
        scene.wait_until(lambda: not second.alive(), 3)
    finally:
        second.kill()
        scene.heal(lambda: drop_database(server, name))
