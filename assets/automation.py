"""What starts runs: jobs, schedules and sensors."""

from collections.abc import Callable, Iterable

import dagster as dg

from assets.jobs import jobs
from assets.retention import retention_job
from assets.schedule import schedule
from assets.sensors import keep_live, watch_standing
from sync_pipeline.entity import Entity

SYNC = "sync"
# these run all day long, so their runs are not kept for long
FREQUENT = (SYNC, "sweep", "retention")


def automation(
    entities: dict[str, Entity],
    sinks: dg.AssetSelection,
    comparisons: Iterable[dg.AssetChecksDefinition],
    check_files: Callable[[], dg.AssetCheckResult],
) -> dg.Definitions:
    """Jobs over the entities, the sensors, and schedules that are switched on in the UI."""
    sync = dg.define_asset_job(
        SYNC,
        sinks,
        description="Follow the live delta of all entities until caught up. The sensor keep_live keeps a longer run of"
        " this going.",
        tags={"dagster/priority": "10"},
    )
    reconcile = dg.define_asset_job(
        "reconcile",
        dg.AssetSelection.checks(*comparisons),
        description="Compare every row, document and file of both sides. Writes nothing.",
    )
    by_name = {job.name: job for job in jobs(entities)}
    retention = retention_job(FREQUENT)
    return dg.Definitions(
        jobs=[sync, reconcile, *by_name.values(), retention],
        sensors=[keep_live(SYNC), watch_standing(entities.values(), check_files)],
        schedules=[
            schedule("nightly_reconcile", reconcile, "SYNC_RECONCILE_CRON", "0 3 * * *", "All is compared each night."),
            schedule("frequent_sweep", by_name["sweep"], "SYNC_SWEEP_CRON", "*/30 * * * *", "What no source reports."),
            schedule(
                "frequent_retention", retention, "SYNC_RETENTION_CRON", "30 */6 * * *", "What is old is forgotten."
            ),
        ],
    )
