"""An Elasticsearch 9 server: one node, run by `demo.search_node` inside a Python program."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from demo.jars import SEARCH, Jars
from demo.machine import free_port
from demo.servers.server import Server

_DESCRIPTOR = """\
description=HTTP and transport by Netty
version={version}
name=transport-netty4
classname=org.elasticsearch.transport.netty4.Netty4Plugin
java.version=21
elasticsearch.version={version}
has.native.controller=false
licensed=false
"""


class SearchServer(Server):
    """`flags` are those of the Java virtual machine."""

    healthy_seconds = 240.0  # it compiles itself as it starts, which a busy machine takes its time for

    def __init__(self, home: Path, name: str, port: int, jars: Jars, flags: tuple[str, ...]) -> None:
        super().__init__(home, name, port)
        self.jars = jars
        self.flags = flags

    @property
    def url(self) -> str:
        """Where the engine finds it."""
        return f"http://{self.address}"

    def command(self) -> list[str]:
        transport = free_port({self.port})
        numbers = [str(self.port), str(transport), *self.flags]
        return [sys.executable, "-m", "demo.search_node", str(self.folder), str(self.jars.folder(SEARCH)), *numbers]

    def marks(self) -> set[str]:
        return {"demo.search_node", str(self.folder)}

    def spawn_options(self) -> dict[str, Any]:
        package_parent = Path(__file__).resolve().parents[2]
        return {"env": {**os.environ, "PYTHONPATH": str(package_parent)}}

    def prepare(self) -> None:
        """Lay out the home Elasticsearch expects; its network layer is a module of its own."""
        for name in ("config", "data", "logs", "modules"):
            (self.folder / name).mkdir(exist_ok=True)
        module = self.folder / "modules" / "transport-netty4"
        if module.exists():
            return
        fresh = self.folder / "transport-netty4.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        (fresh / "plugin-descriptor.properties").write_text(_DESCRIPTOR.format(version=SEARCH.version))
        for jar in self.jars.network_jars():
            shutil.copy2(jar, fresh)
        fresh.rename(module)

    def answers(self) -> bool:
        try:
            return self._health() in {"green", "yellow"}
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return False

    def _health(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3)
        try:
            connection.request("GET", "/_cluster/health")
            return str(json.load(connection.getresponse())["status"])
        finally:
            connection.close()
