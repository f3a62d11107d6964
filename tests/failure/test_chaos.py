"""Rounds of chaos with fixed seeds; together they have most of the faults, and each source on either ground."""

from contextlib import closing

import pytest

from tests.chaos.draw import draw
from tests.chaos.network import Network
from tests.chaos.plan import COMMITS
from tests.chaos.rounds import play

SEED = "342"
ROUNDS = range(5)


@pytest.fixture(scope="module")
def network(fleet):
    with closing(Network(fleet)) as network:
        yield network


@pytest.mark.parametrize("number", ROUNDS)
def test_nothing_is_lost(fleet, network, tmp_path, number):
    plan = draw(SEED, number)
    result = play(fleet, network, plan, tmp_path)
    assert result.violations == [], "\n".join(plan.lines())
    assert result.commits >= COMMITS
    assert len(result.struck) + sum(result.cut_short.values()) == len(plan.strikes)


def test_nothing_is_lost_where_both_sides_fail_over(fleet, network, tmp_path):
    plan = draw(SEED, 9, faults=("legacy_failed_over", "target_failed_over"))
    result = play(fleet, network, plan, tmp_path)
    assert result.violations == [], "\n".join(plan.lines())
    assert sorted(result.struck) == ["legacy_failed_over", "target_failed_over"]
