"""Dagster's face on real servers: histories by partition, the live run, checks, and the sensor that keeps it going."""

import time

import dagster as dg
import psycopg2
import pytest

from assets.definitions import definitions
from assets.entities.text import entity
from assets.resources import Engine
from assets.sensors import WINDOW_MINUTES
from sync_pipeline.ledger.ledger import migrate
from sync_pipeline.operate.sink_sizes import sink_sizes
from sync_pipeline.run.heartbeat import beat, leave, read_workers
from tests.world import wait_for


@pytest.fixture(scope="module")
def world(fresh_world):
    fresh_world.load(contents=600, files=10)
    return fresh_world.stores, fresh_world.monolith.admin_url


@pytest.fixture(scope="module")
def instance(tmp_path_factory):
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("instance"))) as made:
        yield made


@pytest.fixture(scope="module")
def defs():
    return definitions()


@pytest.fixture(scope="module")
def filled(world, instance, defs):
    history = defs.resolve_asset_graph().get(dg.AssetKey(["history", "text_history"]))
    partitions = history.partitions_def.get_partition_keys()
    tags = {
        "dagster/asset_partition_range_start": partitions[0],
        "dagster/asset_partition_range_end": partitions[-1],
    }
    for name in ("text", "video", "audio"):
        job = defs.resolve_implicit_global_asset_job_def()
        assert job.execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey(["history", f"{name}_history"])], tags=tags
        ).success
    return partitions


def count(stores, query):
    with stores.target() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


def test_definitions_show_the_way_of_the_data(defs):
    graph = defs.resolve_asset_graph()
    assert {dg.AssetKey(["legacy", name]) for name in ("content", "authors", "media_files", "content_tags")} <= set(
        graph.external_asset_keys
    )
    assert graph.get(dg.AssetKey(["search", "video_documents"])).parent_keys == {dg.AssetKey(["catalog", "video"])}
    assert dg.AssetKey(["legacy", "bucket"]) in graph.get(dg.AssetKey(["media", "video_files"])).parent_keys
    # of sinks, of where entities stand, of what is expected, of entity files
    assert len(graph.asset_check_keys) == 9 + 9 + 6 + 1


def test_a_range_is_one_run_with_a_result_for_each_partition(filled, world, instance):
    stores, _ = world
    done = instance.get_materialized_partitions(dg.AssetKey(["history", "text_history"]))
    assert done == set(filled)
    latest = instance.get_latest_materialization_event(dg.AssetKey(["history", "text_history"]))
    assert set(latest.asset_materialization.metadata) >= {"dagster/partition_row_count", "written", "parked", "files"}
    total = sum(
        record.asset_materialization.metadata["dagster/partition_row_count"].value
        for record in instance.fetch_materializations(dg.AssetKey(["history", "text_history"]), limit=500).records
    )
    assert total == count(stores, "SELECT count(*) FROM catalog.text")


def test_pages_show_what_sinks_hold(filled, world, instance, monkeypatch):
    """By observations: a page prefers the last materialization's figures, however old."""
    stores, _ = world
    rows, _ = told(instance, "catalog", "text")
    assert rows == count(stores, "SELECT count(*) FROM catalog.text")
    assert told(instance, "search", "text_documents") > (0, 0)
    files = "FROM sync.media WHERE target_key LIKE 'text/%'"
    assert told(instance, "media", "text_files") == (
        count(stores, f"SELECT count(*) {files}"),
        count(stores, f"SELECT coalesce(sum(size), 0) {files}"),
    )
    monkeypatch.setattr("sync_pipeline.db.counting.COUNTED_ROWS", 5)  # many rows are estimated
    with stores.target() as cursor:
        cursor.execute("ANALYZE catalog.text")
    assert rows / 2 < sink_sizes(stores, entity)["relational"].rows < rows * 2


def told(instance, *path):
    """Rows and bytes, as last observed."""
    (record,) = instance.fetch_observations(dg.AssetKey(list(path)), limit=1).records
    metadata = record.asset_observation.metadata
    return metadata["dagster/row_count"].value, metadata["dagster/size_bytes"].value


