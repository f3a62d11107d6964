"""Dagster's webserver and daemon over the repository's own definitions."""

from __future__ import annotations

import http.client
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from demo.servers.server import Server

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = "dagster"


class DagsterServer(Server):
    """One of Dagster's services. Its runs and code servers inherit DAGSTER_HOME, by which all are recognised."""

    program = ""

    def __init__(self, home: Path, name: str, port: int) -> None:
        super().__init__(home, FOLDER, port)
        self.name = name
        self.environment: Mapping[str, str] = {}
        self.log = self.folder / f"{name}.log"

    def marks(self) -> set[str]:
        return {self.program}

    def is_leader(self, candidate: psutil.Process) -> bool:
        return self._is_ours(candidate) and any(self.program in part for part in candidate.cmdline()[:3])

    def spawn_options(self) -> dict[str, Any]:
        return {
            "env": {**os.environ, **self.environment, "DAGSTER_HOME": str(self.folder), "PYTHONPATH": str(REPOSITORY)},
            "cwd": REPOSITORY,
        }

    def prepare(self) -> None:
        """Dagster's home is the demo's, with the repository's settings in it."""
        shutil.copy2(REPOSITORY / "dagster.yaml", self.folder)

    def answers(self) -> bool:
        return self.alive()

    def _is_ours(self, candidate: psutil.Process) -> bool:
        """The environment is read last: it costs most."""
        home: str | None = candidate.environ().get("DAGSTER_HOME")
        return home == str(self.folder)

    def _command(self, *arguments: str) -> list[str]:
        program = Path(sys.executable).with_name(self.program)
        return [str(program), *arguments, "-w", str(REPOSITORY / "workspace.yaml")]


class Webserver(DagsterServer):
    """The pages and the GraphQL interface."""

    program = "dagster-webserver"

    @property
    def url(self) -> str:
        """Where the pages are."""
        return f"http://{self.address}"

    def command(self) -> list[str]:
        return self._command("-h", "127.0.0.1", "-p", str(self.port))

    def answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3)
        try:
            connection.request("GET", "/server_info")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class Daemon(DagsterServer):
    """Sensors, schedules, backfills and the queue of runs."""

    program = "dagster-daemon"

    def command(self) -> list[str]:
        return self._command("run")

    def is_part(self, candidate: psutil.Process) -> bool:
        """Itself, its code servers and every run: nothing of them may outlive it, but the webserver is not its part."""
        return self._is_ours(candidate) and not any("dagster-webserver" in part for part in candidate.cmdline()[:3])
