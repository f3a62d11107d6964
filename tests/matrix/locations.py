"""Code locations and ledgers: deployments for a quarter of an hour under editors, on pods that need three minutes."""

from functools import partial

from demo.fleet import Fleet
from tests.locations.deployments import Location
from tests.locations.play import Plan, Played, play
from tests.matrix.matrix import FAILS, HOLDS, Cell, Matrix, Outcome

_SECONDS = 900.0
_POD = 180.0
# the first run of `second` starts at once, so that its successor is the one that is waited for
_TWO_LOCATIONS = (Location("first", "one", (_POD,)), Location("second", "two", (0.0, _POD)))
PLANS = {
    "two locations on two ledgers, another deployment on the second ledger": {
        "a": _TWO_LOCATIONS,
        "b": (Location("second", "two"),),
    },
}


def _play(deployments: dict[str, tuple[Location, ...]], fleet: Fleet, seed: int) -> Outcome:
    played = play(fleet, Plan(deployments, _SECONDS), seed)
    faults = list(played.faults())
    lines = [run.line() for run in played.runs if run.is_kept]
    return Outcome(FAILS if faults else HOLDS, "; ".join([*faults, *lines]), _figures(played))


def _figures(played: Played) -> dict[str, str]:
    lags = {
        f"lag of {side}, p50 / p95 / p99 / max, s": " / ".join(f"{s:.2f}" for s in lag.figures().values())
        for side, lag in played.lags.items()
    }
    return {
        "transactions": str(played.edits.committed),
        "runs": str(len(played.runs)),
        "ended before their time": str(len(played.ended_early)),
        **lags,
        "leases taken": " / ".join(str(count) for count in played.takeovers.values()),
        "ticks": str(len(played.ticks)),
        "ticks that failed": str(sum(tick.is_fault for tick in played.ticks)),
        "load of 15 min": f"{played.load_average:.1f}",
    }


LOCATIONS = Matrix(
    "locations",
    "Code locations and ledgers",
    tuple(Cell(name, partial(_play, deployments)) for name, deployments in PLANS.items()),
)
