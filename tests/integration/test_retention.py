"""Retention on the storage that dagster.yaml names: what goes, what stays, and that a kill loses nothing."""

import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

import dagster as dg
import psycopg2
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from assets.retention import Limits, Scope, forget_old, keep_connections
from demo.databases import DAGSTER, create_target, drop_database
from tests.sensing import FakeLedger, Location

REPOSITORY = Path(__file__).resolve().parents[2]
DAY = 86_400.0
LIMITS = Limits(sync_days=1, run_days=30, standing_days=7, check_days=90, backfills=1)
HISTORY, ROWS = dg.AssetKey("history"), dg.AssetKey("rows")
VERDICT = dg.AssetCheckKey(ROWS, "verdict")


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["a", "b"]))
def history() -> None: ...


@dg.asset
def rows(context: dg.AssetExecutionContext):
    context.log_event(dg.AssetObservation(ROWS))
    return dg.MaterializeResult(tags={"a": "tag"})


@dg.asset_check(asset=rows)
def verdict():
    return dg.AssetCheckResult(passed=False)


@dg.definitions
def small():
    return dg.Definitions(
        assets=[history, rows],
        asset_checks=[verdict],
        jobs=[
            dg.define_asset_job("sync", dg.AssetSelection.assets(rows).without_checks()),
            dg.define_asset_job("fill", dg.AssetSelection.assets(history)),
            dg.define_asset_job("reconcile", dg.AssetSelection.checks(verdict)),
        ],
        executor=dg.in_process_executor,
    )


@pytest.fixture
def url(fleet):
    yield create_target(fleet.target, "retention", owner=DAGSTER)
    drop_database(fleet.target, "retention")


@pytest.fixture
def instance(url, tmp_path, monkeypatch):
    at = urlsplit(url)
    named = {"HOST": at.hostname, "PORT": str(at.port), "USER": at.username, "PASSWORD": at.password, "DB": at.path[1:]}
    for name, value in named.items():
        monkeypatch.setenv(f"DAGSTER_PG_{name}", value)
    shutil.copy2(REPOSITORY / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as made:
        keep_connections(made)
        yield made


@pytest.fixture
def ran(instance):
    """Runs a job; the run's id."""
    defs = small()

    def run(job, **options):
        done = defs.resolve_job_def(job).execute_in_process(instance=instance, **options)
        assert done.success
        return done.run_id

    return run


def forget(instance, days, frequent=("sync",), limits=LIMITS):
    """As if so many days had passed."""
    return forget_old(instance, frequent, limits, now=time.time() + days * DAY)


def there(instance, *runs):
    return [instance.get_run_by_id(run) is not None for run in runs]


def counted(url, statement):
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]


def test_frequent_runs_go_first_but_the_newest_of_an_asset_stays(instance, ran, url, tmp_path):
    old, newest, other = ran("sync"), ran("sync"), ran("reconcile")
    running = instance.create_run_for_job(small().resolve_job_def("sync"), status=dg.DagsterRunStatus.STARTED)
    assert forget(instance, 0.5).runs == 0
    assert (tmp_path / "storage" / old).exists()

    gone = forget(instance, 2)
    assert (gone.runs, gone.runs_kept) == (1, 1)
    assert there(instance, old, newest, other, running.run_id) == [False, True, True, True]
    assert not (tmp_path / "storage" / old).exists()
    assert (tmp_path / "storage" / newest).exists()
    assert counted(url, f"SELECT count(*) FROM event_logs WHERE run_id = '{old}'") == 0
    assert counted(url, "SELECT count(*) FROM asset_event_tags t LEFT JOIN event_logs e ON e.id = event_id"
                        " WHERE e.id IS NULL") == 0  # fmt: skip
    for found in (instance.fetch_materializations(ROWS, limit=9), instance.fetch_observations(ROWS, limit=9)):
        assert [record.run_id for record in found.records] == [newest]


def test_the_newest_of_each_partition_stays(instance, ran):
    a, again, b = (ran("fill", partition_key=key) for key in ("a", "a", "b"))
    assert forget(instance, 29).runs == 0
    assert forget(instance, 31).runs == 1
    assert there(instance, a, again, b) == [False, True, True]
    assert instance.get_materialized_partitions(HISTORY) == {"a", "b"}


def test_the_newest_verdict_of_a_check_stays_behind_one_that_never_came(instance, ran):
    ran("sync")
    first, second = ran("reconcile"), ran("reconcile")
    lost = instance.create_run_for_job(small().resolve_job_def("reconcile"))
    assert told(instance) == [lost.run_id, second, first]
    assert forget(instance, 89).checks == 0
    assert there(instance, first, second) == [False, False]
    assert forget(instance, 91).checks == 1
    assert told(instance) == [lost.run_id, second]


def told(instance):
    return [record.run_id for record in instance.event_log_storage.get_asset_check_execution_history(VERDICT, limit=9)]


