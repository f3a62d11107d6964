"""What starts runs: the sensor that keeps the live delta going, jobs and schedules."""

import datetime as dt

import dagster as dg

from assets.resources import Engine
from sync_pipeline.errors import SyncError
from sync_pipeline.follower import forget, seconds_unseen

WINDOW_MINUTES = 10.0
# a successor starts so long before the end, and takes over lease by lease
_HANDOVER_SECONDS = 30.0
# a run needs so long to start before it is seen
_START_SECONDS = 60.0
_UNSEEN_SECONDS = 20.0
_KEPT = {"sync/kept_by": "sensor"}


def automation(sinks: dg.AssetSelection, checks: dg.AssetSelection) -> dg.Definitions:
    """Jobs, the sensor and schedules over the entities' sinks and checks."""
    live = dg.define_asset_job(
        "live",
        sinks,
        description="Follow the live delta of all entities. The sensor keep_live keeps one such run going.",
        tags={"dagster/priority": "10"},
    )
    reconcile = dg.define_asset_job(
        "reconcile", checks, description="Compare every row, document and file of both sides. Writes nothing."
    )
    nightly = dg.ScheduleDefinition(
        name="nightly_reconcile", job=reconcile, cron_schedule="0 3 * * *", description="A whole comparison each night."
    )
    return dg.Definitions(jobs=[live, reconcile], sensors=[_keep_live()], schedules=[nightly])


def _keep_live() -> dg.SensorDefinition:
    @dg.sensor(
        name="keep_live",
        job_name="live",
        minimum_interval_seconds=5,
        description=f"Keeps one run of the job live going: a successor every {WINDOW_MINUTES:.0f} minutes, and at once"
        " after one that was killed or hangs.",
    )
    def keep_live(context: dg.SensorEvaluationContext, engine: Engine) -> dg.RunRequest | dg.SkipReason:
        try:
            with engine.stores() as stores:
                unseen = seconds_unseen(stores)
                alive = []
                for record in _in_flight(context.instance):
                    if _is_dead(record, unseen):
                        _bury(context, record.dagster_run)
                        forget(stores, record.dagster_run.run_id)
                    else:
                        alive.append(record)
        except SyncError as error:
            return dg.SkipReason(str(error))
        if any(_seconds_left(record) > _HANDOVER_SECONDS for record in alive):
            return dg.SkipReason("A run follows the live delta.")
        config = dg.RunConfig(ops={"follow": {"config": {"minutes": WINDOW_MINUTES}}})
        longest = WINDOW_MINUTES * 60 + _START_SECONDS + _HANDOVER_SECONDS
        return dg.RunRequest(run_config=config, tags={**_KEPT, "dagster/max_runtime": str(int(longest))})

    return keep_live


def _in_flight(instance: dg.DagsterInstance) -> list[dg.RunRecord]:
    statuses = [
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
    ]
    return list(instance.get_run_records(dg.RunsFilter(tags=_KEPT, statuses=statuses)))


def _is_dead(record: dg.RunRecord, unseen: dict[str, float]) -> bool:
    """Whether a run that should be following has not been seen for a while."""
    if record.start_time is None or _age(record) < _START_SECONDS:
        return False
    return unseen.get(record.dagster_run.run_id, _START_SECONDS) > _UNSEEN_SECONDS


def _bury(context: dg.SensorEvaluationContext, run: dg.DagsterRun) -> None:
    """End a dead or hanging run's process if it is still there, and call the run failed."""
    try:
        context.instance.run_launcher.terminate(run.run_id)
    except Exception as error:  # its launcher may be gone with it: the lease keeps it from writing
        context.log.info(f"run {run.run_id} could not be ended: {error}")
    fresh = context.instance.get_run_by_id(run.run_id)
    if fresh and not fresh.is_finished:
        context.instance.report_run_failed(fresh, "The run was not seen any more: killed, or it hangs.")


def _seconds_left(record: dg.RunRecord) -> float:
    return WINDOW_MINUTES * 60 if record.start_time is None else WINDOW_MINUTES * 60 - _age(record)


def _age(record: dg.RunRecord) -> float:
    return dt.datetime.now(dt.UTC).timestamp() - (record.start_time or 0.0)
