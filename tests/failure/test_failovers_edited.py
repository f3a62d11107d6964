"""Failovers under eight editors, who go on against the promoted standby: the engine mends all by itself.

One member of each class; `make matrix MATRIX=failovers` plays all sources.
"""

import pytest

from tests.matrix.failovers.captured import VERSIONED
from tests.matrix.failovers.cells import monolith_loses, monolith_loses_nothing, new_side_loses, play
from tests.matrix.matrix import HOLDS


@pytest.mark.hazard(117)
def test_the_monolith_fails_over_with_a_synchronized_slot(fleet):
    holds("wal", monolith_loses_nothing, fleet)


@pytest.mark.hazard(110)
def test_the_monolith_fails_over_and_loses_events_that_tell_versions(fleet):
    holds(VERSIONED, monolith_loses, fleet)


@pytest.mark.hazard(111)
def test_the_new_side_fails_over_and_loses_deletes(fleet):
    holds("outbox", new_side_loses, fleet)


def holds(source, failover, fleet):
    outcome = play(source, failover, fleet, seed=1)
    assert outcome.verdict == HOLDS, outcome
