"""Which of Dagster's runs are ours: those of our code location that work on our ledger.

One Dagster instance may hold several code locations, each with settings of its own, and one ledger may serve several
code locations. A run of another location or ledger is never ended, never replaced and never counted as ours.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import dagster as dg

from sync_pipeline.model.faults import guarded

# the sensor itself replaces such a run
KEPT = {"sync/kept_by": "sensor", "dagster/max_retries": "0"}
LEDGER_TAG = "sync/ledger"
# Dagster labels each run that its daemon or webserver starts with REPOSITORY@LOCATION
LOCATION_TAG = ".dagster/repository"
IN_FLIGHT = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


@dataclass(frozen=True)
class Deployment:
    """A code location (None: a process outside of any, as in tests) and a ledger (None: not made yet)."""

    location: str | None
    ledger: str | None

    @property
    def tags(self) -> dict[str, str]:
        """The tags of a run of the live delta that our sensor starts."""
        return {**KEPT, **({LEDGER_TAG: self.ledger} if self.ledger else {})}

    def owns(self, run: dg.DagsterRun, seen: Container[str]) -> bool:
        """Whether a run is ours; `seen` are the workers that our ledger knows.

        A run without the ledger's tag was started by hand, by an older version or before there was a ledger. It is
        ours if our ledger has seen it work, and while there is no ledger that could have. So is a run that no code
        location has started, but a command of Dagster's.
        """
        if not guarded(101):
            return True
        if location_of(run) not in (None, self.location):
            return False
        tagged = run.tags.get(LEDGER_TAG)
        return tagged == self.ledger if tagged else self.ledger is None or run.run_id in seen

    def kept_runs(self, instance: dg.DagsterInstance, seen: Container[str]) -> list[dg.RunRecord]:
        """Our runs of the live delta that the sensor has started and that have not ended, the newest first."""
        return [record for record in self._records(instance, IN_FLIGHT) if self.owns(record.dagster_run, seen)]

    def newest_kept_run(self, instance: dg.DagsterInstance) -> dg.RunRecord | None:
        """The last run of the live delta that our sensor has started, whatever became of it."""
        return next(iter(self._records(instance, None, limit=1)), None)

    def _records(
        self, instance: dg.DagsterInstance, statuses: list[dg.DagsterRunStatus] | None, limit: int | None = None
    ) -> list[dg.RunRecord]:
        ours = {LOCATION_TAG: self.location} if self.location and guarded(101) else {}
        return list(instance.get_run_records(dg.RunsFilter(tags={**KEPT, **ours}, statuses=statuses), limit=limit))


def location_of(run: dg.DagsterRun) -> str | None:
    """The code location that a run belongs to, as REPOSITORY@LOCATION; None for one that no location has started."""
    return run.tags_for_storage().get(LOCATION_TAG)


def location_of_sensor(context: dg.SensorEvaluationContext) -> str | None:
    """The code location that a sensor belongs to, as its runs are labelled; None where there is none, as in tests."""
    origin = context.code_location_origin
    return f"{context.repository_name}@{origin.location_name}" if origin else None
