"""Two code locations on two ledgers, and a second deployment with a daemon of its own, under editors.

The short form of `make matrix MATRIX=locations`: the same play with runs of half a minute and pods that need longer
to start than a run that never beats is waited for.
"""

import pytest

from tests.locations.deployments import Location, Times
from tests.locations.play import Plan, play
from tests.locations.times import START_SECONDS, WINDOW_SECONDS

TIMES = Times("tests.locations.definitions", WINDOW_SECONDS)
POD = START_SECONDS + 4
FIRST, SECOND = Location("first", "one", (POD,)), Location("second", "two", (0.0, POD))
PLAN = Plan(
    {"a": (FIRST, SECOND), "b": (Location("second", "two"),)},
    seconds=30,
    times=TIMES,
    waits_for_handovers=True,
    longest_lag_seconds=15,  # a dozen processes start in this minute, and each takes seconds of a core
    contents=600,
    files=10,
)


@pytest.mark.long
@pytest.mark.hazard(101)
@pytest.mark.hazard(102)
def test_no_healthy_run_is_ended_and_both_ledgers_are_followed(fleet):
    played = play(fleet, PLAN, seed=3)
    assert list(played.faults()) == []
    assert played.edits.committed > 500
    kept = [run for run in played.runs if run.is_kept]
    assert {run.where for run in kept} == {"a/first", "a/second", "b/second"}
    slow = [run for run in kept if run.needed and run.needed >= POD]
    assert {run.where for run in slow} >= {"a/first", "a/second"}  # the others' runs are slow on a busy machine
