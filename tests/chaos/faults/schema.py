"""The monolith's schema changes in mid-backfill: columns come, go, and change their types."""

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from tests.chaos.faults.fault import ALL, DEMO, fault
from tests.chaos.scene import Scene


@fault(weight=1.5, needs_history=True, grounds=DEMO)
def column_added(scene: Scene, dice: Random) -> Iterator[None]:
    """One that nobody reads, with a default; it goes again, or stays."""
    name = f"added_{dice.getrandbits(32)}"
    _alter(scene, f"ADD COLUMN {name} text DEFAULT 'new'")
    yield
    if dice.random() < 0.5:
        _alter(scene, f"DROP COLUMN {name}")


@fault(weight=1.5, needs_history=True, grounds=DEMO)
def column_renamed(scene: Scene, dice: Random) -> Iterator[None]:
    """One that the entity reads; it comes back with all it held."""
    name = dice.choice(("zip", "rating", "attrs"))
    with _altered(scene, f"RENAME COLUMN {name} TO {name}_once", f"RENAME COLUMN {name}_once TO {name}"):
        yield


@fault(weight=1, swept=ALL, needs_history=True, grounds=DEMO)
def column_dropped(scene: Scene, _: Random) -> Iterator[None]:
    """One that the entity reads; it comes back empty, which no source can tell."""
    with _altered(scene, "DROP COLUMN street", "ADD COLUMN street text"):
        yield


@fault(weight=1.5, needs_history=True, grounds=DEMO)
def column_retyped(scene: Scene, dice: Random) -> Iterator[None]:
    """One that the entity reads; its values read the same when it is as it was."""
    name, other, back = dice.choice((("price", "text", "numeric"), ("rating", "text", "double precision")))
    there_again = f"ALTER COLUMN {name} TYPE {back} USING {name}::{back}"
    with _altered(scene, f"ALTER COLUMN {name} TYPE {other}", there_again):
        yield


@contextmanager
def _altered(scene: Scene, there: str, and_back: str) -> Iterator[None]:
    with scene.alone["schema"]:
        _alter(scene, there)
        try:
            yield
        finally:
            _alter(scene, and_back)


def _alter(scene: Scene, what: str) -> None:
    scene.heal(lambda: scene.world.legacy(f"ALTER TABLE content {what}"))
