"""Sensors: one keeps the live delta going, one keeps an eye on where it stands. Neither starts a run to look."""

import datetime as dt
import json
from collections.abc import Iterable, Iterator, Mapping

import dagster as dg

from assets.lineage import sink_keys
from assets.resources import Engine
from checks.standing import FRESHNESS, standing
from sync_pipeline.entity import Entity
from sync_pipeline.errors import SyncError
from sync_pipeline.follower import forget, seconds_unseen

WINDOW_MINUTES = 10.0
# a successor starts so long before the end, and takes over lease by lease
_HANDOVER_SECONDS = 30.0
# a run needs so long to start before it is seen
_START_SECONDS = 60.0
_UNSEEN_SECONDS = 20.0
_KEPT = {"sync/kept_by": "sensor"}
# what has not changed is told again so often, for the trend
_TELL_AGAIN_SECONDS = 1_800.0


def keep_live(job: str) -> dg.SensorDefinition:
    """Keeps one run of a job going."""

    @dg.sensor(
        name="keep_live",
        job_name=job,
        minimum_interval_seconds=5,
        description=f"Keeps one run of the job {job} going: a successor every {WINDOW_MINUTES:.0f} minutes, and at once"
        " after one that was killed or hangs.",
    )
    def keep(context: dg.SensorEvaluationContext, engine: Engine) -> dg.RunRequest | dg.SkipReason:
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

    return keep


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


def watch_standing(entities: Iterable[Entity]) -> dg.SensorDefinition:
    """Evaluates the checks of where the live delta stands, without a run."""
    watched = {entity.name: entity for entity in entities}

    @dg.sensor(
        name="watch_standing",
        minimum_interval_seconds=60,
        description="Looks each minute how far behind each entity is and what it owes. Tells the checks freshness and"
        " due when that changes, and every half hour.",
    )
    def watch(context: dg.SensorEvaluationContext, engine: Engine) -> dg.SensorResult:
        told: dict[str, list[object]] = json.loads(context.cursor or "{}")
        now = dt.datetime.now(dt.UTC).timestamp()
        events = [
            evaluation
            for evaluation in _evaluations(engine, watched)
            if _is_news(told.get(_name(evaluation)), evaluation, now)
        ]
        told.update({_name(evaluation): [_gist(evaluation), now] for evaluation in events})
        return dg.SensorResult(asset_events=events, cursor=json.dumps(told))

    return watch


def _evaluations(engine: Engine, entities: Mapping[str, Entity]) -> Iterator[dg.AssetCheckEvaluation]:
    for entity in entities.values():
        key = sink_keys(entity)["relational"]
        try:
            with engine.stores() as stores:
                results = list(standing(stores, entity, key))
        except SyncError as error:
            results = [_not_looked_at(key, error)]
        for result in results:
            yield dg.AssetCheckEvaluation(
                asset_key=key,
                check_name=result.check_name or FRESHNESS,
                passed=result.passed,
                metadata=result.metadata,
                severity=result.severity,
                description=result.description,
            )


def _not_looked_at(key: dg.AssetKey, error: SyncError) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=False, asset_key=key, check_name=FRESHNESS, description=f"could not be looked at: {error}"
    )


def _name(evaluation: dg.AssetCheckEvaluation) -> str:
    return f"{evaluation.asset_key.to_user_string()} {evaluation.check_name}"


def _gist(evaluation: dg.AssetCheckEvaluation) -> str:
    return "passed" if evaluation.passed else evaluation.severity.value


def _is_news(told: list[object] | None, evaluation: dg.AssetCheckEvaluation, now: float) -> bool:
    return told is None or told[0] != _gist(evaluation) or now - float(str(told[1])) >= _TELL_AGAIN_SECONDS
