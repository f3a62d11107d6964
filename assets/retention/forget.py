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


def forget_old(
    instance: dg.DagsterInstance, frequent: Collection[str], limits: Limits, now: float | None = None
) -> Forgotten:
    """Remove what is older than it may be; `frequent` names jobs, `now` is in seconds since the epoch.

    In small steps, each of which leaves storage whole: who is cut off goes on the next time. Raises SettingError.
    """
    from assets.retention.storage import Storage  # slow to import, and needed by this job alone

    storage = Storage.of(instance)
    now = time.time() if now is None else now
    soon, later = _before(now, limits.sync_days), _before(now, limits.run_days)
    newest = storage.newest_asset_events()
    needed = storage.runs_of(newest)
    old = {*_ended_before(instance, later)}.union(*(_ended_before(instance, soon, job) for job in frequent))
    _forget_runs(instance, old - needed)
    backfills = storage.old_backfills(later, limits.backfills)
    _forget_backfills(instance, storage, backfills)
    return Forgotten(
        runs=len(old - needed),
        runs_kept=len(old & needed),
        backfills=len(backfills),
        checks=storage.forget_checks(_before(now, limits.check_days), _before(now, limits.standing_days)),
        events=storage.forget_told_checks(soon) + storage.forget_events_without_run(later, newest),
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


def _ended_before(instance: dg.DagsterInstance, limit: dt.datetime, job: str | None = None) -> Iterator[str]:
    """Ids of runs."""
    wanted = dg.RunsFilter(job_name=job, statuses=_ENDED, updated_before=limit)
    cursor: str | None = None
    while page := instance.get_run_ids(wanted, cursor=cursor, limit=_PAGE):
        yield from page
        cursor = page[-1]


def _before(now: float, days: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(now - days * _DAY_SECONDS, dt.UTC)
