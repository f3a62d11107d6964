"""A run launcher whose runs are processes of their own and start late, as pods of a cluster do.

A pod depends on no daemon and on no code server: it outlives both. It may need minutes, for its node and its image.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil
from dagster import DagsterRun
from dagster._core.launcher.base import LaunchRunContext, RunLauncher
from dagster._core.storage.dagster_run import RunsFilter
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass
from dagster._serdes.config_class import ConfigurableClassData

from assets.deployment import LOCATION_TAG, location_of

# waits, and then becomes the run
_WAIT = 'sleep "$1"; shift; exec "$@"'
PROCESS_TAG = "test/pod"
_PROGRAMS = Path(sys.executable).parent


class PodLauncher(RunLauncher, ConfigurableClass):
    """`locations` says for each code location: `environment` of its pods, and `seconds` that they need to start.

    The first pod needs the first of the seconds, and so on; the last number is for all later ones.
    """

    def __init__(self, locations: Mapping[str, Any], inst_data: ConfigurableClassData | None = None) -> None:
        self._locations = locations
        self._inst_data = inst_data
        super().__init__()

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {"locations": dict}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        return cls(config_value["locations"], inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the pod's process, and leave it alone."""
        run = context.dagster_run
        location = self._locations[run.remote_job_origin.repository_origin.code_location_origin.location_name]
        arguments = ExecuteRunArgs(
            job_origin=context.job_code_origin, run_id=run.run_id, instance_ref=self._instance.get_ref()
        ).get_command_args()
        log = os.path.join(os.environ["DAGSTER_HOME"], "pods.log")
        with open(log, "ab") as output:
            pod = subprocess.Popen(
                ["/bin/sh", "-c", _WAIT, "sh", str(self._seconds(run, location["seconds"])), *arguments],
                env={**os.environ, **location["environment"], "PATH": f"{_PROGRAMS}{os.pathsep}{os.environ['PATH']}"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._instance.add_run_tags(run.run_id, {PROCESS_TAG: str(pod.pid)})

    def terminate(self, run_id: str) -> bool:
        """Delete the pod, started or not."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        with suppress(psutil.NoSuchProcess):
            psutil.Process(int(run.tags[PROCESS_TAG])).terminate()
        return True

    def _seconds(self, run: DagsterRun, seconds: list[float]) -> float:
        """Runs of this location so far are counted, this one too."""
        count = self._instance.get_runs_count(RunsFilter(tags={LOCATION_TAG: location_of(run)}))
        return seconds[min(count, len(seconds)) - 1]
