"""The window of late commits: no transaction's rows are passed over, and no forgotten session stops the rest."""

import datetime as dt
from dataclasses import replace

import pytest

from sync_pipeline.sources.window import BEGINNING, Mark, Window, advance, observe
from sync_pipeline.stores.clock import Reading

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
LOOKBACK = dt.timedelta(minutes=15)


def at(seconds):
    return NOON + dt.timedelta(seconds=seconds)


def session(seconds):
    return {"since": at(seconds).isoformat(), "who": "pid 1"}


def step(before, seconds, sessions=None, prepared=(), hidden=0):
    """(the window after a look, the instant of its bound)."""
    window, bound = advance(before, Mark(at(seconds)), sessions or {}, list(prepared), hidden, LOOKBACK)
    return window, bound.at


def drawn(before, seconds, number, sessions=None, prepared=(), margin=0):
    """(the window after a look, the number of its bound), of one sequence."""
    now = Mark(at(seconds), {"s": number})
    behind = dt.timedelta(seconds=margin)
    window, bound = advance(before, now, sessions or {}, list(prepared), 0, LOOKBACK, behind)
    return window, bound.numbers.get("s")


def test_the_first_look_reads_everything():
    assert step(None, 0)[1] == BEGINNING.at


def test_an_idle_monolith_is_read_from_the_look_before():
    window, _ = step(None, 0)
    assert step(window, 1)[1] == at(0)


@pytest.mark.hazard(1)
@pytest.mark.hazard(3)
def test_an_open_transaction_does_not_widen_the_window_until_it_ends():
    window, _ = step(None, 0, {"a": session(-600)})
    window, bound = step(window, 1, {"a": session(-600)})
    assert bound == at(0)
    assert window.low == at(-600)
    window, bound = step(window, 2)
    assert bound == at(-600)
    assert step(window, 3)[1] == at(2)


def test_a_transaction_that_came_and_went_between_looks_is_covered():
    window, _ = step(None, 0)
    assert step(window, 10)[1] == at(0)


@pytest.mark.hazard(1)
def test_a_prepared_transaction_keeps_the_start_it_had_as_a_session():
    window, _ = step(None, 0, {"a": session(-60)})
    window, _ = step(window, 1, {}, ["prepared x"])
    assert window.holders["prepared x"].at == at(-60)
    assert step(window, 2)[1] == at(-60)


def test_a_transaction_begun_and_prepared_between_looks_is_bound_by_the_first_of_them():
    window, _ = step(None, 0)
    window, _ = step(window, 5, {}, ["prepared x"])
    window, bound = step(window, 9, {}, ["prepared x"])
    assert bound == at(5)
    assert step(window, 10)[1] == at(0)


def test_a_transaction_prepared_while_a_poll_looked_keeps_the_start_it_had_as_a_session():
    window, _ = step(None, 0, {"a": session(-60)})
    window, _ = step(window, 1, {"a": session(-60)}, ["prepared x"])
    window, _ = step(window, 2, {}, ["prepared x"])
    window, _ = step(window, 3, {}, ["prepared x"])
    assert step(window, 4)[1] == at(-60)


def test_a_transaction_prepared_before_the_first_look_may_have_stamped_at_any_time():
    window, _ = step(None, 0, {}, ["prepared x"])
    assert step(window, 1)[1] == BEGINNING.at


def test_hidden_sessions_are_answered_by_looking_back():
    window, _ = step(None, 0)
    window, bound = step(window, 1, hidden=1)
    assert bound == at(1) - LOOKBACK
    window, bound = step(Window.from_state(window.as_state()), 2)
    assert bound == at(2) - LOOKBACK  # it has ended meanwhile
    assert step(window, 3)[1] == at(2)


def test_the_state_survives_a_restart():
    window, _ = step(None, 0, {"a": session(-7)}, ["prepared x"])
    again = Window.from_state(window.as_state())
    assert (again.seen, again.holders) == (window.seen, window.holders)


def test_numbers_are_read_from_where_the_sequence_stood_at_the_look_before():
    window, bound = drawn(None, 0, 10)
    assert bound is None
    window, bound = drawn(window, 1, 15)
    assert bound == 10
    assert drawn(window, 2, 15)[1] == 15


def test_a_transaction_draws_above_the_last_look_that_did_not_meet_it():
    window, _ = drawn(None, 0, 10)
    window, _ = drawn(window, 1, 15, {"a": session(0)})  # it may have drawn 10 to 14
    window, bound = drawn(window, 2, 99, {"a": session(0)})
    assert bound == 15
    window, bound = drawn(window, 3, 100)
    assert bound == 10
    assert drawn(window, 4, 100)[1] == 100


def test_who_was_open_at_the_first_look_may_have_drawn_any_number():
    window, _ = drawn(None, 0, 10, {"a": session(-5)})
    assert window.unmarked
    window, bound = drawn(window, 1, 12, {"a": session(-5)})
    assert (window.unmarked, bound) == (True, 10)
    window, bound = drawn(window, 2, 12)
    assert (window.unmarked, bound) == (False, None)


def test_a_prepared_transaction_keeps_the_number_it_had_as_a_session():
    window, _ = drawn(None, 0, 10)
    window, _ = drawn(window, 1, 15, {"a": session(1)})
    window, _ = drawn(window, 2, 20, {}, ["prepared x"])
    window, _ = drawn(window, 3, 30, {}, ["prepared x"])
    assert drawn(window, 4, 40)[1] == 10


def test_a_sequence_that_was_set_back_is_read_from_its_beginning_once_and_for_all_who_are_open():
    window, _ = drawn(None, 0, 10)
    window, _ = drawn(window, 1, 50, {"a": session(1)})
    window, bound = drawn(window, 2, 3, {"a": session(1)})
    assert bound is None
    window, bound = drawn(window, 3, 5, {"a": session(1)})
    assert bound == 3
    window, bound = drawn(window, 4, 6)
    assert bound is None
    assert drawn(window, 5, 7)[1] == 6


