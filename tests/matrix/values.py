"""Generated values through both servers: each cell is another seed's examples."""

from contextlib import ExitStack
from functools import cache, partial

from hypothesis import HealthCheck, Phase, given, seed, settings

from demo.fleet import Fleet
from tests.generated_values import BATCHES, Carrier, carrier
from tests.matrix.matrix import HOLDS, Cell, Matrix, Outcome
from tests.world import opened

# examples cost the more the more of them one run has seen: several runs with seeds of their own are quicker
CELLS, EXAMPLES = 40, 1_250
# what an example that fails is made of is shown in the note, without a search for a smaller one on live servers
_SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
# one world for all cells
_OPEN = ExitStack()


@cache
def _carrier(fleet: Fleet) -> Carrier:
    return _OPEN.enter_context(carrier(_OPEN.enter_context(opened(fleet, "values"))))


def _play(number: int, fleet: Fleet, chosen: int) -> Outcome:
    found, played = _carrier(fleet), 0

    @seed(f"{chosen} {number}")
    @_SETTINGS
    @given(BATCHES)
    def carried(batch):
        nonlocal played
        try:
            found.carry(batch)
        except SystemExit as end:  # a run that is asked to end is no example that fails
            raise KeyboardInterrupt from end
        played += 1

    carried()
    return Outcome(HOLDS, figures={"examples": f"{played:,}"})


VALUES = Matrix(
    "values",
    "Generated values",
    [Cell(f"examples {number:02}", partial(_play, number)) for number in range(1, CELLS + 1)],
    _OPEN.close,
)
