"""A store that is down is left alone, and found again by one request."""

import pytest

from sync_pipeline.errors import UnreachableError
from sync_pipeline.stores import breaker as module
from sync_pipeline.stores.breaker import Breaker

LONGEST = 30 * 1.25


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

    monkeypatch.setattr(module.time, "monotonic", lambda: Clock.now)
    return Clock


def ask(breaker, error=None):
    """What came of a request: "asked", or why nobody was asked."""
    try:
        with breaker:
            if error:
                raise error
    except UnreachableError as refused:
        return "asked" if refused is error else str(refused)
    return "asked"


AWAY = UnreachableError("connection refused")


def test_opens_after_three_failures_in_a_row_and_says_why(clock):
    breaker = Breaker("search")
    for _ in range(2):
        ask(breaker, AWAY)
    ask(breaker)  # an answer: the count begins anew
    for _ in range(2):
        assert ask(breaker, AWAY) == "asked"
    assert not breaker.is_open
    assert ask(breaker, AWAY) == "asked"
    assert breaker.is_open
    assert "connection refused" in ask(breaker)
    clock.now += 1.5
    assert not breaker.is_open


def test_one_at_a_time_tries_again(clock):
    breaker = Breaker("search")
    for _ in range(3):
        ask(breaker, AWAY)
    clock.now += 1.5
    with breaker:  # the one that tries
        assert "tried again" in ask(breaker)
    assert ask(breaker) == "asked"


def test_pauses_grow_to_half_a_minute_and_no_further(clock):
    breaker = Breaker("search")
    for _ in range(2):
        ask(breaker, AWAY)
    pauses = []
    for _ in range(9):
        assert ask(breaker, AWAY) == "asked"
        began = clock.now
        while breaker.is_open:
            clock.now += 0.1
        pauses.append(clock.now - began)
    assert pauses[0] < 1.5
    assert 1.4 < pauses[1] < 2.7
    assert all(20 < pause <= LONGEST + 0.2 for pause in pauses[6:])


def test_an_error_that_is_no_outage_counts_as_an_answer(clock):
    breaker = Breaker("search")
    for _ in range(2):
        ask(breaker, AWAY)
    with pytest.raises(KeyError), breaker:
        raise KeyError
    ask(breaker, AWAY)
    assert not breaker.is_open
