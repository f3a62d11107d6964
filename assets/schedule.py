"""Schedules: switched on in the UI, at times that the environment may set."""

import os

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._utils.schedules import is_valid_cron_schedule

from sync_pipeline.errors import SettingError

Job = dg.JobDefinition | UnresolvedAssetJobDefinition


def schedule(name: str, job: Job, setting: str, cron: str, description: str) -> dg.ScheduleDefinition:
    """Runs a job at `cron` (UTC), or when the environment says. Raises SettingError naming a wrong one's setting."""
    chosen = os.environ.get(setting, "").strip() or cron
    if not is_valid_cron_schedule(chosen):
        raise SettingError(f"{setting}={chosen!r} is no cron schedule: five fields as in {cron!r}, or @daily")
    return dg.ScheduleDefinition(name=name, job=job, cron_schedule=chosen, description=description)
