"""Who waits until entities have caught up: one that stops for a moment is waited for all the same."""

import threading
import time
from types import SimpleNamespace

import dagster as dg
import pytest

from assets import live
from assets.deployment import KEPT, LEDGER_TAG
from sync_pipeline.cli import following
from sync_pipeline.run.heartbeat import Workers
from tests.sensing import FakeLedger, Location


class Stops:
    """A follower of two entities, and how far they are: `late` stops, goes on, and catches up at last."""

    def __init__(self, *, goes_on):
        self.looks = 0
        self.goes_on = goes_on
        self.entities = [SimpleNamespace(name="early"), SimpleNamespace(name="late")]
        self.contexts = [SimpleNamespace(entity=entity) for entity in self.entities]

    @property
    def failures(self):
        stopped = self.looks == 1 if self.goes_on else self.looks > 0
        return {"late": RuntimeError("no such column")} if stopped else {}

    def caught_up(self, context, _):
        if context.entity.name == "early":
            return self.looks >= 3
        return self.goes_on and self.looks >= 5


@pytest.fixture(params=[True, False], ids=["goes on", "never goes on"])
def follower(request):
    return Stops(goes_on=request.param)


def test_a_run_of_dagster_waits_for_it(follower, monkeypatch):
    monkeypatch.setattr(live, "open_contexts", lambda *_: (follower.contexts, {}))
    monkeypatch.setattr(live, "mark", lambda _: "now")
    monkeypatch.setattr(live, "caught_up", follower.caught_up)
    watch = live.Watch(SimpleNamespace(), SimpleNamespace(), follower, live.Moved())

    def look():
        follower.looks += 1

    monkeypatch.setattr(watch, "_observe_run", look)
    watch.until_caught_up()
    assert follower.looks == (5 if follower.goes_on else 3)
    assert [*watch.left] == ([] if follower.goes_on else ["late"])


def test_a_command_tells_what_it_has_not_waited_for(follower, monkeypatch):
    monkeypatch.setattr(following, "mark", lambda _: "now")
    monkeypatch.setattr(following, "has_caught_up", follower.caught_up)
    monkeypatch.setattr(following, "_LOOK_SECONDS", 0)
    left = {}

    def look():
        follower.looks += 1

    following._watch(follower.contexts, follower, threading.Event(), look, left)
    assert follower.looks == (5 if follower.goes_on else 3)
    assert [*left] == ([] if follower.goes_on else ["late"])


class Recorder:
    """Stands for a run's context: the run that follows, on an instance that holds it and others."""

    def __init__(self, location, run_id):
        self.instance, self.run = location.instance, location.instance.get_run_by_id(run_id)
        self.log = SimpleNamespace(warning=lambda _: None)


@pytest.mark.hazard(102)
def test_a_run_follows_until_its_successor_beats(monkeypatch):
    """A pod may need minutes to start; meanwhile somebody must follow."""
    with dg.DagsterInstance.ephemeral() as instance:
        here = Location("here", FakeLedger("aaaaaaaa"), instance)
        there = Location("there", FakeLedger("bbbbbbbb"), instance)
        tags = {**KEPT, LEDGER_TAG: "aaaaaaaa"}
        ours = here.run(tags, status=dg.DagsterRunStatus.STARTED)
        here.ledger.beat(ours)
        there.run({**KEPT, LEDGER_TAG: "bbbbbbbb"})
        monkeypatch.setattr(live, "read_workers", lambda ledger: Workers(ledger.id, dict(ledger.last_heartbeats)))

        def awaits(end=0.0):
            watch = live.Watch(Recorder(here, ours), here.ledger, SimpleNamespace(), live.Moved())
            return watch._awaits_successor(time.monotonic() + end)

        assert not awaits()  # the other location's successor is not ours
        queued = here.run(tags, status=dg.DagsterRunStatus.QUEUED)
        assert not awaits()  # it may wait for our place
        instance.delete_run(queued)
        successor = here.run(tags)
        assert awaits()
        assert not awaits(-live._LONGEST_WAIT_SECONDS - 1)
        here.start(successor)
        assert awaits()
        here.ledger.beat(successor)
        assert not awaits()
