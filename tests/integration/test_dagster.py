"""Dagster's face on real servers: histories by partition, the live run, checks, and the sensor that keeps it going."""

import time

import dagster as dg
import psycopg2
import pytest

from assets.automation import WINDOW_MINUTES
from assets.definitions import definitions
from assets.resources import Engine
from sync_pipeline.follower import Follower
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
    history = defs.resolve_asset_graph().get(dg.AssetKey(["history", "text"]))
    partitions = history.partitions_def.get_partition_keys()
    tags = {
        "dagster/asset_partition_range_start": partitions[0],
        "dagster/asset_partition_range_end": partitions[-1],
    }
    for name in ("text", "video", "audio"):
        job = defs.resolve_implicit_global_asset_job_def()
        assert job.execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey(["history", name])], tags=tags
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
    assert graph.get(dg.AssetKey(["search", "video"])).parent_keys == {dg.AssetKey(["catalog", "video"])}
    assert dg.AssetKey(["legacy", "bucket"]) in graph.get(dg.AssetKey(["media", "video"])).parent_keys
    assert len(graph.asset_check_keys) == 9


def test_a_range_is_one_run_with_a_result_for_each_partition(filled, world, instance):
    stores, _ = world
    done = instance.get_materialized_partitions(dg.AssetKey(["history", "text"]))
    assert done == set(filled)
    latest = instance.get_latest_materialization_event(dg.AssetKey(["history", "text"]))
    assert set(latest.asset_materialization.metadata) >= {"dagster/partition_row_count", "written", "parked", "files"}
    total = sum(
        record.asset_materialization.metadata["dagster/partition_row_count"].value
        for record in instance.fetch_materializations(dg.AssetKey(["history", "text"]), limit=500).records
    )
    assert total == count(stores, "SELECT count(*) FROM catalog.text")


def test_the_live_job_catches_up_and_the_checks_see_what_is_wrong(filled, world, instance, defs):
    stores, admin = world
    with psycopg2.connect(admin) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE content SET title = 'moved', updated_at = now() WHERE id % 7 = 0")
    assert defs.resolve_job_def("live").execute_in_process(instance=instance).success
    event = instance.get_latest_materialization_event(dg.AssetKey(["catalog", "text"]))
    assert event.asset_materialization.metadata["written"].value > 0
    assert results(defs, instance) == {}

    with stores.target() as cursor:
        cursor.execute("UPDATE catalog.video SET header = 'by hand' WHERE id = (SELECT min(id) FROM catalog.video)")
    wrong = results(defs, instance)
    assert list(wrong) == ["catalog/video"]
    metadata = wrong["catalog/video"]
    assert metadata["corrupt"].value == 1
    assert "header" in metadata["samples"].records[0].data["detail"]


def test_a_run_of_the_sensor_leaves_the_verdict_in_place(filled, world, instance, defs):
    """A materialization would set it aside; what moved is told all the same."""
    _, admin = world
    key = dg.AssetKey(["catalog", "audio"])
    job = defs.resolve_job_def("live")
    assert job.execute_in_process(instance=instance).success
    before = instance.get_latest_materialization_event(key)
    with psycopg2.connect(admin) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE content SET title = 'once more', updated_at = now() WHERE kind = 'audio'")
    brief = dg.RunConfig(ops={"follow": {"config": {"minutes": 0.05}}})
    wait_for(lambda: job.execute_in_process(instance=instance, run_config=brief) and observed(instance, key), 120)
    assert instance.get_latest_materialization_event(key).timestamp == before.timestamp


def observed(instance, key):
    records = instance.fetch_observations(key, limit=10).records
    return any(record.asset_observation.metadata["written"].value for record in records)


def results(defs, instance):
    """Metadata of the checks that did not pass, by asset."""
    run = defs.resolve_job_def("reconcile").execute_in_process(instance=instance)
    found = run.get_asset_check_evaluations()
    assert len(found) == 9
    return {check.asset_key.to_user_string(): check.metadata for check in found if not check.passed}


def tick(instance, defs):
    sensor = defs.resolve_sensor_def("keep_live")
    with dg.build_sensor_context(instance=instance, resources={"engine": Engine()}) as context:
        return sensor.evaluate_tick(context)


def started(instance, defs, at):
    """A run that the sensor has launched and that began at a time."""
    request = tick(instance, defs).run_requests[0]
    job = defs.resolve_job_def("live")
    run = instance.create_run_for_job(job, run_config=request.run_config, tags=request.tags)
    instance.report_dagster_event(dg.DagsterEvent("PIPELINE_START", job_name="live"), run.run_id, timestamp=at)
    return run


def test_the_sensor_keeps_one_run_going(filled, world, instance, defs):
    stores, _ = world
    fresh = started(instance, defs, time.time())
    assert tick(instance, defs).skip_message == "A run follows the live delta."
    instance.report_run_canceled(fresh)

    silent = started(instance, defs, time.time() - 300)
    assert len(tick(instance, defs).run_requests) == 1
    assert instance.get_run_by_id(silent.run_id).status == dg.DagsterRunStatus.FAILURE

    ending = started(instance, defs, time.time() - WINDOW_MINUTES * 60 + 10)
    Follower([], stores, name=ending.run_id)._beat()
    assert len(tick(instance, defs).run_requests) == 1
    assert instance.get_run_by_id(ending.run_id).status == dg.DagsterRunStatus.STARTED
    instance.report_run_canceled(ending)
