"""A side fails over to a standby, with all its commits or without the last ones; the round has a server of its own."""

from collections.abc import Iterator
from random import Random

from tests.chaos.faults.fault import fault
from tests.chaos.scene import Scene
from tests.failover import Pair

_LOSES = 0.6
_TAKES_SLOTS_OVER = 0.7
_SLOT_SECONDS = 5
_LONGEST_LOSS = 1.5  # seconds
_SLOTS = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"


@fault(weight=1, ends_writers=True, fails_over="legacy")
def legacy_failed_over(scene: Scene, dice: Random) -> Iterator[None]:
    """The monolith's database. What has come over of lost commits goes back, which readers may see."""
    return _failed_over(scene, dice, "legacy")


@fault(weight=1, fails_over="target")
def target_failed_over(scene: Scene, dice: Random) -> Iterator[None]:
    """The new side's database. Its rows go back at once; documents and files of lost commits stay."""
    return _failed_over(scene, dice, "target")


def _failed_over(scene: Scene, dice: Random, side: str) -> Iterator[None]:
    """Sometimes commits are lost; sometimes a standby of the monolith keeps its slots."""
    loses, with_slots = dice.random() < _LOSES, dice.random() < _TAKES_SLOTS_OVER
    seconds = dice.uniform(0, _LONGEST_LOSS)
    with_slots = with_slots and side == "legacy" and scene.plan.source == "wal"
    pair = getattr(scene.world.fleet, side)
    with scene.undisturbed(side) if loses else scene.alone[side]:
        pair.follow(with_slots=with_slots)
        if with_slots:
            ((count,),) = scene.world.legacy(_SLOTS)
            scene.wait_until(lambda: pair.has_slots(count), _SLOT_SECONDS)
            scene.done["a standby kept the slots"] += pair.has_slots(count)
        if loses:
            pair.cut_off()
            scene.over.wait(seconds)
            _lose(scene, pair)
        else:
            pair.lose_nothing(with_slots=with_slots)
            pair.fail_over()
        scene.done[f"{side} failed over, {'commits' if loses else 'nothing'} lost"] += 1
    yield


def _lose(scene: Scene, pair: Pair) -> None:
    """Fail over to a standby that was cut off, and note what readers may see go back."""
    if pair.side == "target":
        pair.fail_over(scene.forget_rows)
        return
    pair.end_sessions()
    scene.note_losses(pair)
    pair.fail_over()
