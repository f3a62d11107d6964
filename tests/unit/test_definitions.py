"""Dagster loads the definitions in every run and at every reload: without servers, and without slow packages."""

import subprocess
import sys
from dataclasses import replace

import dagster as dg
import pytest

from assets.definitions import definitions
from assets.entities.video import entity as video
from assets.lineage import legacy_key, sink_keys
from assets.live import live_asset
from assets.resources import Engine
from sync_pipeline.sinks.media import MediaBucket
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sources.table import Table

SLOW = {"great_expectations", "elasticsearch", "boto3", "alembic", "dagster_postgres"}
LOAD = """
import sys
from assets.definitions import definitions
definitions()
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_definitions_load_without_servers_and_slow_packages():
    done = subprocess.run([sys.executable, "-c", LOAD], env={"PATH": ""}, capture_output=True, text=True, check=True)
    assert SLOW & set(done.stdout.split()) == set()


# a ratio, because hosts differ: some two seconds where Dagster itself takes one
TIMED = """
import time
begun = time.process_time()
import dagster
imported = time.process_time()
from assets.definitions import definitions
definitions()
print((time.process_time() - imported) / (imported - begun))
"""


def test_definitions_load_in_a_few_times_what_dagster_takes():
    done = subprocess.run([sys.executable, "-c", TIMED], env={"PATH": ""}, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 3.5


def test_schedules_tick_when_the_environment_says(monkeypatch):
    monkeypatch.setenv("SYNC_SWEEP_CRON", "5 * * * *")
    monkeypatch.setenv("SYNC_EXPECTATIONS_CRON", " ")
    found = {schedule.name: schedule.cron_schedule for schedule in definitions().schedules}
    assert found["frequent_sweep"] == "5 * * * *"
    assert found["nightly_expectations"] == "0 5 * * *"


@pytest.mark.hazard(119)
def test_names_that_dagster_does_not_take_keep_no_location_from_loading():
    table = replace(video.table, name='"New Side"."video+"')
    sinks = (MediaBucket(("cover",), "one/2 video"), table, SearchIndex("one-video.v2+", {}))
    entity = replace(
        video, sinks=sinks, tables=(Table('app."Content of all"', key=("id",)), *video.tables), comments={}
    )
    keys = {name: key.path for name, key in sink_keys(entity).items()}
    assert keys == {
        "media": ["media", "one", "2_video_files"],
        "relational": ["_New_Side_", "_video__"],
        "search": ["search", "one-video.v2__documents"],
    }
    assert legacy_key('app."Content of all"').path == ["legacy", "app", "_Content_of_all_"]
    assert (
        dg.Definitions(assets=[live_asset({"video": entity})], resources={"engine": Engine()})
        .resolve_asset_graph()
        .get_all_asset_keys()
    )
