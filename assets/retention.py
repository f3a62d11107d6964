"""Retention: what Dagster keeps of runs, events, logs and check results, so that it stays quick and small.

Dagster itself forgets only ticks (dagster.yaml). The newest materialization of each partition lives in its run's
events, so such a run is kept whatever its age.
"""

import datetime as dt
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import dagster as dg
from dagster._core.instance.utils import RUNLESS_RUN_ID
from pydantic import Field

from sync_pipeline.errors import SettingError

_DAY_SECONDS = 86_400.0
_PAGE = 500
_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
# setting and default, by field of the form
_SETTINGS = {
    "sync_days": ("SYNC_KEEP_SYNC_RUNS_DAYS", 2.0),
    "run_days": ("SYNC_KEEP_RUNS_DAYS", 30.0),
    "check_days": ("SYNC_KEEP_CHECKS_DAYS", 90.0),
}


class Keep(dg.Config):
    """For how many days; 0: as the environment says."""

    sync_days: float = Field(0, ge=0, description="Runs of the live delta. 0: SYNC_KEEP_SYNC_RUNS_DAYS, or 2.")
    run_days: float = Field(0, ge=0, description="All other runs. 0: SYNC_KEEP_RUNS_DAYS, or 30.")
    check_days: float = Field(0, ge=0, description="Results of checks. 0: SYNC_KEEP_CHECKS_DAYS, or 90.")


@dataclass(frozen=True)
class Forgotten:
    """What was removed."""

    runs: int
    kept_for_partitions: int
    checks: int
    events: int


def retention_job(sync_job: str, histories: Iterable[dg.AssetKey]) -> dg.JobDefinition:
    """The job; `sync_job` names the job of the live delta."""
    keys = list(histories)

    @dg.op(name="forget", out=dg.Out(dg.Nothing))
    def forget(context: dg.OpExecutionContext, config: Keep) -> None:
        """Remove what is older than it may be."""
        days = {name: getattr(config, name) or _from_environment(*setting) for name, setting in _SETTINGS.items()}
        forgotten = forget_old(context.instance, sync_job, keys, **days)
        context.log.info(f"forgotten: {forgotten}")
        context.add_output_metadata(vars(forgotten))

    @dg.job(name="retention", description="Forget old runs with their events and logs, and old results of checks.")
    def retention() -> None:
        forget()

    return retention


def forget_old(
    instance: dg.DagsterInstance,
    sync_job: str,
    histories: Iterable[dg.AssetKey],
    sync_days: float,
    run_days: float,
    check_days: float,
) -> Forgotten:
    """Remove runs, events without a run, and check results that are older than so many days."""
    needed = {run for key in histories for run in _newest_runs(instance, key)}
    now = time.time()
    old = {
        *_ended_before(instance, now - sync_days * _DAY_SECONDS, sync_job),
        *_ended_before(instance, now - run_days * _DAY_SECONDS),
    }
    for run in old - needed:
        instance.compute_log_manager.delete_logs(prefix=[run])
        instance.delete_run(run)
    checks, events = _forget_without_runs(instance, now - check_days * _DAY_SECONDS, now - run_days * _DAY_SECONDS)
    return Forgotten(len(old - needed), len(old & needed), checks, events)


def _ended_before(instance: dg.DagsterInstance, limit: float, job: str | None = None) -> Iterator[str]:
    """Ids of runs; `limit` is in seconds since the epoch."""
    wanted = dg.RunsFilter(job_name=job, statuses=_ENDED, updated_before=dt.datetime.fromtimestamp(limit, dt.UTC))
    cursor: str | None = None
    while page := instance.get_run_ids(wanted, cursor=cursor, limit=_PAGE):
        yield from page
        cursor = page[-1]


def _newest_runs(instance: dg.DagsterInstance, key: dg.AssetKey) -> Iterator[str]:
    """Runs that hold the newest materialization of some partition."""
    newest = instance.event_log_storage.get_latest_storage_id_by_partition(
        key, dg.DagsterEventType.ASSET_MATERIALIZATION
    )
    ids = list(newest.values())
    for first in range(0, len(ids), _PAGE):
        wanted = dg.AssetRecordsFilter(asset_key=key, storage_ids=ids[first : first + _PAGE])
        for record in instance.fetch_materializations(wanted, limit=_PAGE).records:
            yield record.run_id


def _forget_without_runs(instance: dg.DagsterInstance, checks_before: float, events_before: float) -> tuple[int, int]:
    """Old check results but the newest of each, and old events that no run wrote; how many of each."""
    # slow to import, and needed by this job alone
    import sqlalchemy as sa
    from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise SettingError("retention needs Dagster's storage in PostgreSQL or SQLite: see dagster.yaml")
    checks, events = AssetCheckExecutionsTable, SqlEventLogStorageTable
    newest = sa.select(sa.func.max(checks.c.id)).group_by(checks.c.asset_key, checks.c.check_name)
    old_checks = checks.c.create_timestamp < dt.datetime.fromtimestamp(checks_before, dt.UTC).replace(tzinfo=None)
    old_events = events.c.timestamp < dt.datetime.fromtimestamp(events_before, dt.UTC).replace(tzinfo=None)
    with storage.index_connection() as connection:
        no_longer = connection.execute(checks.delete().where(old_checks, checks.c.id.not_in(newest))).rowcount
        runless = connection.execute(events.delete().where(old_events, events.c.run_id == RUNLESS_RUN_ID)).rowcount
    return no_longer, runless


def _from_environment(name: str, default: float) -> float:
    value = os.environ.get(name)
    try:
        days = float(value) if value else default
    except ValueError:
        days = -1.0
    if days <= 0:
        raise SettingError(f"{name} must be a number of days above 0, not {value!r}")
    return days
