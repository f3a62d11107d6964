"""The job `retention`, and the settings it goes by."""

import math
import os
from collections.abc import Collection

import dagster as dg
from pydantic import Field

from assets.deployment import location_of
from assets.resources import Engine
from assets.retention.forget import BACKFILLS, Limits, Scope, forget_old, keep_connections
from sync_pipeline.errors import SettingError
from sync_pipeline.operate.snapshot import trim

# setting and default, by field of the form
_SETTINGS = {
    "sync_days": ("SYNC_KEEP_SYNC_RUNS_DAYS", 1.0),
    "run_days": ("SYNC_KEEP_RUNS_DAYS", 30.0),
    "standing_days": ("SYNC_KEEP_STANDING_DAYS", 7.0),
    "check_days": ("SYNC_KEEP_CHECKS_DAYS", 90.0),
}


class Keep(dg.Config):
    """For how many days; 0: as the environment says."""

    sync_days: float = Field(
        0, ge=0, description="Runs of the live delta and of the sweep. 0: SYNC_KEEP_SYNC_RUNS_DAYS, or 1."
    )
    run_days: float = Field(
        0, ge=0, description="All other runs, backfills, and events of no run. 0: SYNC_KEEP_RUNS_DAYS, or 30."
    )
    standing_days: float = Field(
        0, ge=0, description="What the checks freshness, due and dead_letters said. 0: SYNC_KEEP_STANDING_DAYS, or 7."
    )
    check_days: float = Field(0, ge=0, description="Results of all other checks. 0: SYNC_KEEP_CHECKS_DAYS, or 90.")


def retention_job(frequent: Collection[str]) -> dg.JobDefinition:
    """The job; `frequent` names the jobs that run all day long."""

    @dg.op(name="forget", out=dg.Out(dg.Nothing))
    def forget(context: dg.OpExecutionContext, config: Keep) -> None:
        """Remove what is older than it may be; cut off, the next run goes on."""
        keep_connections(context.instance)
        forgotten = forget_old(context.instance, frequent, limits_from(config), scope=_scope(context))
        context.log.info(f"forgotten: {forgotten}")
        context.add_output_metadata(vars(forgotten))

    @dg.op(name="forget_history", out=dg.Out(dg.Nothing))
    def forget_history(context: dg.OpExecutionContext, engine: Engine) -> None:
        """Drop the log older than SYNC_HISTORY_DAYS, once snapshots of the ledgers are taken."""
        with engine.stores(context.run.run_id) as stores:
            context.add_output_metadata(trim(stores))

    @dg.job(
        name="retention",
        description="Forget old runs with their events and logs, old results of checks, and the objects' old history.",
    )
    def retention() -> None:
        forget()
        forget_history()

    return retention


def _scope(context: dg.OpExecutionContext) -> Scope:
    """The run's code location and its assets; outside of any location, as in tests, assets are not told apart."""
    location = location_of(context.run)
    return Scope(location, context.repository_def.asset_graph.get_all_asset_keys() if location else None)


def limits_from(config: Keep | None = None) -> Limits:
    """The form's days; where it says none, the environment's. Raises SettingError."""
    days = {name: getattr(config, name, 0) or _from_environment(*setting) for name, setting in _SETTINGS.items()}
    return Limits(**{name: float(value) for name, value in days.items()}, backfills=BACKFILLS)


def _from_environment(name: str, default: float) -> float:
    value = os.environ.get(name)
    try:
        days = float(value) if value else default
    except ValueError:
        days = -1.0
    if not 0 < days < math.inf:
        raise SettingError(f"{name} must be a number of days above 0, not {value!r}")
    return days