def test_a_new_sequence_is_read_from_its_beginning_once():
    window, _ = step(None, 0)
    window, bound = drawn(window, 1, 10, margin=10)
    assert bound is None
    window, bound = drawn(window, 2, 20, margin=10)
    assert bound == 10


def test_numbers_count_as_they_stood_a_margin_ago():
    window, _ = drawn(None, 0, 10, margin=2)
    bounds = []
    for n in range(1, 6):
        window, bound = drawn(window, n, 10 * n + 10, margin=2)
        bounds.append(bound)
    assert bounds == [10, 10, 10, 20, 30]
    again = Window.from_state(window.as_state())
    assert drawn(again, 6, 70, margin=2)[1] == 40


def test_a_mark_of_both_kinds_is_as_early_as_the_earliest_of_each():
    window, _ = drawn(None, 0, 10)
    window, _ = drawn(window, 1, 20, {"a": session(-3)})
    window, _ = drawn(window, 2, 30, {"a": session(-3)})
    _, bound = advance(window, Mark(at(3), {"s": 40}), {}, [], 0, LOOKBACK)
    assert bound == Mark(at(-3), {"s": 10})


def stepped(before, seconds, elapsed, sessions=None, tolerance=1.0):
    """A look after `elapsed` seconds of our own clock, at which the monolith's clock shows `seconds`."""
    passed, tolerated = (dt.timedelta(seconds=each) for each in (elapsed, tolerance))
    return step(before.set_back(at(seconds), passed, tolerated), seconds, sessions)


@pytest.mark.hazard(107)
def test_a_clock_that_is_set_back_is_read_from_where_it_may_have_stood():
    window, _ = step(None, 0)
    window, bound = stepped(window, -3590, 10)  # set back by an hour, then or ten seconds ago
    assert bound == at(-3600)
    assert window.low == at(-3590)
    assert stepped(window, -3589, 1)[1] == at(-3590)


@pytest.mark.hazard(107)
def test_without_its_guard_rows_stamped_since_are_passed_over(monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "107")
    window, _ = step(None, 0)
    assert stepped(window, -3590, 10)[1] == at(0)


@pytest.mark.hazard(107)
def test_a_small_step_that_time_has_made_up_for_is_noticed_too():
    window, _ = step(None, 0)
    assert stepped(window, 290, 300)[1] == at(-10)


def test_a_clock_that_runs_ahead_widens_nothing():
    window, _ = step(None, 0)
    assert stepped(window, 3600, 10)[1] == at(0)


def test_the_time_that_a_look_takes_is_no_step():
    window, _ = step(None, 0)
    assert stepped(window, 9.5, 10)[1] == at(0)


@pytest.mark.hazard(107)
def test_a_transaction_that_is_open_across_the_step_may_have_stamped_before_its_start():
    window, _ = step(None, 0, {"a": session(-5)})
    window, _ = stepped(window, -3590, 10, {"a": session(-5)})
    assert window.low == at(-3605)
    window, _ = step(window, -3580, {"a": session(-5)})
    assert step(window, -3570)[1] == at(-3605)


@pytest.mark.hazard(107)
def test_a_transaction_that_began_before_the_step_and_was_met_after_it_counts_from_the_look_before():
    window, _ = step(None, 0)
    window, _ = stepped(window, -3590, 10, {"a": session(7)})
    window, _ = step(window, -3580, {"a": session(7)})
    assert step(window, -3570)[1] == at(-3600)


def test_what_was_seen_of_numbers_does_not_pile_up_until_the_clock_has_caught_up():
    window, _ = drawn(None, 0, 10, margin=2)
    window = window.set_back(at(-3600), dt.timedelta(seconds=1), dt.timedelta(seconds=1))
    for n in range(10):
        window, _ = drawn(window, -3600 + n, 10 + n, margin=2)
    assert len(window.trail) == 3


def test_a_reading_of_the_clocks_survives_a_restart():
    read = Reading("this boot", 100.0, 5_000.0)
    window, _ = step(None, 0)
    again = Window.from_state(replace(window, read=read).as_state())
    assert again.read == read
    assert Reading("this boot", 130.0, 1.0).since(again.read) == dt.timedelta(seconds=30)
    assert Reading("another boot", 1.0, 5_020.0).since(again.read) == dt.timedelta(seconds=20)
    assert Reading.now().since(Reading.now()) == dt.timedelta(0)


class Monolith:
    """A cursor at a monolith whose clock shows what it is told to, and where nothing is open."""

    def __init__(self, seconds):
        self.seconds = seconds

    def execute(self, *_):
        """Whatever is asked."""

    def fetchone(self):
        return at(self.seconds), {}, 0

    def fetchall(self):
        return []


@pytest.mark.hazard(107)
@pytest.mark.parametrize("persisted", [False, True])
def test_a_look_measures_the_time_since_the_look_before(monkeypatch, persisted):
    """A minute passes here, and the monolith's clock is set back by half an hour meanwhile."""
    up = [1_000.0]
    monkeypatch.setattr(Reading, "now", classmethod(lambda cls: cls("this boot", up[0], 0.0)))
    window, _ = observe(Monolith(0), None, LOOKBACK)
    window = Window.from_state(window.as_state()) if persisted else window
    up[0] += 60
    _, bound = observe(Monolith(60 - 1_800), window, LOOKBACK)
    assert bound.at == at(-1_800)
    _, bound = observe(Monolith(60), window, LOOKBACK)
    assert bound.at == at(0)
