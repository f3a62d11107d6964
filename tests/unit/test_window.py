"""The window of late commits: no transaction's rows are passed over, and no forgotten session stops the rest."""

import datetime as dt

from sync_pipeline.sources.window import BEGINNING, Window, advance

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
LOOKBACK = dt.timedelta(minutes=15)


def at(seconds):
    return NOON + dt.timedelta(seconds=seconds)


def session(seconds):
    return {"since": at(seconds).isoformat(), "who": "pid 1"}


def step(before, seconds, sessions=None, prepared=(), hidden=0):
    return advance(before, at(seconds), sessions or {}, list(prepared), hidden, LOOKBACK)


def test_the_first_look_reads_everything():
    assert step(None, 0)[1] == BEGINNING


def test_an_idle_monolith_is_read_from_the_look_before():
    window, _ = step(None, 0)
    assert step(window, 1)[1] == at(0)


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


def test_a_prepared_transaction_keeps_the_start_it_had_as_a_session():
    window, _ = step(None, 0, {"a": session(-60)})
    window, _ = step(window, 1, {}, ["prepared x"])
    assert window.holders["prepared x"] == at(-60)
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
    assert step(window, 1)[1] == BEGINNING


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
    assert (again.seen_at, again.holders) == (window.seen_at, window.holders)