def test_the_live_job_catches_up_and_the_checks_see_what_is_wrong(filled, world, instance, defs):
    stores, admin = world
    with psycopg2.connect(admin) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE content SET title = 'moved', updated_at = now() WHERE id % 7 = 0")
    assert defs.resolve_job_def("sync").execute_in_process(instance=instance).success
    event = instance.get_latest_materialization_event(dg.AssetKey(["catalog", "text"]))
    assert event.asset_materialization.metadata["written"].value > 0
    assert "author" in event.asset_materialization.metadata["dagster/column_lineage"].value.deps_by_column
    assert "dagster/row_count" not in event.asset_materialization.metadata
    assert told(instance, "catalog", "text")[0] == count(stores, "SELECT count(*) FROM catalog.text")
    assert results(defs, instance) == {}

    with stores.target() as cursor:
        cursor.execute("UPDATE catalog.video SET header = 'by hand' WHERE id = (SELECT min(id) FROM catalog.video)")
    wrong = results(defs, instance)
    assert list(wrong) == ["catalog/video"]
    metadata = wrong["catalog/video"]
    assert metadata["corrupt"].value == 1
    (sample,) = metadata["samples"].records
    assert (sample.data["column"], sample.data["new side"]) == ("header", "by hand")
    found = [record.data for record in metadata["verdicts"].records]
    assert found[0]["part"].startswith("live delta")
    assert [part["mismatches"] for part in found[1:] if part["verdict"] == "drift"] == [1]
    assert sum(part["rows"] for part in found[1:]) == metadata["compared"].value


def test_a_run_of_the_sensor_leaves_the_verdict_in_place(filled, world, instance, defs):
    """A materialization would set it aside; what moved is told all the same."""
    _, admin = world
    key = dg.AssetKey(["catalog", "audio"])
    job = defs.resolve_job_def("sync")
    assert job.execute_in_process(instance=instance).success
    before = instance.get_latest_materialization_event(key)
    with psycopg2.connect(admin) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE content SET title = 'once more', updated_at = now() WHERE kind = 'audio'")
    brief = dg.RunConfig(ops={"follow": {"config": {"minutes": 0.05}}})
    wait_for(lambda: job.execute_in_process(instance=instance, run_config=brief) and observed(instance, key), 120)
    assert instance.get_latest_materialization_event(key).timestamp == before.timestamp


def test_assets_come_to_be_once_they_are_followed(filled, defs, tmp_path):
    """Even if nothing moves: a materialization later would set aside what checks have said by then."""
    brief = dg.RunConfig(ops={"follow": {"config": {"minutes": 0.02}}})
    with dg.DagsterInstance.local_temp(str(tmp_path)) as fresh:
        assert defs.resolve_job_def("sync").execute_in_process(instance=fresh, run_config=brief).success
        for path in (["catalog", "audio"], ["search", "text_documents"], ["media", "video_files"]):
            assert fresh.get_latest_materialization_event(dg.AssetKey(path))


def observed(instance, key):
    records = instance.fetch_observations(key, limit=10).records
    figures = [record.asset_observation.metadata for record in records]
    return any("written" in told and told["written"].value for told in figures)


def results(defs, instance):
    """Metadata of the checks that did not pass, by asset."""
    run = defs.resolve_job_def("reconcile").execute_in_process(instance=instance)
    found = run.get_asset_check_evaluations()
    assert len(found) == 9
    return {check.asset_key.to_user_string(): check.metadata for check in found if not check.passed}


def test_backfill_takes_a_range_and_tells_each_partition(filled, world, instance, defs):
    key = dg.AssetKey(["history", "audio_history"])
    config = dg.RunConfig(ops={"fill": {"config": {"entities": ["audio"], "first": filled[2], "last": filled[4]}}})
    run = defs.resolve_job_def("backfill").execute_in_process(instance=instance, run_config=config)
    told = [event.step_materialization_data.materialization for event in run.get_asset_materialization_events()]
    assert sorted((event.asset_key, event.partition) for event in told) == [(key, name) for name in filled[2:5]]
    assert all(event.metadata["written"].value == 0 for event in told)  # it was filled before

    config = dg.RunConfig(ops={"fill": {"config": {"entities": ["audio"], "partitions": ["1999-13"]}}})
    run = defs.resolve_job_def("backfill").execute_in_process(
        instance=instance, run_config=config, raise_on_error=False
    )
    (failure,) = (event for event in run.all_events if event.is_step_failure)
    assert "no partition 1999-13" in failure.event_specific_data.error.message + str(failure.event_specific_data)


