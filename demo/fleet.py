"""The demo's servers together, and Dagster beside them: up, down, how they are."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from threading import Event

from demo.buckets import create_bucket
from demo.databases import DAGSTER, Monolith, create_monolith, create_target
from demo.errors import DemoError
from demo.home import CODE, SERVERS, Home
from demo.home import DAGSTER as PAGES
from demo.jars import Jars
from demo.locks import locked
from demo.machine import check_disk, free_port, port_is_free
from demo.servers import (
    LEGACY_OPTIONS,
    CodeServer,
    Daemon,
    DagsterServer,
    ObjectStore,
    PostgresServer,
    SearchServer,
    Server,
    Webserver,
)
from sync_pipeline.run.background import in_background

_LOOK_SECONDS = 2.0
MONOLITH_DATABASE, CATALOG_DATABASE = "monolith", "catalog"
LEGACY_BUCKET, TARGET_BUCKET = "monolith-media", "catalog-media"


@dataclass(frozen=True)
class Addresses:
    """Where everything is, for those who connect."""

    monolith: Monolith
    catalog_url: str
    dagster_url: str
    search_url: str
    objects_url: str
    access_key: str
    secret_key: str


class Fleet:
    """The servers of one home."""

    def __init__(self, home: Home, ports: dict[str, int] | None = None) -> None:
        self.home = home
        self.jars = Jars(home.jars)
        ports = ports or home.ports()
        self.legacy = PostgresServer(home.root, "legacy", ports["legacy"], LEGACY_OPTIONS)
        self.target = PostgresServer(home.root, "target", ports["target"])
        java = (f"-Xms{home.search_heap}", f"-Xmx{home.search_heap}", *home.java_flags)
        self.search = SearchServer(home.root, "search", ports["search"], self.jars, java)
        self.objects = ObjectStore(home.root, "objects", ports["objects"], self.jars)
        self.code = CodeServer(home.root, "code", ports[CODE])
        locations = {self.code.location: self.code.port}
        self.webserver = Webserver(home.root, "webserver", ports[PAGES], locations)
        self.daemon = Daemon(home.root, "daemon", 0, locations)

    @property
    def servers(self) -> tuple[Server, ...]:
        """All four that are brought up; Dagster is started on its own."""
        return (self.legacy, self.target, self.search, self.objects)

    @property
    def dagster(self) -> tuple[DagsterServer, ...]:
        """Dagster's services, in the order in which they are started."""
        return (self.code, self.webserver, self.daemon)

    def start(self) -> None:
        """Start what does not run, side by side, and wait for all."""
        with ThreadPoolExecutor(len(self.servers)) as pool:
            list(pool.map(_start, self.servers))
            list(pool.map(lambda make: make(), (self._make_monolith, self._make_catalog, self._make_buckets)))

    def start_dagster(self, environment: Mapping[str, str]) -> None:
        """Start code server, webserver and daemon over the repository's definitions, and wait until they answer."""
        for server in self.dagster:
            server.environment = environment
            server.start()
            server.wait_healthy()

    def dagster_kept(self) -> AbstractContextManager[None]:
        """Start again whatever of Dagster dies meanwhile: what a supervisor does where it is deployed."""
        return in_background(self._keep_dagster, "supervisor")

    def stop(self) -> None:
        """Stop Dagster, then all others side by side."""
        for service in reversed(self.dagster):
            service.stop()
        with ThreadPoolExecutor(len(self.servers)) as pool:
            list(pool.map(lambda server: server.stop(), self.servers))

    def addresses(self) -> Addresses:
        """Connection strings and keys; the servers must have been up."""
        access, secret = self.objects.keys
        return Addresses(
            monolith=Monolith(
                self.legacy.url(MONOLITH_DATABASE, "sync_reader"),
                self.legacy.url(MONOLITH_DATABASE),
            ),
            catalog_url=self.target.url(CATALOG_DATABASE, "sync_writer"),
            dagster_url=self.target.url(DAGSTER, DAGSTER),
            search_url=self.search.url,
            objects_url=self.objects.url,
            access_key=access,
            secret_key=secret,
        )

    def _keep_dagster(self, stop: Event) -> None:
        while not stop.wait(_LOOK_SECONDS):
            for service in self.dagster:
                service.start()

    def _make_monolith(self) -> None:
        create_monolith(self.legacy, MONOLITH_DATABASE)

    def _make_catalog(self) -> None:
        create_target(self.target, CATALOG_DATABASE)
        create_target(self.target, DAGSTER, owner=DAGSTER)

    def _make_buckets(self) -> None:
        for name in (LEGACY_BUCKET, TARGET_BUCKET):
            create_bucket(self.objects.client(), name)


def up(home: Home) -> Fleet:
    """Start everything; a second `up` starts only what died. Two at a time take turns."""
    home.create()
    check_disk(home.root)
    with locked(home.lock):
        Jars(home.jars).fetch()
        if not home.has_ports():
            _portless(home).stop()  # of a home that was removed under its servers
        fleet = Fleet(home)
        if _move_from_taken_ports(fleet):
            fleet = Fleet(home)
        fleet.start()
    return fleet


def down(home: Home, keep_rows: bool = False) -> None:
    """Stop everything; what the servers wrote goes too, unless kept."""
    if not home.root.exists():
        _portless(home).stop()
        return
    with locked(home.lock):
        _portless(home).stop()
        if not keep_rows:
            home.remove_servers()


def running(home: Home) -> Fleet:
    """The fleet of an earlier `up`; raises when there was none or something is not running."""
    dead = "all servers" if not home.has_ports() else ", ".join(s.name for s in Fleet(home).servers if not s.alive())
    if dead:
        raise DemoError(f"Not running: {dead}. Start with: sync-pipeline demo up")
    return Fleet(home)


def _start(server: Server) -> None:
    server.start()
    server.wait_healthy()


def _portless(home: Home) -> Fleet:
    """A fleet that is only good for stopping: servers are recognised by their folders."""
    return Fleet(home, dict.fromkeys((*SERVERS, PAGES, CODE), 0))


def _move_from_taken_ports(fleet: Fleet) -> bool:
    """Give servers that are down another port where somebody else took theirs."""
    ports = fleet.home.ports()
    taken = [s.name for s in fleet.servers if not s.alive() and not port_is_free(s.port)]
    for name in taken:
        ports[name] = free_port(set(ports.values()))
    if taken:
        fleet.home.keep_ports(ports)
    return bool(taken)
