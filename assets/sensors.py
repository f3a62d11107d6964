"""Sensors: one keeps the live delta going, one keeps an eye on where it stands. Neither starts a run to look."""

import datetime as dt
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import cast

import dagster as dg

from assets.lineage import sink_keys
from assets.lost_runs import START_SECONDS, Ours, fail_lost
from assets.resources import Engine
from checks.health import FRESHNESS, health_results
from sync_pipeline.entity import Entity
from sync_pipeline.errors import SyncError

WINDOW_MINUTES = 10.0
# a successor starts so long before the end, and takes over lease by lease
_HANDOVER_SECONDS = 30.0
# a run may need so long to start (start_timeout_seconds in dagster.yaml): a pod that waits for a node, an image's pull
LONGEST_START_SECONDS = 600.0
# a successor is launched earlier where runs start slowly, though not before the one before has worked a while
_LEAST_WORK_SECONDS = 30.0
# what has not changed is told again so often, for the trend
_TELL_AGAIN_SECONDS = 1_800.0


def keep_live(job: str) -> dg.SensorDefinition:
    """Keeps one run of a job going."""

    @dg.sensor(
        name="keep_live",
        job_name=job,
        minimum_interval_seconds=5,
        description=f"Keeps one run of the job {job} going: a successor every {WINDOW_MINUTES:.0f} minutes, and at once"
        " after one that was killed or hangs. Any other run that was killed is called failed, and begins again.",
    )
    def keep(context: dg.SensorEvaluationContext, engine: Engine) -> dg.RunRequest | dg.SkipReason:
        try:
            with engine.stores() as stores:
                ours = fail_lost(context, stores)
        except SyncError as error:
            context.update_cursor("{}")  # silence counts from now on: nobody could be seen
            return dg.SkipReason(str(error))
        if _is_followed(ours):
            return dg.SkipReason("A run follows the live delta.")
        return _request(ours, ours.deployment.newest_kept_run(context.instance))

    return keep


def _request(ours: Ours, newest: dg.RunRecord | None) -> dg.RunRequest:
    """A run that follows. Two daemons that ask at once ask for the same successor, by its key."""
    config = dg.RunConfig(ops={"follow": {"config": {"minutes": WINDOW_MINUTES}}})
    longest = WINDOW_MINUTES * 60 + START_SECONDS + _HANDOVER_SECONDS + LONGEST_START_SECONDS
    after = newest.dagster_run.run_id if newest else "none"
    return dg.RunRequest(
        run_key=f"{ours.deployment.ledger}-after-{after}",
        run_config=config,
        tags={**ours.deployment.tags, "dagster/max_runtime": str(int(longest))},
    )


def _is_followed(ours: Ours) -> bool:
    """Whether a run follows for longer than a successor needs to take over.

    Where entities of the only run hang, a second one takes over their leases, which have run out, beside it.
    """
    return any(
        _seconds_left(record, ours) > _handover_seconds(record) and not (_hangs(record, ours) and len(ours.kept) == 1)
        for record in ours.kept
    )


def _seconds_left(record: dg.RunRecord, ours: Ours) -> float:
    """By the clock of the run itself, as its heartbeat tells; a run that does not work yet has all its time."""
    window = WINDOW_MINUTES * 60
    if record.dagster_run.status != dg.DagsterRunStatus.STARTED:
        return window
    seen = ours.workers.last_heartbeats.get(record.dagster_run.run_id)
    if seen and seen.worked_seconds is None:  # of a version that does not tell
        return window - _age(record)
    return window - (seen.worked_seconds or 0.0 if seen else 0.0)


def _hangs(record: dg.RunRecord, ours: Ours) -> bool:
    seen = ours.workers.last_heartbeats.get(record.dagster_run.run_id)
    return bool(seen and seen.hanging)


def _handover_seconds(record: dg.RunRecord) -> float:
    """So long before a run's end its successor is launched: as long as the run itself needed to start, and a while."""
    needed = (record.start_time or 0.0) - record.create_timestamp.timestamp()
    return min(max(needed, 0.0) + _HANDOVER_SECONDS, WINDOW_MINUTES * 60 - _LEAST_WORK_SECONDS)


def _age(record: dg.RunRecord) -> float:
    return dt.datetime.now(dt.UTC).timestamp() - (record.start_time or 0.0)


def watch_standing(
    entities: Iterable[Entity], check_files: Callable[[], dg.AssetCheckResult] | None = None
) -> dg.SensorDefinition:
    """Evaluates the checks of where the live delta stands and of the entity files, without a run."""
    watched = {entity.name: entity for entity in entities}

    @dg.sensor(
        name="watch_standing",
        minimum_interval_seconds=60,
        description="Looks each minute how far behind each entity is and what it owes. Tells the checks freshness,"
        " due, dead_letters and of the entity files when that changes, after a materialization, and every half hour.",
    )
    def watch(context: dg.SensorEvaluationContext, engine: Engine) -> dg.SensorResult:
        reported: dict[str, list[object]] = json.loads(context.cursor or "{}")
        now = dt.datetime.now(dt.UTC).timestamp()
        events = [
            evaluation
            for evaluation in [*_evaluations(engine, watched), *_files(check_files)]
            if _is_news(reported.get(_name(evaluation)), evaluation, now, _materialized(context, evaluation))
        ]
        reported.update({_name(evaluation): [_gist(evaluation), now] for evaluation in events})
        return dg.SensorResult(asset_events=events, cursor=json.dumps(reported))

    return watch


def _evaluations(engine: Engine, entities: Mapping[str, Entity]) -> Iterator[dg.AssetCheckEvaluation]:
    for entity in entities.values():
        key = sink_keys(entity)["relational"]
        try:
            with engine.stores() as stores:
                results = list(health_results(stores, entity, key))
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


def _files(check: Callable[[], dg.AssetCheckResult] | None) -> Iterator[dg.AssetCheckEvaluation]:
    if check:
        result = check()
        yield dg.AssetCheckEvaluation(
            asset_key=cast(dg.AssetKey, result.asset_key),
            check_name=cast(str, result.check_name),
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


def _materialized(context: dg.SensorEvaluationContext, evaluation: dg.AssetCheckEvaluation) -> float:
    event = context.instance.get_latest_materialization_event(evaluation.asset_key)
    return event.timestamp if event else 0.0


def _is_news(
    reported: list[object] | None, evaluation: dg.AssetCheckEvaluation, now: float, materialized: float
) -> bool:
    if reported is None or reported[0] != _gist(evaluation):
        return True
    reported_at = float(str(reported[1]))
    # Dagster shows what was told before a materialization as "not evaluated"
    return reported_at <= materialized or now - reported_at >= _TELL_AGAIN_SECONDS
