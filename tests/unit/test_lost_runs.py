"""The sensor that keeps the live delta going: whose runs it ends, which are lost to it, and when it starts one."""

import json
import time

import dagster as dg
import pytest

from assets.deployment import KEPT, LEDGER_TAG
from assets.lost_runs import SILENT_SECONDS, START_SECONDS
from assets.sensors import WINDOW_MINUTES
from tests.sensing import Clock, FakeLedger, Location, patch_ledgers

TICK = 5.0
FAILURE, STARTED, STARTING = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def instance(clock, monkeypatch):
    patch_ledgers(monkeypatch, clock)
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def here(instance):
    return Location("here", FakeLedger("aaaaaaaa"), instance)


@pytest.fixture
def there(instance):
    return Location("there", FakeLedger("bbbbbbbb"), instance)


def begun(location, worked=0.0):
    """A run that the location's sensor has launched, and that works."""
    location.tick()
    run = location.launched[-1]
    location.start(run)
    location.ledger.beat(run, worked)
    return run


def ticks(clock, seconds, *locations, beating=(), hanging=()):
    """Ticks of all sensors for so long; `beating` are pairs of a location and a run of it that lives meanwhile."""
    end = clock.now + seconds
    while clock.now < end:
        clock.now += TICK
        for location, run in beating:
            before = location.ledger.last_heartbeats[run].worked_seconds
            location.ledger.beat(run, before + TICK, hanging=tuple(hanging))
        for location in locations:
            location.tick()


@pytest.mark.hazard(101)
def test_runs_of_another_location_and_ledger_are_let_alone(clock, here, there):
    both = [(here, begun(here)), (there, begun(there))]
    ticks(clock, 300, here, there, beating=both)
    assert [location.status(run) for location, run in both] == [STARTED, STARTED]
    assert [len(location.launched) for location in (here, there)] == [1, 1]


@pytest.mark.hazard(101)
def test_without_its_guard_they_end_or_starve_each_other(clock, here, there, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "101")
    mine = begun(here)
    there.tick()
    assert there.launched == []  # the other's run is taken for its own
    ticks(clock, 300, there, beating=[(here, mine)])
    assert there.status(mine) == FAILURE


@pytest.mark.hazard(101)
def test_each_of_two_locations_over_one_ledger_has_a_run_of_its_own(clock, here, instance):
    beside = Location("beside", here.ledger, instance)
    both = [(here, begun(here)), (beside, begun(beside))]
    ticks(clock, 60, here, beside, beating=both)
    assert [len(location.launched) for location in (here, beside)] == [1, 1]
    ticks(clock, 60, here, beating=both[:1])
    assert beside.status(both[1][1]) == STARTED  # silent, but not ours to end
    ticks(clock, 60, beside)
    assert beside.status(both[1][1]) == FAILURE


def test_a_location_that_moved_to_another_ledger_begins_a_run_on_it(clock, here):
    old = begun(here)
    former, here.ledger = here.ledger, FakeLedger("cccccccc")
    new = begun(here)
    assert new != old
    ticks(clock, 300, here, beating=[(here, new)])
    assert here.status(old) == STARTED
    assert len(here.launched) == 2
    assert former.freed == []


@pytest.mark.parametrize("status", ["QUEUED", "NOT_STARTED", "STARTING"])
@pytest.mark.hazard(102)
def test_a_pod_that_needs_minutes_to_start_is_left_to_run_monitoring(clock, here, status):
    here.tick()
    here.instance.delete_run(here.launched.pop())
    run = here.run({**KEPT, LEDGER_TAG: "aaaaaaaa"}, status=dg.DagsterRunStatus(status))
    ticks(clock, 580, here)
    assert here.status(run) == dg.DagsterRunStatus(status)
    assert here.launched == []


def test_a_run_that_has_started_but_is_never_seen_is_lost_after_a_minute(clock, here):
    here.tick()
    (run,) = here.launched
    here.start(run, time.time() - 3_600)  # by a clock that is an hour behind
    ticks(clock, START_SECONDS - TICK, here)
    assert here.status(run) == STARTED
    ticks(clock, 3 * TICK, here)
    assert here.status(run) == FAILURE
    assert len(here.launched) == 2


@pytest.mark.hazard(103)
def test_a_step_of_the_ledgers_clock_ends_no_run(clock, here):
    run = begun(here)
    for stamp in ("2026-01-01T11:00:00+00:00", "2026-01-01T13:00:00+00:00", "2026-01-01T12:59:58+00:00"):
        here.ledger.stamp = stamp
        ticks(clock, 2 * SILENT_SECONDS, here, beating=[(here, run)])
    assert here.status(run) == STARTED
    assert len(here.launched) == 1
    assert here.ledger.freed == []


