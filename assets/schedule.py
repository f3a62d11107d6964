"""Schedules: switched on in the UI, at times that the environment may set."""

import os

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

Job = dg.JobDefinition | UnresolvedAssetJobDefinition


def schedule(name: str, job: Job, setting: str, cron: str, description: str) -> dg.ScheduleDefinition:
    """Runs a job at `cron` (UTC), or when the environment says. Raises what Dagster says of a wrong one."""
    return dg.ScheduleDefinition(
        name=name, job=job, cron_schedule=os.environ.get(setting, "").strip() or cron, description=description
    )
