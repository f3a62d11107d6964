"""A new index or table is filled beside the live one, and swapped; only where the seed names them."""

from collections.abc import Iterator, Sequence
from random import Random

from sync_pipeline.model.faults import REBUILD_CRASH_POINTS, TABLE_CRASH_POINTS
from tests.chaos.faults.fault import fault
from tests.chaos.scene import Scene
from tests.sinks import index_of

_PATIENCE = 15  # seconds
_IN_A_BATCH = ("rows.after:2", "documents.after:2", "close.before:2")


@fault(weight=0)
def index_rebuilt(scene: Scene, dice: Random) -> Iterator[None]:
    """It dies up to two times, and goes on."""
    entity = dice.choice([context.entity.name for context in scene.world.contexts.values() if index_of(context.entity)])
    return _rebuilt(scene, dice, REBUILD_CRASH_POINTS, "index", entity)


@fault(weight=0)
def table_rebuilt(scene: Scene, dice: Random) -> Iterator[None]:
    """It dies up to two times, and goes on."""
    return _rebuilt(scene, dice, TABLE_CRASH_POINTS, "table", dice.choice(list(scene.world.contexts)), "--like")


def _rebuilt(scene: Scene, dice: Random, points: Sequence[str], *arguments: str) -> Iterator[None]:
    deaths = dice.sample([*points, *_IN_A_BATCH], dice.choice((0, 1, 2)))
    worker = scene.crew.rebuild(*arguments)
    for point in deaths:
        worker.arm(point)
        scene.wait_until(lambda: worker.done or worker.died_at, _PATIENCE)
    yield
    scene.wait_until(lambda: worker.done, _PATIENCE)
    scene.done[f"{arguments[0]} swapped among faults"] += worker.done
