"""What became of each run of the live delta: by Dagster's own records and events."""

from collections.abc import Iterable
from dataclasses import dataclass

import dagster as dg

from assets.deployment import KEPT, LOCATION_TAG
from tests.locations.deployments import Deployment

# a run that ends by itself may end so much before its window: clocks are read at different moments
_SLACK_SECONDS = 3.0
_END_EVENTS = {
    dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterEventType.RUN_CANCELING,
    dg.DagsterEventType.RUN_CANCELED,
    dg.DagsterEventType.ENGINE_EVENT,
}


@dataclass(frozen=True)
class Life:
    """One run: how long it needed to start, how long it worked, how it ended and why. None: not yet."""

    where: str
    job: str
    is_kept: bool
    status: dg.DagsterRunStatus
    needed: float | None
    worked: float | None
    why: str

    def is_healthy(self, window_seconds: float) -> bool:
        """Whether nobody has ended it before its time."""
        if self.status == dg.DagsterRunStatus.SUCCESS:
            return not self.is_kept or (self.worked or 0.0) >= window_seconds - _SLACK_SECONDS
        return self.status not in {
            dg.DagsterRunStatus.FAILURE,
            dg.DagsterRunStatus.CANCELING,
            dg.DagsterRunStatus.CANCELED,
        }

    def line(self) -> str:
        """For people."""
        needed = "not started" if self.needed is None else f"started after {self.needed:.0f} s"
        worked = "" if self.worked is None else f", worked {self.worked:.0f} s"
        why = f" ({self.why})" if self.why else ""
        return f"{self.where}: {needed}{worked}, {self.status.value}{why}"


def lives(deployments: Iterable[Deployment]) -> list[Life]:
    """All runs of all deployments, by deployment and time."""
    return [_life(deployment, record) for deployment in deployments for record in deployment.records()]


def _life(deployment: Deployment, record: dg.RunRecord) -> Life:
    run = record.dagster_run
    location = run.tags_for_storage()[LOCATION_TAG].partition("@")[2]
    started, ended = record.start_time, record.end_time
    return Life(
        where=f"{deployment.name}/{location}",
        job=run.job_name,
        is_kept=KEPT.items() <= run.tags.items(),
        status=run.status,
        needed=None if started is None else started - record.create_timestamp.timestamp(),
        worked=None if started is None or ended is None else ended - started,
        why=_reason(deployment.instance, run) if run.is_finished and not run.is_success else "",
    )


def _reason(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """The last things that its event log says."""
    events = instance.all_logs(run.run_id, of_type=_END_EVENTS)
    return "; ".join(event.message for event in events[-3:])[:300]
