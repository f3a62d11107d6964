"""A real stretch of work, kept in Dagster's storage: what a month is then made of."""

from __future__ import annotations

import threading

from demo.edit import Editors
from demo.environment import variables
from demo.fleet import LEGACY_BUCKET, Fleet
from demo.load import load
from demo.run.api import DagsterApi
from sync_pipeline.entities.files import load_entities

MINUTES = 2
_CONTENTS, _FILES, _RATE = 5_000, 500, 5.0
_LONGEST_SECONDS = 900.0
JOBS = ("sweep", "reconcile", "expectations", "retention")


def record(fleet: Fleet) -> None:
    """Editors at work, both sensors on, a history, one run of each job, and a run of `sync` for a few minutes."""
    admin_url, client = fleet.addresses().monolith.admin_url, fleet.objects.client()
    load(admin_url, client, LEGACY_BUCKET, contents=_CONTENTS, files=_FILES)
    fleet.start_dagster(variables(fleet.addresses()))
    api = DagsterApi(fleet.webserver.url)
    api.wait_ready()
    editors = Editors(admin_url, client, LEGACY_BUCKET, _RATE, _LONGEST_SECONDS)
    working = threading.Thread(target=editors.run)
    working.start()
    try:
        api.wait_backfills(
            [api.backfill(["history", f"{name}_history"]) for name in load_entities("assets.entities")], 300
        )
        sensors = [api.start_sensor(name) for name in ("keep_live", "watch_standing")]
        for job in JOBS:
            api.wait_run(api.launch(job), 180)
        for sensor in sensors:
            api.stop_sensor(sensor)
        api.end_runs()
        config = {"ops": {"follow": {"config": {"minutes": MINUTES + 0.2}}}}
        api.wait_run(api.launch("sync", config), 60 * MINUTES + 120)
    finally:
        editors.halt()
        working.join()
        client.close()
    stop_dagster(fleet)


def stop_dagster(fleet: Fleet) -> None:
    """End its services; what they stored stays."""
    for service in reversed(fleet.dagster):
        service.stop()
