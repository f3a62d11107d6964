"""kill -9 of followers and backfills: at any time, and at any boundary of a batch."""

import signal
from collections.abc import Iterator, Sequence
from random import Random

from sync_pipeline.model.faults import CRASH_POINTS
from tests.chaos.faults.fault import fault
from tests.chaos.faults.files import overwrite_some
from tests.chaos.scene import Scene

_PATIENCE = 8  # seconds; a process takes some to begin
# claiming is the live delta's: history has no events and owes nothing
# between the moved cursor and the rows' commit, and between the commit and the documents, most may go wrong
_WEIGHTS = {"rows.before": 3, "acknowledge.before": 3, "acknowledge.after": 3, "rows.after": 3, "documents.after": 2}
OF_HISTORY = [point for point in CRASH_POINTS if point.partition(".")[0] not in {"claim", "due"}]


@fault(weight=3)
def follower_killed(scene: Scene, dice: Random) -> Iterator[None]:
    """One to three times."""
    for _ in range(dice.randrange(1, 4)):
        dice.choice(scene.crew.followers).send(signal.SIGKILL)
        scene.over.wait(dice.random())
    yield


@fault(weight=4)
def follower_dies_at_a_boundary(scene: Scene, dice: Random) -> Iterator[None]:
    """Whichever gets there first, at a named point; a point that is not reached in time is left alone."""
    point, armed = _drawn(dice, CRASH_POINTS), list(scene.crew.followers)
    for worker in armed:
        worker.arm(f"{point}:{dice.choice((1, 1, 2, 3))}")
    if point.startswith("media") and scene.plan.ground == "demo":
        overwrite_some(scene, dice)
    scene.wait_until(lambda: any(worker.died_at for worker in armed), _PATIENCE)
    yield


@fault(weight=2, needs_history=True)
def history_killed(scene: Scene, dice: Random) -> Iterator[None]:
    """A backfill dies at a named point, and goes on in another process; one that had ended begins again."""
    worker = scene.crew.histories[-1]
    if worker.done:
        worker = scene.crew.fill(worker.arguments[1])
    worker.arm(f"{_drawn(dice, OF_HISTORY)}:{dice.choice((1, 2, 4))}")
    scene.wait_until(lambda: worker.done or worker.died_at, _PATIENCE)
    yield


def _drawn(dice: Random, points: Sequence[str]) -> str:
    return dice.choices(points, [_WEIGHTS.get(point, 1) for point in points])[0]
