"""The demo's one folder: its lock, its ports, its servers' folders and its jars."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from demo.errors import DemoError
from demo.machine import free_port

HOME_SETTING, JARS_SETTING = "SYNC_DEMO_HOME", "SYNC_DEMO_JARS"
HEAP_SETTING = "SYNC_DEMO_SEARCH_HEAP"
JAVA_SETTING = "SYNC_DEMO_JAVA_FLAGS"
# Elasticsearch starts with half the work; whoever measures it for minutes leaves this out
_SOON = "-XX:TieredStopAtLevel=1"
SERVERS = ("legacy", "target", "search", "objects")
DAGSTER = "dagster"
CODE = "code"
DATA_DOCS = "data_docs"


class Home:
    """`.demo/` in the working directory, or where SYNC_DEMO_HOME says."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or Path(os.environ.get(HOME_SETTING) or ".demo")).absolute()
        jars = os.environ.get(JARS_SETTING)
        self.jars = Path(jars).absolute() if jars else self.root / "jars"
        self.search_heap = os.environ.get(HEAP_SETTING) or "512m"
        self.java_flags = tuple(os.environ.get(JAVA_SETTING, _SOON).split())
        self._ports_file = self.root / "ports.json"

    @property
    def lock(self) -> Path:
        """Held by whoever starts or stops servers."""
        return self.root / "lock"

    def create(self) -> None:
        """Make the folder."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DemoError(f"{self.root} cannot be made: {error.strerror}.") from error

    def has_ports(self) -> bool:
        """Whether an `up` ever got this far here."""
        return self._ports_file.exists()

    def ports(self) -> dict[str, int]:
        """The port of each server, of Dagster's pages and code, and of Data Docs; chosen the first time."""
        ports: dict[str, int] = json.loads(self._ports_file.read_text()) if self.has_ports() else {}
        missing = [name for name in (*SERVERS, DAGSTER, CODE, DATA_DOCS) if name not in ports]
        for name in missing:
            ports[name] = free_port(set(ports.values()))
        if missing:
            self.keep_ports(ports)
        return ports

    def keep_ports(self, ports: dict[str, int]) -> None:
        """Keep the ports; a killed writer leaves the old ones."""
        fresh = self._ports_file.with_suffix(".new")
        fresh.write_text(json.dumps(ports))
        fresh.replace(self._ports_file)

    def remove_servers(self) -> None:
        """Remove what the servers wrote; jars and ports stay."""
        for name in (*SERVERS, DAGSTER):
            shutil.rmtree(self.root / name, ignore_errors=True)

    def remove(self) -> None:
        """Remove the folder, with jars that were fetched into it."""
        shutil.rmtree(self.root, ignore_errors=True)
