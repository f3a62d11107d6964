"""Dagster's own processes and its runs are killed under editors: everything goes on again without hands."""

import subprocess
import time
from contextlib import contextmanager

import psutil
import pytest

from demo.lag import Observer
from demo.run.api import DagsterApi
from tests.newsroom import edited
from tests.world import wait_for

FLOWS_AGAIN = 60  # seconds
CALM = 6  # seconds
_BEHIND = "SELECT entity FROM sync.cursor WHERE applied_through IS NULL OR applied_through < %s"
_FOLLOWS = "SELECT h.pid FROM sync.heartbeat h WHERE h.name = (SELECT min(owner) FROM sync.cursor)"
_FILLS = "SELECT pid FROM sync.heartbeat WHERE name = %s"


@pytest.fixture(scope="module")
def world(fresh_world):
    fresh_world.load(1_500, 20)
    for name in fresh_world.contexts:
        fresh_world.all_in(name)
    return fresh_world


@pytest.fixture(scope="module")
def api(world):
    """Dagster, kept by a supervisor, with the sensor on."""
    fleet = world.fleet
    fleet.start_dagster({})  # the environment leads to this world
    try:
        with fleet.dagster_kept():
            api = DagsterApi(fleet.webserver.url)
            api.wait_ready()
            api.start_sensor("keep_live")
            wait_for(lambda: follows(world), FLOWS_AGAIN)
            yield api
    finally:
        for service in reversed(fleet.dagster):
            service.kill()


def follows(world):
    """The process of the run that holds the leases."""
    return [psutil.Process(pid) for (pid,) in world.target(_FOLLOWS) if psutil.pid_exists(pid)]


def flows(world):
    """Wait until everything is applied that is committed now."""
    ((since,),) = world.legacy("SELECT clock_timestamp()")
    wait_for(lambda: not world.target(_BEHIND, [since]), FLOWS_AGAIN)


@contextmanager
def quick(world):
    """Edits that are committed in this block arrive within seconds, all of them."""
    observer = Observer(world.monolith.admin_url, world.target_url).start()
    yield
    report = observer.finish(wait_seconds=20)
    assert report.undelivered == 0, report.line()
    assert report.share(0.95) < 5, report.line()


def run_and(service):
    """A service with its children, and the run that follows."""
    return lambda world: [
        *follows(world),
        *getattr(world.fleet, service).leader().children(recursive=True),
        getattr(world.fleet, service).leader(),
    ]


@pytest.mark.parametrize(
    ("victims", "act"),
    [(follows, "kill"), (follows, "suspend"), (run_and("daemon"), "kill"), (run_and("code"), "kill")],
    ids=["run", "run hangs", "daemon and run", "code server and run"],
)
def test_the_live_delta_flows_again(world, api, victims, act):
    with edited(world, seed=5):
        found = victims(world)
        assert found
        for process in found:
            getattr(process, act)()
        flows(world)
    with quick(world), edited(world, seed=6):
        time.sleep(CALM)
    for process in found:
        if process.is_running():
            process.kill()
    wait_for(lambda: started(api) == ["sync"], FLOWS_AGAIN)


def test_a_history_run_that_is_killed_begins_again(world, api):
    backfill = api.backfill(["history", "text_history"])
    wait_for(lambda: "__ASSET_JOB" in started(api), FLOWS_AGAIN)
    (run,) = (run["runId"] for run in api.runs(tags=[{"key": "dagster/backfill", "value": backfill}]))
    wait_for(lambda: world.target(_FILLS, [run]), FLOWS_AGAIN)
    psutil.Process(world.target(_FILLS, [run])[0][0]).kill()
    api.wait_backfills([backfill], 120)
    assert api.wait_run(run, 1) == "FAILURE"
    assert len(api.runs(tags=[{"key": "dagster/backfill", "value": backfill}])) == 2
    assert world.target("SELECT count(*) FROM sync.backfill WHERE entity = 'text' AND NOT done") == [(0,)]


@contextmanager
def second_daemon(fleet, log):
    """Another daemon over the same instance, as a deployment gone wrong would have it; it evaluates sensors, too."""
    with log.open("wb") as output:
        options = {"stdout": output, "stderr": output, **fleet.daemon.spawn_options()}
        daemon = subprocess.Popen(fleet.daemon.command(), **options)
    try:
        wait_for(lambda: "sensor: keep_live" in log.read_text(), FLOWS_AGAIN)
        yield daemon
    finally:
        daemon.kill()
        daemon.wait()


def test_two_daemons_do_no_harm(world, api, tmp_path):
    with edited(world, seed=8) as observer, second_daemon(world.fleet, tmp_path / "daemon.log") as daemon:
        for process in follows(world):
            process.kill()
        flows(world)
        assert daemon.poll() is None
    with quick(world), edited(world, seed=9):
        time.sleep(CALM)
    assert observer.setbacks == []


def started(api):
    """Names of jobs of runs that are under way."""
    return [run["jobName"] for run in api.runs(statuses=["QUEUED", "STARTING", "STARTED", "CANCELING"])]
