"""Dagster's code server, webserver and daemon over the repository's own definitions, as they are deployed."""

from __future__ import annotations

import http.client
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from demo.servers.server import Server

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = "dagster"
LOCATION, DEFINITIONS = "sync_pipeline", "assets.definitions"


class DagsterServer(Server):
    """One of Dagster's services. They and the runs inherit DAGSTER_HOME, by which all are recognised."""

    program = ""

    def __init__(self, home: Path, name: str, port: int) -> None:
        super().__init__(home, FOLDER, port)
        self.name = name
        self.environment: Mapping[str, str] = {}
        self.settings = ""  # further lines of dagster.yaml
        self.log = self.folder / f"{name}.log"

    def marks(self) -> set[str]:
        return {self.program}

    def is_leader(self, candidate: psutil.Process) -> bool:
        return any(self.program in part for part in candidate.cmdline()[:3]) and self._is_ours(candidate)

    def spawn_options(self) -> dict[str, Any]:
        return {
            "env": {**os.environ, **self.environment, "DAGSTER_HOME": str(self.folder), "PYTHONPATH": str(REPOSITORY)},
            "cwd": REPOSITORY,
        }

    def prepare(self) -> None:
        """Dagster's home is the demo's, with the repository's settings in it."""
        settings = (REPOSITORY / "dagster.yaml").read_text(encoding="utf-8") + self.settings
        (self.folder / "dagster.yaml").write_text(settings, encoding="utf-8")

    def clear(self) -> None:
        """Runs go on when the service that started them dies."""

    def answers(self) -> bool:
        return self.alive()

    def _is_ours(self, candidate: psutil.Process) -> bool:
        """The environment is read last: it costs most."""
        home: str | None = candidate.environ().get("DAGSTER_HOME")
        return home == str(self.folder)

    def _program(self, name: str) -> str:
        return str(Path(sys.executable).with_name(name))


class CodeServer(DagsterServer):
    """Holds the definitions of one code location, and starts the runs."""

    program = "code-server"

    def __init__(
        self, home: Path, name: str, port: int, location: str = LOCATION, definitions: str = DEFINITIONS
    ) -> None:
        super().__init__(home, name, port)
        self.location = location
        self.definitions = definitions

    def command(self) -> list[str]:
        where = ["-h", "127.0.0.1", "-p", str(self.port), "--location-name", self.location]
        what = ["-m", self.definitions, "-d", str(REPOSITORY)]
        return [self._program("dagster"), "code-server", "start", *where, *what]

    def is_leader(self, candidate: psutil.Process) -> bool:
        return self.location in candidate.cmdline() and super().is_leader(candidate)

    def answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def is_part(self, candidate: psutil.Process) -> bool:
        """Itself, its children and every run: nothing of them may outlive it; the other services are no part of it."""
        others = (Webserver.program, Daemon.program)
        return self._is_ours(candidate) and not any(
            other in part for other in others for part in candidate.cmdline()[:3]
        )


class _Client(DagsterServer):
    """A service that knows the code servers only: the port of each code location."""

    def __init__(self, home: Path, name: str, port: int, locations: Mapping[str, int]) -> None:
        super().__init__(home, name, port)
        self._locations = locations

    def prepare(self) -> None:
        super().prepare()
        servers = (
            f"  - grpc_server: {{host: 127.0.0.1, port: {port}, location_name: {name}}}\n"
            for name, port in self._locations.items()
        )
        self._workspace.write_text(f"load_from:\n{''.join(servers)}")

    @property
    def _workspace(self) -> Path:
        return self.folder / "workspace.yaml"

    def _command(self, *arguments: str) -> list[str]:
        return [self._program(self.program), *arguments, "-w", str(self._workspace)]


class Webserver(_Client):
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


class Daemon(_Client):
    """Sensors, schedules, backfills and the queue of runs."""

    program = "dagster-daemon"

    def command(self) -> list[str]:
        return self._command("run")
