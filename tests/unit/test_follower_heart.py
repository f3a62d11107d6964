"""The follower's heart: one entity that hangs does not silence it, and it beats until all threads have ended."""

import threading
import time
from types import SimpleNamespace

import pytest

from sync_pipeline.errors import FormerReleaseError, HiddenRowsError, LeaseLostError, UnreachableError
from sync_pipeline.run import follower
from sync_pipeline.run.follower import HANG_SECONDS, Follower
from sync_pipeline.run.pace import Pace


class Lease:
    def __init__(self):
        self.renewed = 0

    def renew(self, _):
        self.renewed += 1


@pytest.fixture
def beats(monkeypatch):
    """What each beat names as hanging."""
    found = []
    monkeypatch.setattr(follower, "beat", lambda stores, name, worked, hanging: found.append(list(hanging)))
    return found


@pytest.fixture
def two(beats):
    """A follower of two entities whose polls moved just now."""
    made = Follower([SimpleNamespace(name="text"), SimpleNamespace(name="video")], SimpleNamespace(worker=""))
    made._leases = {"text": Lease(), "video": Lease()}
    made._moved = dict.fromkeys(("text", "video"), time.monotonic())
    return made


SETTINGS = SimpleNamespace(sweep_seconds=300, poll_seconds=0.2, idle_poll_seconds=1.0)
LONG_AGO = time.monotonic() - HANG_SECONDS - 1


@pytest.mark.hazard(105)
def test_an_entity_that_hangs_loses_its_lease_and_nobody_else_does(two, beats):
    two._moved["video"] = LONG_AGO
    two._beat()
    assert beats == [["video"]]
    assert (two._leases["text"].renewed, two._leases["video"].renewed) == (1, 0)


@pytest.mark.parametrize("error", [FormerReleaseError, LeaseLostError, UnreachableError])
def test_a_lease_that_cannot_be_renewed_does_not_end_the_follower(two, beats, monkeypatch, error):
    """Its entity's own thread says why; a release that the ledger refuses goes on saying so until it is upgraded."""

    def refused(_):
        raise error("text")

    monkeypatch.setattr(two._leases["text"], "renew", refused)
    two._beat()
    assert beats == [[]]
    assert two._leases["video"].renewed == 1


@pytest.mark.hazard(105)
def test_while_any_thread_moves_the_heart_beats(two, beats):
    two._moved = dict.fromkeys(("text", "video"), LONG_AGO)
    two._any_moved = time.monotonic()  # a sweep
    two._beat()
    assert beats == [["text", "video"]]


@pytest.mark.hazard(111)
@pytest.mark.parametrize("error", [UnreachableError, HiddenRowsError])
def test_a_sweep_that_cannot_go_on_does_not_keep_the_recovery_from_its_turn(two, monkeypatch, error):
    halt, turns = threading.Event(), []

    def stopped(*_):
        raise error("the monolith")

    monkeypatch.setattr(follower, "sweep_is_due", lambda _: True)
    monkeypatch.setattr(follower, "go_on", stopped)
    monkeypatch.setattr(follower, "recover", lambda context, halt: turns.append(context) or halt.set())
    context = SimpleNamespace(entity=two.entities[0], stores=SimpleNamespace(settings=SETTINGS))
    two._sweep_on(context, halt)
    assert turns == [context]


def test_whether_a_sweep_is_due_is_asked_at_the_pace_of_an_idle_entity(two, monkeypatch):
    """Fifty idle entities would ask the ledger a hundred times a second."""
    monkeypatch.setattr(follower, "sweep_is_due", lambda _: False)
    monkeypatch.setattr(follower, "recover", lambda context, halt: None)
    two._paces["text"] = pace = Pace(0.2, 5.0)
    waits, context = [], SimpleNamespace(entity=two.entities[0], stores=SimpleNamespace(settings=SETTINGS))

    class Halt(threading.Event):
        def wait(self, timeout=None):
            waits.append(timeout)
            pace._busy_at = LONG_AGO if len(waits) == 1 else time.monotonic()
            return len(waits) == 3 and self.set()

    two._sweep_on(context, Halt())
    assert waits == [0.5, 5.0, 0.5]


def test_where_nothing_moves_any_more_it_falls_silent(two, beats):
    two._moved = dict.fromkeys(("text", "video"), LONG_AGO)
    two._any_moved = LONG_AGO
    two._beat()
    assert beats == []


@pytest.mark.hazard(105)
def test_it_beats_until_its_threads_have_ended(two, beats, monkeypatch):
    """A sweep goes on for a while when the window is over."""
    monkeypatch.setattr(follower, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(follower, "migrate", lambda _: None)
    monkeypatch.setattr(follower, "leave", lambda *_: beats.append("left"))
    stop, ends = threading.Event(), threading.Event()
    stop.set()

    def sweep(_):
        while len(beats) < 5:  # at the start, and while it is waited for
            assert not ends.wait(0.01)

    monkeypatch.setattr(two, "_keep", sweep)
    watchdog = threading.Timer(10, ends.set)
    watchdog.start()
    two.run(stop)
    watchdog.cancel()
    assert not ends.is_set()
    assert len(beats) >= 6
    assert beats[-1] == "left"


def test_an_entity_that_is_stopped_does_not_hang(two, beats, monkeypatch):
    """It is tried again every few seconds, and must not look as if its poll stood still."""
    monkeypatch.setattr(follower.EntityContext, "open", lambda *_: two._stop.set() or 1 / 0)
    two._moved["text"] = LONG_AGO
    two._keep(two.entities[0])
    assert two.hanging() == []
    assert [*two.failures] == ["text"]
