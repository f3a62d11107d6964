"""The sensor `keep_live` as two or more code locations evaluate it on one Dagster instance, by clocks of the test."""

import time
from contextlib import contextmanager
from dataclasses import dataclass, field

import dagster as dg
from dagster._core.definitions.sensor_definition import SensorEvaluationContext
from dagster._core.execution.build_resources import wrap_resources_for_execution
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from assets import lost_runs
from assets.sensors import keep_live
from sync_pipeline.run.heartbeat import LastHeartbeat, Workers

REPOSITORY = "__repository__"


@dg.op(config_schema={"minutes": dg.Field(float, default_value=0.0)})
def follow() -> None: ...


@dg.job
def sync():
    follow()


@dataclass
class Engines:
    """Stands for the stores of a location: yields the ledger that it works on."""

    ledger: "FakeLedger"

    @contextmanager
    def stores(self):
        yield self.ledger


@dataclass
class FakeLedger:
    """An id and its workers' heartbeats, stamped by a clock that stands still; reads are counted."""

    id: str
    stamp: str = "2026-01-01T12:00:00+00:00"
    last_heartbeats: dict = field(default_factory=dict)
    reads: int = 0
    freed: list = field(default_factory=list)

    def beat(self, run_id, worked=0.0, **more):
        before = self.last_heartbeats.get(run_id)
        beats = before.beats + 1 if before else 1
        self.last_heartbeats[run_id] = LastHeartbeat("elsewhere", 1, 1, beats, self.stamp, worked, **more)


@dataclass
class Clock:
    """The monotonic clock of all hosts."""

    now: float = 1_000.0

    def __call__(self):
        return self.now


@dataclass
class Location:
    """A code location with its ledger, and what its sensor did."""

    name: str
    ledger: FakeLedger
    instance: dg.DagsterInstance
    cursor: str | None = None
    launched: list = field(default_factory=list)

    def __post_init__(self):
        self.origin = GrpcServerCodeLocationOrigin(host=self.name, port=1, location_name=self.name)
        self.sensor = keep_live("sync")

    def tick(self):
        """One evaluation of the sensor, as the daemon makes it; returns what came of it."""
        with SensorEvaluationContext(
            instance_ref=None,
            last_tick_completion_time=None,
            last_run_key=None,
            cursor=self.cursor,
            log_key=None,
            repository_name=REPOSITORY,
            instance=self.instance,
            sensor_name="keep_live",
            resources=wrap_resources_for_execution({"engine": Engines(self.ledger)}),
            code_location_origin=self.origin,
        ) as context:
            found = self.sensor.evaluate_tick(context)
        self.cursor = found.cursor
        self.launched += [self.create(request) for request in found.run_requests]
        return found

    def create(self, request):
        """A run as the daemon creates it: not started yet."""
        return self.run(request.tags, request.run_config)

    def run(self, tags, config=None, status=dg.DagsterRunStatus.STARTING):
        origin = RemoteJobOrigin(RemoteRepositoryOrigin(self.origin, REPOSITORY), "sync")
        run = self.instance.create_run_for_job(
            sync, run_config=config or {}, tags=tags, status=status, remote_job_origin=origin
        )
        return run.run_id

    def start(self, run_id, at=None):
        """Its own process reports that it has started."""
        event = dg.DagsterEvent("PIPELINE_START", job_name="sync")
        self.instance.report_dagster_event(event, run_id, timestamp=time.time() if at is None else at)

    def status(self, run_id):
        return self.instance.get_run_by_id(run_id).status


def patch_ledgers(patch, clock):
    """Have the sensor read fake ledgers by this clock."""

    def read_workers(ledger):
        ledger.reads += 1
        return Workers(ledger.id, dict(ledger.last_heartbeats))

    patch.setattr(lost_runs, "read_workers", read_workers)
    patch.setattr(lost_runs, "free_leases", lambda ledger, name: ledger.freed.append(name))
    patch.setattr(lost_runs, "leave", lambda ledger, name: ledger.last_heartbeats.pop(name, None))
    patch.setattr(lost_runs, "monotonic", clock)
    patch.setattr(lost_runs, "_ASK_SECONDS", 0.01)