def test_repair_mends_what_drifts_and_nothing_else(filled, world, instance, defs):
    stores, _ = world
    with stores.target() as cursor:
        cursor.execute("DELETE FROM catalog.text WHERE id IN (SELECT id FROM catalog.text ORDER BY id LIMIT 2)")
    job = defs.resolve_job_def("repair")
    assert mended(job, instance)["text"]["written"] == 2
    assert [row["written"] for row in mended(job, instance).values()] == [0, 0, 0]
    config = dg.RunConfig(ops={"mend": {"config": {"keys": ["1"]}}})
    assert not job.execute_in_process(instance=instance, run_config=config, raise_on_error=False).success


def mended(job, instance):
    return rows(job.execute_in_process(instance=instance))


def rows(run):
    """The table with a step's output, by entity."""
    (output,) = (event for event in run.all_events if event.is_successful_output)
    return {record.data["entity"]: record.data for record in output.event_specific_data.metadata["entities"].records}


def test_an_index_and_a_table_are_rebuilt_and_their_progress_told(filled, world, instance, defs):
    stores, _ = world
    job = defs.resolve_job_def("rebuild")
    config = {"entities": ["audio"], "clear": True}
    run = job.execute_in_process(instance=instance, run_config=dg.RunConfig(ops={"fill_and_swap": {"config": config}}))
    row = rows(run)["audio"]
    assert (row["name"], row["deleted"], row["findings"]) == ("audio-000002", "audio-000001", 0)
    assert row["compared"] == stores.search.count(index="audio")["count"]
    messages = [log.user_message for log in instance.all_logs(run.run_id)]
    assert any("rows filled" in message for message in messages)
    config = {"entities": ["audio"], "abandon": True}
    run = job.execute_in_process(instance=instance, run_config=dg.RunConfig(ops={"fill_and_swap": {"config": config}}))
    assert rows(run)["audio"]["deleted"] is None
    with stores.target() as cursor:
        cursor.execute("CREATE TABLE catalog.audio_next (LIKE catalog.audio INCLUDING ALL)")
    config = {"entities": ["audio"], "tables": True, "clear": True}
    run = job.execute_in_process(instance=instance, run_config=dg.RunConfig(ops={"fill_and_swap": {"config": config}}))
    row = rows(run)["audio"]
    assert (row["name"], row["deleted"], row["findings"]) == ("catalog.audio", "catalog.audio_former", 0)


def test_retention_drops_the_old_days_of_the_log(filled, world, instance, defs):
    stores, _ = world
    with stores.target() as cursor:
        cursor.execute(
            "CREATE TABLE sync.batch_20200101 PARTITION OF sync.batch"
            " FOR VALUES FROM ('2020-01-01Z') TO ('2020-01-02Z')"
        )
    run = defs.resolve_job_def("retention").execute_in_process(instance=instance)
    (output,) = (event for event in run.all_events if event.is_successful_output and event.step_key == "forget_history")
    assert output.event_specific_data.metadata["days"].value == 1
    assert count(stores, "SELECT count(*) FROM sync.snapshot") == 3
    assert count(stores, "SELECT count(*) FROM pg_class WHERE relname = 'batch_20200101'") == 0


def test_standing_is_told_when_it_changes_and_never_green_unseen(filled, world, instance, defs, monkeypatch):
    stores, _ = world
    sensor = defs.resolve_sensor_def("watch_standing")

    def looked(cursor):
        with dg.build_sensor_context(instance=instance, resources={"engine": Engine()}, cursor=cursor) as context:
            found = sensor.evaluate_tick(context)
        return {(e.asset_key.path[-1], e.check_name): e for e in found.asset_events}, found.cursor

    with stores.target() as cursor:
        cursor.execute("UPDATE sync.cursor SET applied_through = now()")
    first, cursor = looked(None)
    assert {name for name, _ in first} == {"text", "video", "audio", "entity_files"}
    assert all(evaluation.passed for evaluation in first.values())
    assert looked(cursor)[0] == {}

    instance.report_runless_asset_event(dg.AssetMaterialization(["catalog", "text"]))
    again, cursor = looked(cursor)
    assert set(again) == {("text", "freshness"), ("text", "due"), ("text", "dead_letters")}
    assert looked(cursor)[0] == {}

    with stores.target() as statement:
        statement.execute("UPDATE sync.cursor SET applied_through = now() - interval '2 h' WHERE entity = 'text'")
        statement.execute(
            "INSERT INTO sync.due (entity, reason, keys, revision, priority, first_at)"
            " VALUES ('video', 'documents', '{1,2}', 0, 1, now() - interval '1 h')"
        )
    changed, cursor = looked(cursor)
    assert {key: evaluation.passed for key, evaluation in changed.items()} == {
        ("text", "freshness"): False,
        ("video", "due"): False,
    }
    assert changed["video", "due"].metadata["overdue"].value == 2

    monkeypatch.setenv("SYNC_TARGET_DB", "postgresql://nobody:x@127.0.0.1:9/none")
    unseen, _ = looked(cursor)
    assert [evaluation.passed for evaluation in unseen.values()] == [False, False]  # text was not green before
    assert "could not be looked at" in unseen["audio", "freshness"].description
    with stores.target() as statement:
        statement.execute("DELETE FROM sync.due WHERE revision = 0 AND reason = 'documents'")
        statement.execute("UPDATE sync.cursor SET applied_through = now()")


