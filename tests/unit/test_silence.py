"""Silence is what an observer saw by its own clock: neither steps of clocks nor its own pauses make a worker lost."""

from assets.silence import LONGEST_PAUSE_SECONDS, Silence


def looks(*seen):
    """Silent seconds after looks of (time, mark), each read back from a cursor."""
    silence = Silence()
    for now, mark in seen:
        silence = Silence.from_cursor(silence.look({"run": mark}, now).to_cursor())
    return silence.seconds["run"]


def test_a_worker_is_silent_for_as_long_as_its_mark_stays():
    assert looks((0, "a"), (5, "a"), (10, "a")) == 10
    assert looks((0, "a"), (5, "b"), (10, "b")) == 5
    assert looks((0, "a"), (5, "b"), (10, "a")) == 0


def test_a_pause_of_the_observer_is_not_the_workers_silence():
    assert looks((0, "a"), (3_600, "a")) == LONGEST_PAUSE_SECONDS


def test_another_host_with_another_clock_may_go_on():
    assert looks((90_000, "a"), (5, "a"), (10, "a")) == 5


def test_a_worker_that_is_gone_is_forgotten():
    silence = Silence().look({"run": "a"}, 0).look({}, 5)
    assert Silence.from_cursor(silence.to_cursor()).seconds == {}


def test_a_cursor_of_an_older_version_begins_anew():
    assert Silence.from_cursor('{"some run": 1700000000.5}') == Silence()
    assert Silence.from_cursor(None) == Silence()
