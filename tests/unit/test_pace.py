"""The pace of looks: close while something comes, further apart the longer nothing does."""

import threading
import time

import pytest

from sync_pipeline.run import pace
from sync_pipeline.run.pace import Pace


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    return now


def test_an_idle_entity_is_looked_at_less_often_and_at_once_after_a_change(clock):
    this = Pace(0.2, 1.0)
    waits = []
    for _ in range(40):
        this.note(False)
        waits.append(this.seconds())
        clock[0] += 1
    assert waits[:5] == [0.2] * 5
    assert waits == sorted(waits)
    assert waits[-1] == 1.0
    this.note(True)
    assert this.seconds() == 0.2


def test_no_look_is_closer_than_set(clock):
    this = Pace(3.0, 1.0)
    clock[0] += 100
    assert this.seconds() == 3.0


def test_a_thread_that_rests_wakes_when_something_comes():
    this, halt = Pace(60.0, 60.0), threading.Event()
    thread = threading.Thread(target=this.rest, args=(halt,))
    this._shortest = 0.01
    this._busy_at = time.monotonic() - 1e6
    try:
        thread.start()
        limit = time.monotonic() + 10
        while thread.is_alive() and time.monotonic() < limit:
            this.note(True)
            thread.join(0.01)
        assert not thread.is_alive()
    finally:
        halt.set()


def test_a_thread_that_rests_ends_with_halt():
    this, halt = Pace(0.2, 60.0), threading.Event()
    this._busy_at = time.monotonic() - 1e6
    halt.set()
    this.rest(halt)
