"""The matrix of types: a cell for each type as value, and one for each type that can be a key."""

from contextlib import ExitStack
from functools import cache, partial

from demo.fleet import Fleet
from tests.matrix.matrix import Cell, Matrix, Outcome
from tests.matrix.types.kinds import KEYS, KINDS, Kind
from tests.matrix.types.play import play_key, play_values
from tests.world import World, opened

# one world for all cells
_OPEN = ExitStack()


@cache
def _world(fleet: Fleet) -> World:
    return _OPEN.enter_context(opened(fleet, "types"))


def _value(kind: Kind, fleet: Fleet, _: int) -> Outcome:
    return play_values(_world(fleet), kind)


def _key(kind: Kind, fleet: Fleet, _: int) -> Outcome:
    return play_key(_world(fleet), kind)


TYPES = Matrix(
    "types",
    "Types of PostgreSQL",
    [
        *(Cell(kind.title, partial(_value, kind)) for kind in KINDS),
        *(Cell(f"{kind.title}, key", partial(_key, kind)) for kind in KEYS),
    ],
    _OPEN.close,
)