def tick(instance, defs, cursor=None):
    sensor = defs.resolve_sensor_def("keep_live")
    with dg.build_sensor_context(instance=instance, resources={"engine": Engine()}, cursor=cursor) as context:
        return sensor.evaluate_tick(context)


def started(instance, defs, at):
    """A run that the sensor has launched and that began at a time."""
    request = tick(instance, defs).run_requests[0]
    job = defs.resolve_job_def("sync")
    run = instance.create_run_for_job(job, run_config=request.run_config, tags=request.tags)
    instance.report_dagster_event(dg.DagsterEvent("PIPELINE_START", job_name="sync"), run.run_id, timestamp=at)
    return run


def status(instance, run):
    return instance.get_run_by_id(run.run_id).status


def looks(instance, defs, seconds, cursor=None):
    """Ticks, one for each five seconds that pass for the sensor; the last one."""
    clock = iter(range(1_000, 1_000 + seconds, 5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("assets.lost_runs.monotonic", lambda: float(next(clock)))
        for _ in range(1_000, 1_000 + seconds, 5):
            found = tick(instance, defs, cursor)
            cursor = found.cursor
            if found.run_requests:
                break
    return found


def test_the_sensor_keeps_one_run_going(filled, world, instance, defs):
    stores, _ = world
    fresh = started(instance, defs, time.time())
    assert tick(instance, defs).skip_message == "A run follows the live delta."
    instance.report_run_canceled(fresh)

    silent = started(instance, defs, time.time() - 300)
    assert instance.get_run_by_id(silent.run_id).tags["sync/ledger"] == stores.ledger_id()
    assert not looks(instance, defs, 60).run_requests
    assert status(instance, silent) == dg.DagsterRunStatus.STARTED
    assert len(looks(instance, defs, 90).run_requests) == 1
    assert status(instance, silent) == dg.DagsterRunStatus.FAILURE

    ending = started(instance, defs, time.time())
    beat(stores, ending.run_id, WINDOW_MINUTES * 60 - 10)
    assert len(tick(instance, defs).run_requests) == 1
    assert status(instance, ending) == dg.DagsterRunStatus.STARTED
    instance.report_run_canceled(ending)
    leave(stores, ending.run_id)


def test_nobody_is_lost_because_the_ledger_was_away(filled, world, instance, defs, monkeypatch):
    run = started(instance, defs, time.time() - 300)
    once = tick(instance, defs)
    assert run.run_id in once.cursor
    with monkeypatch.context() as patch:
        patch.setenv("SYNC_TARGET_DB", "postgresql://nobody:x@127.0.0.1:9/none")
        assert tick(instance, defs, once.cursor).cursor == "{}"
    instance.report_run_canceled(run)


def test_a_ledger_of_an_older_version_is_read_all_the_same(world):
    """The sensor looks before a run of the new version has migrated it."""
    stores, _ = world
    beat(stores, "old")
    columns = ("started_ticks", "beats", "worked_seconds", "hanging")
    with stores.target() as cursor:
        cursor.execute(f"ALTER TABLE sync.heartbeat {', '.join(f'DROP COLUMN {column}' for column in columns)}")
        cursor.execute("DROP TABLE sync.ledger_identity")
        cursor.execute("DELETE FROM sync.migration WHERE name LIKE '%worker_process%' OR name LIKE '%identity%'")
    found = read_workers(stores)
    assert (found.ledger, found.last_heartbeats["old"].worked_seconds) == (None, None)
    migrate(stores)
    assert read_workers(stores).ledger
    leave(stores, "old")
