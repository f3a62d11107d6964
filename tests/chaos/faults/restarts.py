"""Servers that go and come back, and sessions that are cut off by them."""

from collections.abc import Iterator
from random import Random

from tests.chaos.faults.fault import fault
from tests.chaos.scene import Scene

_CUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND starts_with(application_name, 'sync-pipeline/')"
)


@fault(weight=2, ends_writers=True)
def legacy_restarted(scene: Scene, dice: Random) -> Iterator[None]:
    """The monolith's database: every writer's transaction ends, too."""
    return _restarted(scene, dice, "legacy")


@fault(weight=2)
def target_restarted(scene: Scene, dice: Random) -> Iterator[None]:
    """The new side's database."""
    return _restarted(scene, dice, "target")


@fault(weight=0.7)
def search_restarted(scene: Scene, dice: Random) -> Iterator[None]:
    """The cluster; tombstones of deleted documents die with its node."""
    return _restarted(scene, dice, "search")


@fault(weight=1, ends_writers=True)
def objects_restarted(scene: Scene, dice: Random) -> Iterator[None]:
    """The server of both buckets."""
    return _restarted(scene, dice, "objects")


@fault(weight=2)
def sessions_cut(scene: Scene, dice: Random) -> Iterator[None]:
    """All sessions of the engine's, on either side, several times."""
    for _ in range(dice.randrange(1, 5)):
        dice.choice((scene.world.legacy, scene.world.target))(_CUT)
        scene.over.wait(dice.random() / 2)
    yield


def _restarted(scene: Scene, dice: Random, name: str) -> Iterator[None]:
    server = getattr(scene.world.fleet, name)
    with scene.alone[name]:
        dice.choice((server.kill, server.stop))()
        try:
            yield
        finally:
            server.start()
            server.wait_healthy()
