"""What a source relies on in the monolith, taken away or played with: its slot, its events."""

from collections.abc import Iterator
from random import Random

import psycopg2

from sync_pipeline.run.capture import subject_of
from sync_pipeline.sources.slots import slot_name
from tests.chaos.faults.fault import fault
from tests.chaos.scene import Scene
from tests.installed import made
from tests.world import wait_for

_SLOTS = "SELECT slot_name FROM pg_replication_slots WHERE database = current_database() ORDER BY 1"
_FREE = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s AND active"
_DROP = "SELECT pg_drop_replication_slot(%s)"
_AGAIN = """
    INSERT INTO outbox (aggregate_type, aggregate_id, event_type)
    SELECT aggregate_type, aggregate_id, event_type FROM outbox, generate_series(1, 2) ORDER BY outbox.id {}
    LIMIT %s"""


@fault(weight=3, sources=("wal",))
def slot_dropped(scene: Scene, dice: Random) -> Iterator[None]:
    """Under the follower that reads it; what it had not told yet is to be swept."""
    slots = [name for (name,) in scene.world.legacy(_SLOTS)]
    name = dice.choice(slots)
    wait_for(lambda: _dropped(scene, name))
    yield


@fault(weight=3, sources=("outbox",))
def events_doubled(scene: Scene, dice: Random) -> Iterator[None]:
    """Events that were applied or wait come again, each twice."""
    scene.world.legacy(_AGAIN.format(""), (dice.randrange(100, 1_000),))
    yield
    scene.world.legacy(_AGAIN.format(""), (dice.randrange(100, 1_000),))


@fault(weight=3, sources=("outbox",))
def events_reversed(scene: Scene, dice: Random) -> Iterator[None]:
    """The newest events come again, the last one first."""
    scene.world.legacy(_AGAIN.format("DESC"), (dice.randrange(100, 1_000),))
    yield
    scene.world.legacy(_AGAIN.format("DESC"), (dice.randrange(100, 1_000),))


def _dropped(scene: Scene, name: str) -> bool:
    try:
        scene.world.legacy(_FREE, (name,))
        scene.world.legacy(_DROP, (name,))
    except psycopg2.errors.ObjectInUse:
        return False
    except psycopg2.errors.UndefinedObject:
        pass  # another strike was quicker
    return True


@fault(weight=2, sources=("wal",))
def publication_dropped(scene: Scene, dice: Random) -> Iterator[None]:
    """Under the follower that reads it; it is made again, and what was committed meanwhile is to be swept."""
    context = dice.choice(
        [context for context in scene.world.contexts.values() if context.entity.capture.name == "wal"]
    )
    name = slot_name(subject_of(context))
    scene.heal(lambda: scene.world.legacy(f'DROP PUBLICATION IF EXISTS "{name}"'))
    try:
        yield
    finally:
        scene.heal(lambda: [scene.world.legacy(statement) for statement in made(context)])
