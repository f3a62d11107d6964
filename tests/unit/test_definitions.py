"""Dagster loads the definitions in every run and at every reload: without servers, and without slow packages."""

import subprocess
import sys

from assets.definitions import definitions

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


TIMED = """
import time
import dagster
begun = time.process_time()
from assets.definitions import definitions
definitions()
print(time.process_time() - begun)
"""


def test_definitions_load_in_two_seconds_above_dagster():
    done = subprocess.run([sys.executable, "-c", TIMED], env={"PATH": ""}, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 2


def test_schedules_tick_when_the_environment_says(monkeypatch):
    monkeypatch.setenv("SYNC_SWEEP_CRON", "5 * * * *")
    monkeypatch.setenv("SYNC_EXPECTATIONS_CRON", " ")
    found = {schedule.name: schedule.cron_schedule for schedule in definitions().schedules}
    assert found["frequent_sweep"] == "5 * * * *"
    assert found["nightly_expectations"] == "0 5 * * *"
