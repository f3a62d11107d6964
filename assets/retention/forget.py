"""What is forgotten, and what is kept whatever its age.

Dagster itself forgets only ticks (dagster.yaml). Kept for good are the newest materialization and observation of each
asset and partition, with their runs, the newest verdict of each check, the newest backfills, and whatever still runs.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from assets.deployment import LOCATION_TAG, location_of
from sync_pipeline.model.faults import guarded

if TYPE_CHECKING:
    from assets.retention.storage import Storage

_DAY_SECONDS = 86_400.0
_PAGE = 500
_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
# a page of the UI's list
BACKFILLS = 25
_LONGEST_STATEMENT_MS = 600_000


@dataclass(frozen=True)
class Limits:
    """For how many days."""

    sync_days: float  # runs of frequent jobs
    run_days: float  # all other runs, backfills, and what no run wrote
    standing_days: float  # results of checks that a sensor told
    check_days: float  # results of checks in runs
    backfills: int = BACKFILLS  # so many stay whatever their age


@dataclass(frozen=True)
class Forgotten:
    """What was removed, and how many old runs were not."""

    runs: int
    runs_kept: int
    backfills: int
    checks: int
    events: int


@dataclass(frozen=True)
class Scope:
    """What is ours to forget: runs of a code location (None: of none), and events of assets (None: of all)."""

    location: str | None = None
    assets: Collection[dg.AssetKey] | None = None


def forget_old(
    instance: dg.DagsterInstance,
    frequent: Collection[str],
    limits: Limits,
    now: float | None = None,
    scope: Scope | None = None,
) -> Forgotten:
    """Remove what is older than it may be; `frequent` names jobs, `now` is in seconds since the epoch.

    Runs, results and events of other code locations stay: their own retention decides. In small steps, each of which
    leaves storage whole: who is cut off goes on the next time. Raises SettingError.
    """
    from assets.retention.storage import Storage  # slow to import, and needed by this job alone

    storage, scope = Storage.of(instance), (scope if guarded(106) else None) or Scope()
    now = time.time() if now is None else now
    soon, later = _before(now, limits.sync_days), _before(now, limits.run_days)
    newest = storage.newest_asset_events()
    needed = storage.runs_of(newest)
    old = {*_ended_before(instance, later, scope)}
    old = old.union(*(_ended_before(instance, soon, scope, job) for job in frequent))
    _forget_runs(instance, old - needed)
    backfills = storage.old_backfills(later, limits.backfills, scope.assets)
    _forget_backfills(instance, storage, backfills)
    removed = storage.forget_sensor_checks(soon, scope.assets)  # by their results, which go later
    return Forgotten(
        runs=len(old - needed),
        runs_kept=len(old & needed),
        backfills=len(backfills),
        checks=storage.forget_checks(_before(now, limits.check_days), _before(now, limits.standing_days), scope.assets),
        events=removed + storage.forget_events_without_run(later, newest, scope.assets),
    )


def keep_connections(instance: dg.DagsterInstance) -> None:
    """Have statements share connections from now on: one of its own for each takes most of a run's deletion."""
    instance.optimize_for_webserver(_LONGEST_STATEMENT_MS, pool_recycle=3_600, max_overflow=10)


def _forget_runs(instance: dg.DagsterInstance, runs: Iterable[str]) -> None:
    """Logs and events first: a run that is cut off here is found again, events without their run are not."""
    for run in runs:
        instance.compute_log_manager.delete_logs(prefix=[run])
        instance.event_log_storage.delete_events(run)
        instance.run_storage.delete_run(run)


def _forget_backfills(instance: dg.DagsterInstance, storage: Storage, backfills: Collection[str]) -> None:
    for backfill in backfills:
        instance.compute_log_manager.delete_logs(prefix=["backfill", backfill])
    storage.forget_backfills(backfills)


def _ended_before(
    instance: dg.DagsterInstance, limit: dt.datetime, scope: Scope, job: str | None = None
) -> Iterator[str]:
    """Ids of runs of the scope's code location."""
    tags = {LOCATION_TAG: scope.location} if scope.location else {}
    wanted = dg.RunsFilter(job_name=job, statuses=_ENDED, updated_before=limit, tags=tags)
    cursor: str | None = None
    while page := instance.get_runs(wanted, cursor=cursor, limit=_PAGE):
        yield from (run.run_id for run in page if location_of(run) == scope.location)
        cursor = page[-1].run_id


def _before(now: float, days: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(now - days * _DAY_SECONDS, dt.UTC)
