"""Dagster's GraphQL interface, as far as the demo needs it: what the pages do by clicks."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from demo.errors import DemoError

_POLL_SECONDS = 0.5
_ENDED = {"COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED", "SUCCESS", "FAILURE"}
_SELECTOR = {"repositoryLocationName": "sync_pipeline", "repositoryName": "__repository__"}

_DAEMONS = "{instance {daemonHealth {allDaemonStatuses {daemonType healthy required}}}}"
_LOCATIONS = """{workspaceOrError {... on Workspace {locationEntries {loadStatus
    locationOrLoadError {__typename ... on PythonError {message}}}}}}"""
_START_SENSOR = """mutation($s: SensorSelector!) {startSensor(sensorSelector: $s) {__typename
    ... on PythonError {message} ... on Sensor {id}}}"""
_STOP_SENSOR = """mutation($id: String) {stopSensor(id: $id) {__typename ... on PythonError {message}}}"""
_BACKFILL = """mutation($p: LaunchBackfillParams!) {launchPartitionBackfill(backfillParams: $p) {__typename
    ... on LaunchBackfillSuccess {backfillId} ... on PythonError {message}}}"""
_BACKFILL_STATUS = """query($id: String!) {partitionBackfillOrError(backfillId: $id) {__typename
    ... on PartitionBackfill {status error {message}} ... on PythonError {message}}}"""
_LAUNCH = """mutation($p: ExecutionParams!) {launchRun(executionParams: $p) {__typename
    ... on LaunchRunSuccess {run {runId}} ... on PythonError {message}}}"""
_RUN = """query($id: ID!) {runOrError(runId: $id) {... on Run {status}}}"""
_RUNS = """query($f: RunsFilter) {runsOrError(filter: $f) {... on Runs {results {runId status jobName}}}}"""
_TERMINATE = """mutation($id: String!) {terminateRun(runId: $id) {__typename ... on PythonError {message}
    ... on TerminateRunFailure {message}}}"""
_CHECKS = """query($id: ID!, $after: String) {runOrError(runId: $id) {... on Run {eventConnection(afterCursor: $after) {
    cursor hasMore events {__typename ... on AssetCheckEvaluationEvent {evaluation {success assetKey {path}
    metadataEntries {label ... on IntMetadataEntry {intValue}
        ... on TableMetadataEntry {table {records}}}}}}}}}}"""


class DagsterApi:
    """Requests to one webserver."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/graphql"

    def wait_ready(self, seconds: float = 90.0) -> None:
        """Until the code is loaded and all daemons are healthy; raises DemoError saying what is not."""
        _wait(self._is_ready, seconds, "Dagster's code location and daemons")

    def start_sensor(self, name: str) -> str:
        """Switch a sensor on; its id, to switch it off."""
        return str(self._ask(_START_SENSOR, s={**_SELECTOR, "sensorName": name})["startSensor"]["id"])

    def stop_sensor(self, identity: str) -> None:
        """Switch a sensor off."""
        self._ask(_STOP_SENSOR, id=identity)

    def backfill(self, asset: Iterable[str]) -> str:
        """Launch all partitions of an asset; the backfill's id."""
        params = {"assetSelection": [{"path": list(asset)}], "allPartitions": True, "title": "The whole history"}
        return str(self._ask(_BACKFILL, p=params)["launchPartitionBackfill"]["backfillId"])

    def wait_backfills(self, identities: Iterable[str], seconds: float) -> None:
        """Until they are done; raises DemoError when one fails."""
        for identity in identities:
            found = _wait(lambda i=identity: self._backfill_end(i), seconds, f"backfill {identity}")  # type: ignore[misc]
            if found != "COMPLETED_SUCCESS":
                raise DemoError(f"backfill {identity} ended as {found}")

    def launch(self, job: str, config: Mapping[str, Any] | None = None) -> str:
        """Launch a job, with another config than its own defaults; the run's id."""
        params = {"selector": {**_SELECTOR, "jobName": job}, "runConfigData": config or {}, "mode": "default"}
        return str(self._ask(_LAUNCH, p=params)["launchRun"]["run"]["runId"])

    def wait_run(self, run: str, seconds: float) -> str:
        """Until a run has ended; its status."""
        return str(_wait(lambda: self._run_end(run), seconds, f"run {run}"))

    def runs(self, **wanted: Any) -> list[dict[str, str]]:
        """Runs that match Dagster's RunsFilter, with `runId`, `status` and `jobName`."""
        found: list[dict[str, str]] = self._ask(_RUNS, f=wanted)["runsOrError"]["results"]
        return found

    def terminate(self, run: str) -> None:
        """End a run in order."""
        self._ask(_TERMINATE, id=run)

    def end_runs(self) -> None:
        """End all that have not ended, and wait for it."""
        for run in self.runs(statuses=["QUEUED", "NOT_STARTED", "STARTING", "STARTED"]):
            self.terminate(run["runId"])
            self.wait_run(run["runId"], 60)

    def checks(self, run: str) -> list[dict[str, Any]]:
        """The check results of a run: `asset` (path), `success`, and metadata by label."""
        found: list[dict[str, Any]] = []
        page: dict[str, Any] = {"cursor": None, "hasMore": True}
        while page["hasMore"]:
            page = self._ask(_CHECKS, id=run, after=page["cursor"])["runOrError"]["eventConnection"]
            found += [_evaluation(e["evaluation"]) for e in page["events"] if "evaluation" in e]
        return found

    def _is_ready(self) -> bool:
        statuses = self._ask(_DAEMONS)["instance"]["daemonHealth"]["allDaemonStatuses"]
        entries = self._ask(_LOCATIONS)["workspaceOrError"]["locationEntries"]
        for entry in entries:
            error = (entry["locationOrLoadError"] or {}).get("message")
            if error:
                raise DemoError(f"Dagster cannot load the definitions: {error}")
        loaded = bool(entries) and all(entry["loadStatus"] == "LOADED" for entry in entries)
        return loaded and all(status["healthy"] for status in statuses if status["required"])

    def _backfill_end(self, identity: str) -> str | None:
        found = self._ask(_BACKFILL_STATUS, id=identity)["partitionBackfillOrError"]
        return found["status"] if found["status"] in _ENDED else None

    def _run_end(self, run: str) -> str | None:
        status: str = self._ask(_RUN, id=run)["runOrError"]["status"]
        return status if status in _ENDED else None

    def _ask(self, query: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                found: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            raise DemoError(f"Dagster refused a request: {error.read().decode(errors='replace')[:500]}") from error
        errors = found.get("errors") or [v for v in found["data"].values() if isinstance(v, dict) and "message" in v]
        if errors:
            raise DemoError(f"Dagster refused a request: {errors[0]['message']}")
        data: dict[str, Any] = found["data"]
        return data


def _evaluation(evaluation: dict[str, Any]) -> dict[str, Any]:
    entries = {e["label"]: e.get("intValue", e.get("table")) for e in evaluation["metadataEntries"]}
    return {"asset": evaluation["assetKey"]["path"], "success": evaluation["success"], **entries}


def _wait(found: Callable[[], Any], seconds: float, what: str) -> Any:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        value = found()
        if value:
            return value
        time.sleep(_POLL_SECONDS)  # Dagster's API answers questions and sends no events
    raise DemoError(f"{what}: not done after {seconds:.0f} s")