def test_what_sensors_tell_goes_sooner_and_its_event_sooner_still(instance, url):
    for _ in range(3):
        instance.report_runless_asset_event(dg.AssetCheckEvaluation(asset_key=ROWS, check_name="verdict", passed=True))
        instance.report_runless_asset_event(dg.AssetObservation(ROWS))
    events = "SELECT count(*) FROM event_logs"
    assert counted(url, events) == 6
    gone = forget(instance, 2)
    assert (gone.events, gone.checks, len(told(instance))) == (3, 0, 3)
    gone = forget(instance, 8)
    assert (gone.events, gone.checks, len(told(instance))) == (0, 2, 1)
    gone = forget(instance, 31)
    assert (gone.events, gone.checks, len(told(instance))) == (2, 0, 1)
    assert len(instance.fetch_observations(ROWS, limit=9).records) == 1


def test_backfills_go_when_they_ended_and_none_of_their_runs_is_left(instance, ran, tmp_path):
    ran("fill", partition_key="a", tags={"dagster/backfill": "filled"})
    for name, status in (
        ("filled", BulkActionStatus.COMPLETED_SUCCESS),
        ("failed", BulkActionStatus.COMPLETED_FAILED),
        ("asked", BulkActionStatus.REQUESTED),
        ("newest", BulkActionStatus.COMPLETED_SUCCESS),
    ):
        instance.add_backfill(
            PartitionBackfill(name, status, from_failure=False, tags={"a": "tag"}, backfill_timestamp=time.time())
        )
    logs = tmp_path / "storage" / "backfill" / "failed"
    logs.mkdir(parents=True)
    assert forget(instance, 29).backfills == 0
    assert forget(instance, 31).backfills == 1
    assert {backfill.backfill_id for backfill in instance.get_backfills()} == {"filled", "asked", "newest"}
    assert not logs.exists()


@pytest.mark.parametrize("step", ["delete_events", "delete_run"])
def test_a_killed_retention_goes_on_where_it_was(instance, ran, url, monkeypatch, step):
    for _ in range(3):
        ran("sync")

    def killed(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(instance.event_log_storage if step == "delete_events" else instance.run_storage, step, killed)
        with pytest.raises(KeyboardInterrupt):
            forget(instance, 2)
    assert forget(instance, 2).runs == 2
    left = "SELECT count(*) FROM event_logs e WHERE NOT EXISTS (SELECT FROM runs r WHERE r.run_id = e.run_id)"
    assert counted(url, left) == 0


def test_events_of_a_run_that_is_gone_go_with_the_oldest(instance, ran, url):
    orphan, _ = ran("sync"), ran("sync")
    instance.run_storage.delete_run(orphan)
    of_orphan = f"SELECT count(*) FROM event_logs WHERE run_id = '{orphan}'"
    assert counted(url, of_orphan) > 0
    assert forget(instance, 31).events > 0
    assert counted(url, of_orphan) == 0
    assert counted(url, "SELECT count(*) FROM asset_event_tags t LEFT JOIN event_logs e ON e.id = event_id"
                        " WHERE e.id IS NULL") == 0  # fmt: skip


@pytest.mark.hazard(106)
def test_without_its_guard_results_of_another_location_go(instance, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "106")
    other = dg.AssetKey("theirs")
    for _ in range(3):
        instance.report_runless_asset_event(dg.AssetCheckEvaluation(asset_key=other, check_name="verdict", passed=True))
    gone = forget_old(instance, (), Limits(1, 1, 1, 1), time.time() + 400 * DAY, Scope(None, {ROWS, HISTORY}))
    assert gone.checks == 2


@pytest.mark.hazard(106)
def test_runs_results_and_backfills_of_another_location_stay(instance, ran, url):
    theirs = Location("there", FakeLedger("bbbbbbbb"), instance).run({})
    for _ in range(2):
        ran("sync")
    instance.report_run_canceled(instance.get_run_by_id(theirs))
    other = dg.AssetKey("theirs")
    for _ in range(3):
        instance.report_runless_asset_event(dg.AssetCheckEvaluation(asset_key=other, check_name="verdict", passed=True))
        instance.report_runless_asset_event(dg.AssetObservation(other))
    instance.add_backfill(
        PartitionBackfill(
            "theirs", BulkActionStatus.COMPLETED_SUCCESS, from_failure=False, tags={}, backfill_timestamp=time.time(),
            asset_selection=[other],
        )
    )  # fmt: skip
    ours, limits = {ROWS, HISTORY}, Limits(1, 1, 1, 1, backfills=0)
    gone = forget_old(instance, ("sync",), limits, time.time() + 400 * DAY, Scope(None, ours))
    assert (gone.runs, gone.backfills, gone.checks, gone.events) == (1, 0, 0, 0)
    assert there(instance, theirs) == [True]
    gone = forget_old(instance, ("sync",), limits, time.time() + 400 * DAY, Scope("__repository__@there", {other}))
    assert (gone.runs, gone.backfills, gone.checks) == (1, 1, 2)
    assert there(instance, theirs) == [False]
