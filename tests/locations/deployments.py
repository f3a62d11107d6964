"""A Dagster deployment: a storage and a daemon of its own, and a code server with its own environment per location."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import dagster as dg
import pytest
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
from dagster._core.scheduler.instigation import TickStatus
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget

from assets.sensors import WINDOW_MINUTES
from demo.databases import DAGSTER, create_target, drop_database
from demo.fleet import Fleet
from demo.machine import free_port
from demo.servers import CodeServer, Daemon
from demo.servers.dagster import DEFINITIONS
from tests.locations.sides import Side

SENSORS = ("keep_live", "watch_standing")
FOLLOWED = "A run follows the live delta."
_REPOSITORY = "__repository__"


@dataclass(frozen=True)
class Location:
    """A code location: the new side it works on, and the seconds that its pods need; none: the code server's runs."""

    name: str
    side: str
    pods: tuple[float, ...] = ()


@dataclass(frozen=True)
class Times:
    """The definitions that all locations load, and how long a run of theirs follows."""

    definitions: str = DEFINITIONS
    window_seconds: float = WINDOW_MINUTES * 60


@dataclass(frozen=True)
class Tick:
    """What came of one evaluation of a sensor."""

    location: str
    sensor: str
    status: str
    said: str

    @property
    def is_fault(self) -> bool:
        """Whether it failed, or could not look: a sensor that skips says why."""
        is_blind = self.sensor == "keep_live" and self.said not in {"", FOLLOWED}
        return self.status == TickStatus.FAILURE.value or is_blind


@dataclass
class Deployment:
    """Its services; all of its processes bear its home in their environment."""

    name: str
    locations: tuple[Location, ...]
    instance: dg.DagsterInstance
    codes: dict[str, CodeServer] = field(default_factory=dict)
    daemon: Daemon | None = None

    def start_sensors(self) -> None:
        """Switch the sensors of all locations on, as the pages do."""
        target = WorkspaceFileTarget([str(self.daemon.folder / "workspace.yaml")])
        with WorkspaceProcessContext(self.instance, target) as process:
            context = process.create_request_context()
            for location in self.codes:
                repository = context.get_code_location(location).get_repository(_REPOSITORY)
                for name in SENSORS:
                    self.instance.start_sensor(repository.get_sensor(name))

    def records(self) -> list[dg.RunRecord]:
        """All runs, the oldest first."""
        return list(self.instance.get_run_records(ascending=True))

    def ticks(self) -> list[Tick]:
        """All evaluations of all sensors that have ended."""
        found = []
        for state in self.instance.all_instigator_state():
            origin = state.origin.repository_origin.code_location_origin
            assert isinstance(origin, GrpcServerCodeLocationOrigin)
            found += [
                Tick(origin.location_name, state.instigator_name, tick.status.value, _said(tick))
                for tick in self.instance.get_ticks(state.instigator_origin_id, state.selector_id)
                if tick.status != TickStatus.STARTED
            ]
        return found


@contextmanager
def deployed(
    fleet: Fleet, name: str, locations: tuple[Location, ...], sides: Mapping[str, Side], times: Times
) -> Iterator[Deployment]:
    """A deployment that runs, its sensors still off; at the end nothing is left of it, runs included."""
    home = fleet.home.root / name
    storage = f"{fleet.home.root.name}_{name}_dagster".replace("-", "_")
    postgres = urlsplit(create_target(fleet.target, storage, owner=DAGSTER))
    environment = {
        "DAGSTER_PG_HOST": postgres.hostname or "",
        "DAGSTER_PG_PORT": str(postgres.port),
        "DAGSTER_PG_USER": postgres.username or "",
        "DAGSTER_PG_PASSWORD": postgres.password or "",
        "DAGSTER_PG_DB": storage,
    }
    variables = {place.name: {**sides[place.side].environment, **environment} for place in locations}
    codes = {
        place.name: CodeServer(home, f"code-{place.name}", free_port(), place.name, times.definitions)
        for place in locations
    }
    daemon = Daemon(home, "daemon", 0, {code.location: code.port for code in codes.values()})
    for code in codes.values():
        code.environment = variables[code.location]
    daemon.environment = environment
    servers = [*codes.values(), daemon]
    for server in servers:
        server.settings = _launcher(locations, variables)
    try:
        for server in servers:
            server.start()
        for server in servers:
            server.wait_healthy(180)
        with _instance(daemon.folder, environment) as instance:
            yield Deployment(name, locations, instance, codes, daemon)
    finally:
        for server in reversed(servers):
            server.stop()
        drop_database(fleet.target, storage)


def _launcher(locations: tuple[Location, ...], variables: Mapping[str, Mapping[str, str]]) -> str:
    """Lines of dagster.yaml; without pods it is the default one."""
    pods = {
        place.name: {"seconds": list(place.pods), "environment": dict(variables[place.name])} for place in locations
    }
    if not any(place.pods for place in locations):
        return ""
    launcher = {"module": "tests.locations.pods", "class": "PodLauncher", "config": {"locations": pods}}
    return f"\nrun_launcher: {json.dumps(launcher)}\n"


@contextmanager
def _instance(folder: Path, environment: Mapping[str, str]) -> Iterator[dg.DagsterInstance]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        instance = dg.DagsterInstance.from_config(str(folder))
    with instance:
        yield instance


def _said(tick: object) -> str:
    error = getattr(tick, "error", None)
    return (error.message if error else getattr(tick, "skip_reason", None)) or ""