def test_a_silent_run_is_failed_and_its_leases_freed(clock, here):
    run = begun(here)
    ticks(clock, SILENT_SECONDS - TICK, here)
    assert here.status(run) == STARTED
    ticks(clock, 3 * TICK, here)
    assert here.status(run) == FAILURE
    assert here.ledger.freed == [run]
    assert here.instance.get_run_by_id(run).tags["dagster/retry_strategy"] == "ALL_STEPS"
    assert len(here.launched) == 2


def test_silence_while_the_sensor_itself_did_not_look_does_not_count(clock, here):
    run = begun(here)
    here.tick()
    clock.now += 3_600
    here.tick()
    assert here.status(run) == STARTED


@pytest.mark.parametrize(
    ("tags", "seen", "launches"),
    [(KEPT, True, 0), (KEPT, False, 1), ({}, True, 1)],
    ids=["of an older version", "of an older version, not of our ledger", "started by hand"],
)
def test_a_run_without_the_ledgers_tag_is_ours_if_our_ledger_has_seen_it(clock, here, tags, seen, launches):
    run = here.run(tags, status=STARTING)
    here.start(run)
    if seen:
        here.ledger.beat(run)
    here.tick()
    assert len(here.launched) == launches
    ticks(clock, 90, here)
    assert here.status(run) == (FAILURE if seen else STARTED)


def test_the_ledgers_tag_is_on_every_run_and_a_first_run_needs_no_ledger(here):
    here.ledger.id = None
    here.tick()
    here.tick()
    assert len(here.launched) == 1
    assert LEDGER_TAG not in here.instance.get_run_by_id(here.launched[0]).tags
    here.ledger.id = "aaaaaaaa"
    here.start(here.launched[0])
    here.ledger.beat(here.launched[0])
    here.tick()
    assert len(here.launched) == 1
    here.instance.report_run_canceled(here.instance.get_run_by_id(here.launched[0]))
    here.tick()
    assert here.instance.get_run_by_id(here.launched[1]).tags[LEDGER_TAG] == "aaaaaaaa"


def test_the_window_is_measured_by_the_runs_own_clock(clock, here):
    """Neither the launch nor the start, told by clocks of other hosts, makes it old."""
    here.tick()
    (run,) = here.launched
    here.start(run, time.time() - 36_000)
    here.ledger.beat(run, 10.0)
    here.tick()
    assert len(here.launched) == 1
    here.start(run)
    here.ledger.beat(run, WINDOW_MINUTES * 60 - 20)
    here.tick()
    assert len(here.launched) == 2


def test_a_successor_is_launched_as_much_earlier_as_starts_take(here):
    here.tick()
    (run,) = here.launched
    here.start(run, time.time() + 180)
    here.ledger.beat(run, WINDOW_MINUTES * 60 - 240)
    here.tick()
    assert len(here.launched) == 1
    here.ledger.beat(run, WINDOW_MINUTES * 60 - 200)
    here.tick()
    assert len(here.launched) == 2


def test_two_daemons_ask_for_the_same_successor(here):
    first = here.tick().run_requests[0]
    here.instance.delete_run(here.launched[-1])
    again = here.tick().run_requests[0]
    assert first.run_key == again.run_key
    begun_again = here.launched[-1]
    here.instance.report_run_canceled(here.instance.get_run_by_id(begun_again))
    assert here.tick().run_requests[0].run_key != first.run_key


@pytest.mark.hazard(105)
def test_a_run_of_which_one_entity_hangs_lives_and_gets_one_helper(clock, here):
    run = begun(here)
    ticks(clock, 60, here, beating=[(here, run)], hanging=["video"])
    assert here.status(run) == STARTED
    assert len(here.launched) == 2
    helper = here.launched[1]
    here.start(helper)
    here.ledger.beat(helper)
    ticks(clock, 60, here, beating=[(here, run), (here, helper)], hanging=["video"])
    assert len(here.launched) == 2


def test_a_tick_reads_the_ledger_once(here):
    begun(here)
    before = here.ledger.reads
    here.tick()
    assert here.ledger.reads == before + 1


def test_a_cursor_of_an_older_version_is_taken(clock, here):
    run = begun(here)
    here.cursor = json.dumps({run: time.time() - 600})
    here.tick()
    assert here.status(run) == STARTED
