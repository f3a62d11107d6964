import threading
import time
from random import Random

from demo.edit.late import LateCommits
from demo.edit.pace import Pace
from demo.edit.roster import Roster


class FakeConnection:
    def __init__(self):
        self.calls = []

    def commit(self):
        self.calls.append("commit")

    def close(self):
        self.calls.append("close")


def test_the_pace_hands_out_each_ticket_at_its_time():
    pace = Pace(100, 0.1, threading.Event())
    began = time.monotonic()
    tickets = list(iter(pace.next, None))
    assert tickets == list(range(len(tickets)))
    assert len(tickets) <= 10
    assert time.monotonic() - began >= (len(tickets) - 1) / 100


def test_a_stopped_pace_has_no_more_tickets():
    stop = threading.Event()
    pace = Pace(0.01, 1_000, stop)
    assert pace.next() == 0
    stop.set()
    assert pace.next() is None


def test_nobody_gets_what_a_long_transaction_holds():
    roster = Roster([1])
    assert roster.pick(Random(1), hold=True) == 1
    assert roster.pick(Random(1)) is None
    roster.release(1)
    assert roster.pick(Random(1)) == 1
    assert roster.pick(Random(1), hold=True) is None


def test_a_roster_follows_what_comes_and_goes():
    roster = Roster([1, 2, 3])
    roster.remove(1)
    roster.remove(1)
    roster.add(4)
    assert {roster.pick(Random(seed)) for seed in range(100)} == {2, 3, 4}


def test_late_transactions_commit_at_the_end_at_the_latest():
    late, outcomes, connection = LateCommits(), [], FakeConnection()
    late.start()
    late.keep(connection, 1_000, outcomes.append)
    late.hurry()
    late.finish()
    assert outcomes == [True]
    assert connection.calls == ["commit", "close"]
