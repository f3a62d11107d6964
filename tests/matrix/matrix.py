"""What a matrix is: named cells, each played on servers of its own world, each with one outcome."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from demo.fleet import Fleet

HOLDS, REFUSED, FAILS = "holds", "refused", "fails"


@dataclass(frozen=True)
class Outcome:
    """What came of a cell: it holds, it was refused by name, or it fails. `figures` are shown in the table."""

    verdict: str
    note: str = ""
    figures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One combination. `play` gets the shared servers and the seed; an exception counts as a failure."""

    name: str
    play: Callable[[Fleet, int], Outcome]


@dataclass(frozen=True)
class Matrix:
    """A set of cells, in the order in which they are played; `close` ends what they have opened together."""

    name: str
    title: str
    cells: Sequence[Cell]
    close: Callable[[], None] = lambda: None
