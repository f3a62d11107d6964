"""Lost runs: killed or hanging ones, which Dagster itself would leave as started, with the pools they hold.

A run that has not started yet is left to Dagster's run monitoring: a pod may need minutes (`start_timeout_seconds`
in dagster.yaml).
"""

import threading
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

import dagster as dg

from assets.deployment import Deployment, location_of_sensor
from assets.silence import Silence
from sync_pipeline.run.heartbeat import LastHeartbeat, Workers, free_leases, leave, read_workers
from sync_pipeline.stores.stores import Stores

# several beats are missing
SILENT_SECONDS = 20.0
# from a run's start to its first beat
START_SECONDS = 60.0
_ASK_SECONDS = 5.0
_NEVER = LastHeartbeat(host="", pid=0)
_UNSEEN = "never seen"


@dataclass(frozen=True)
class Ours:
    """Our deployment, its runs of the live delta in flight, and the workers that the ledger has seen."""

    deployment: Deployment
    workers: Workers
    kept: list[dg.RunRecord]


def fail_lost(context: dg.SensorEvaluationContext, stores: Stores) -> Ours:
    """Call lost runs failed, so that Dagster tries them again and whatever waits for them goes on.

    The sensor's cursor keeps how long each worker has been silent. Return what is left. Raises UnreachableError.
    """
    workers = read_workers(stores)
    deployment = Deployment(location_of_sensor(context), workers.ledger)
    kept = deployment.kept_runs(context.instance, workers.last_heartbeats)
    silence = Silence.from_cursor(context.cursor).look(_marks(workers, kept), monotonic())
    lost = [name for name in silence.marks if _is_lost(name, workers.last_heartbeats.get(name), silence.seconds[name])]
    failed = {name for name in lost if _fail_ours(context.instance, stores, deployment, workers, name)}
    context.update_cursor(silence.to_cursor())
    return Ours(deployment, workers, [record for record in kept if record.dagster_run.run_id not in failed])


def _marks(workers: Workers, kept: list[dg.RunRecord]) -> dict[str, str]:
    """What tells one beat of a worker from the next, for all who beat or should."""
    started = [record.dagster_run.run_id for record in kept if _has_started(record)]
    return {**dict.fromkeys(started, _UNSEEN), **{name: seen.mark for name, seen in workers.last_heartbeats.items()}}


def _has_started(record: dg.RunRecord) -> bool:
    """Whether the run's own process has reported its start; a start time alone remains from an earlier try."""
    return record.dagster_run.status == dg.DagsterRunStatus.STARTED and record.start_time is not None


def _is_lost(name: str, seen: LastHeartbeat | None, silent_seconds: float) -> bool:
    if seen is None:
        return silent_seconds >= START_SECONDS
    return seen.is_gone or silent_seconds >= SILENT_SECONDS


def _fail_ours(
    instance: dg.DagsterInstance, stores: Stores, deployment: Deployment, workers: Workers, name: str
) -> bool:
    """Fail a lost run and free its leases, if it is ours; False where it is another's, or no run of this Dagster."""
    run = instance.get_run_by_id(name)
    if run is None or not deployment.owns(run, workers.last_heartbeats):
        return False
    if not run.is_finished:
        _fail(instance, run, workers.last_heartbeats.get(name, _NEVER))
    free_leases(stores, name)
    leave(stores, name)
    return True


def _fail(instance: dg.DagsterInstance, run: dg.DagsterRun, seen: LastHeartbeat) -> None:
    """End its process if it is still there, and call the run failed."""
    if not seen.kill():
        _terminate(instance, run)
    instance.add_run_tags(run.run_id, {"dagster/retry_strategy": "ALL_STEPS"})
    fresh = instance.get_run_by_id(run.run_id)
    if fresh and not fresh.is_finished:
        instance.report_run_failed(fresh, "The run was not seen any more: killed, or it hangs.")


def _terminate(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Ask its launcher, for a moment: it may be gone with the run. Leases and revisions keep it from doing harm."""

    def ask() -> None:
        with suppress(Exception):
            instance.run_launcher.terminate(run.run_id)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_ASK_SECONDS)
