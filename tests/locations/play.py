"""A play: deployments work on the new sides of one monolith while its editors write, and everything is measured."""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from demo.edit import Editors
from demo.edit.tally import Tally
from demo.fleet import Fleet
from demo.lag import Observer
from demo.lag.report import Report
from demo.load import load
from sync_pipeline.reconcile.verdict import Verdict, overall
from tests.locations.deployments import Deployment, Location, Tick, Times, deployed
from tests.locations.runs import Life, lives
from tests.locations.sides import LEGACY_BUCKET, Side, Source, new_sides
from tests.oracle import Difference
from tests.world import wait_for

_CATCH_UP_SECONDS = 240
_START_SECONDS = 180
_HANDOVER_SECONDS = 240
_LONGEST_SECONDS = 3_600.0
_MOST_SHOWN = 5


@dataclass(frozen=True)
class Plan:
    """Who is deployed, for how long editors write at least, and how many transactions a second.

    Where a play waits for hand-overs, editors go on until a run of each location has ended.
    """

    deployments: dict[str, tuple[Location, ...]]
    seconds: float
    times: Times = field(default_factory=Times)
    waits_for_handovers: bool = False
    longest_lag_seconds: float = 5.0  # of 95 % of the edits
    rate: float = 20.0
    contents: int = 2_000
    files: int = 40

    @property
    def sides(self) -> list[str]:
        """The new sides, in the order in which they are named."""
        return list(dict.fromkeys(place.side for places in self.deployments.values() for place in places))


@dataclass
class Played:
    """What was measured."""

    plan: Plan
    edits: Tally = field(default_factory=Tally)
    runs: list[Life] = field(default_factory=list)
    ticks: list[Tick] = field(default_factory=list)
    lags: dict[str, Report] = field(default_factory=dict)
    takeovers: dict[str, int] = field(default_factory=dict)
    verdicts: dict[str, list[Verdict]] = field(default_factory=dict)
    differences: dict[str, list[Difference]] = field(default_factory=dict)
    load_average: float = 0.0

    @property
    def ended_early(self) -> list[Life]:
        """Healthy runs that somebody has ended: nobody breaks a run here, so that all are healthy."""
        return [run for run in self.runs if not run.is_healthy(self.plan.times.window_seconds)]

    def faults(self) -> Iterator[str]:
        """What is not as it was promised."""
        yield from (f"ended before its time: {run.line()}" for run in self.ended_early)
        faults = Counter(tick for tick in self.ticks if tick.is_fault)
        yield from (f"{count} ticks: {tick}" for tick, count in faults.items())
        for side, lag in self.lags.items():
            if lag.undelivered or not lag.share(0.95) < self.plan.longest_lag_seconds:
                yield f"lag of {side}: {lag.line()}"
        for side, verdicts in self.verdicts.items():
            if overall(verdicts) != "clean":
                yield f"{side} is {overall(verdicts)}: {[v.findings[:_MOST_SHOWN] for v in verdicts if v.findings]}"
        for side, differences in self.differences.items():
            if differences:
                yield f"{side} differs: {differences[:_MOST_SHOWN]}"


def play(fleet: Fleet, plan: Plan, seed: int) -> Played:
    """Fill the sides, deploy, edit for so long, let all catch up, compare. Leaves nothing running."""
    with new_sides(fleet, "locations", *plan.sides) as (source, sides), ExitStack() as stack:
        load(source.monolith.admin_url, source.client, LEGACY_BUCKET, contents=plan.contents, files=plan.files)
        for side in sides.values():
            side.fill()
        deployments = [
            stack.enter_context(deployed(fleet, name, places, sides, plan.times))
            for name, places in plan.deployments.items()
        ]
        return _played(plan, seed, source, sides, deployments)


def _played(plan: Plan, seed: int, source: Source, sides: dict[str, Side], deployments: list[Deployment]) -> Played:
    played = Played(plan)
    with _editing(plan, seed, source) as (tallies, ends):
        for deployment in deployments:
            deployment.start_sensors()
        observers = _observe_once_followed(plan, sides)
        threading.Event().wait(max(0.0, ends - time.monotonic()))
        if plan.waits_for_handovers:
            wait_for(lambda: _handed_over(deployments), _HANDOVER_SECONDS)
    played.edits = tallies[0]
    played.load_average = os.getloadavg()[2]
    for side in sides.values():
        side.catch_up(_CATCH_UP_SECONDS)
    played.lags = {name: observer.finish() for name, observer in observers.items()}
    played.runs = lives(deployments)
    played.ticks = [tick for deployment in deployments for tick in deployment.ticks()]
    played.takeovers = {name: side.takeovers for name, side in sides.items()}
    played.verdicts = {name: side.verdicts() for name, side in sides.items()}
    played.differences = {name: side.differences() for name, side in sides.items()}
    return played


def _observe_once_followed(plan: Plan, sides: dict[str, Side]) -> dict[str, Observer]:
    """Each side's lag counts from the moment at which its first run, whose pod may need minutes, has caught up.

    That with the quickest pods is waited for first.
    """
    observers = {}
    for name in sorted(sides, key=lambda side: _first_start(plan, side)):
        sides[name].wait_followed(_first_start(plan, name) + _START_SECONDS)
        observers[name] = sides[name].observe()
    return observers


def _handed_over(deployments: list[Deployment]) -> bool:
    """Whether a run of each location has ended: its successor has taken over."""
    places = {f"{deployment.name}/{place.name}" for deployment in deployments for place in deployment.locations}
    return places == {run.where for run in lives(deployments) if run.is_kept and run.worked is not None}


def _first_start(plan: Plan, side: str) -> float:
    places = [place for places in plan.deployments.values() for place in places if place.side == side]
    return min(place.pods[0] if place.pods else 0.0 for place in places)


@contextmanager
def _editing(plan: Plan, seed: int, source: Source) -> Iterator[tuple[list[Tally], float]]:
    """Editors at work until the end of the block; their tally, and when they have written for as long as planned."""
    url, tallies = source.monolith.admin_url, []
    editors = Editors(url, source.client, LEGACY_BUCKET, rate=plan.rate, seconds=_LONGEST_SECONDS, seed=seed)
    thread = threading.Thread(target=lambda: tallies.append(editors.run()), name="editors")
    thread.start()
    try:
        yield tallies, time.monotonic() + plan.seconds
    finally:
        editors.halt()
        thread.join()
    assert tallies, "the editors gave up"
