"""Lost runs: killed or hanging ones, which Dagster itself would leave as started, with the pools they hold."""

import json
import math
import threading
import time
from contextlib import suppress

import dagster as dg

from sync_pipeline.heartbeat import Sighting, free_leases, leave, sightings
from sync_pipeline.stores import Stores

# the sensor itself replaces such a run
KEPT = {"sync/kept_by": "sensor", "dagster/max_retries": "0"}
# several beats are missing
_UNSEEN_SECONDS = 15.0
# and still are: while the ledger did not answer, nobody was seen
_LOOK_AGAIN_SECONDS = 8.0
# from launch to the first beat
START_SECONDS = 60.0
_ASK_SECONDS = 5.0
_NEVER = Sighting(unseen=1e9, known=0, host="", pid=0)


def bury_lost(context: dg.SensorEvaluationContext, stores: Stores) -> None:
    """Call lost runs failed, so that Dagster tries them again and whatever waits for them goes on.

    The sensor's cursor keeps which runs were silent at the last look. Raises UnreachableError.
    """
    before: dict[str, float] = json.loads(context.cursor or "{}")
    suspects: dict[str, float] = {}
    for name, seen in _silent(context.instance, stores).items():
        run = context.instance.get_run_by_id(name)
        if run is None:
            continue  # a follower on the command line
        since = before.get(name, time.time())
        if not run.is_finished and seen.unseen < math.inf and time.time() - since < _LOOK_AGAIN_SECONDS:
            suspects[name] = since
            continue
        if not run.is_finished:
            _bury(context, run, seen)
        free_leases(stores, name)
        leave(stores, name)
    context.update_cursor(json.dumps(suspects))


def kept_runs(instance: dg.DagsterInstance) -> list[dg.RunRecord]:
    """Runs of the live delta that the sensor has started and that have not ended."""
    statuses = [
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
    ]
    return list(instance.get_run_records(dg.RunsFilter(tags=KEPT, statuses=statuses)))


def _silent(instance: dg.DagsterInstance, stores: Stores) -> dict[str, Sighting]:
    """All that were not seen lately, by run."""
    never = {record.dagster_run.run_id: _NEVER for record in kept_runs(instance) if _should_be_seen(record)}
    return {name: seen for name, seen in (never | sightings(stores)).items() if seen.unseen > _UNSEEN_SECONDS}


def _should_be_seen(record: dg.RunRecord) -> bool:
    launched = record.dagster_run.status in {dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED}
    return launched and time.time() - (record.start_time or record.update_timestamp.timestamp()) > START_SECONDS


def _bury(context: dg.SensorEvaluationContext, run: dg.DagsterRun, seen: Sighting) -> None:
    """End its process if it is still there, and call the run failed."""
    if not seen.kill():
        _terminate(context.instance, run)
    context.instance.add_run_tags(run.run_id, {"dagster/retry_strategy": "ALL_STEPS"})
    fresh = context.instance.get_run_by_id(run.run_id)
    if fresh and not fresh.is_finished:
        context.instance.report_run_failed(fresh, "The run was not seen any more: killed, or it hangs.")


def _terminate(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Ask its launcher, for a moment: it may be gone with the run. Leases and revisions keep it from doing harm."""

    def ask() -> None:
        with suppress(Exception):
            instance.run_launcher.terminate(run.run_id)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_ASK_SECONDS)
