"""The ground a benchmark stands on: the demo's servers in a folder of their own, and a monolith full of content."""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo.buckets import remove_marks
from demo.databases import connected, create_target, drop_database
from demo.environment import variables
from demo.fleet import LEGACY_BUCKET, TARGET_BUCKET, Fleet, down, up
from demo.home import JARS_SETTING, Home
from demo.load import load

_FOLDER = Path(__file__).parent
_SAMPLE_ROWS = 50_000
_ROWS_A_FILE = 1_000
# Elasticsearch takes half the machine's memory where nobody says otherwise; the demo gives it less
_HEAP = "2g"


@dataclass(frozen=True)
class Ground:
    """The servers, and the environment that leads an engine to them."""

    fleet: Fleet

    @property
    def admin_url(self) -> str:
        return self.fleet.addresses().monolith.admin_url

    def fill(self, rows: int) -> None:
        """Make `rows` contents: some by the demo's own load, with files; the rest are copies of these."""
        client = self.fleet.objects.client()
        load(self.admin_url, client, LEGACY_BUCKET, contents=min(rows, _SAMPLE_ROWS), files=rows // _ROWS_A_FILE)
        client.close()
        with connected(self.admin_url, autocommit=False) as connection, connection.cursor() as cursor:
            cursor.execute((_FOLDER / "multiply.sql").read_text(), {"rows": rows})
            connection.commit()
        with connected(self.admin_url) as connection, connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")

    @contextmanager
    def target(self, name: str) -> Iterator[dict[str, str]]:
        """An empty new side; the environment that leads to it."""
        url = create_target(self.fleet.target, name)
        self._settle(name)
        try:
            yield {**variables(self.fleet.addresses()), "SYNC_TARGET_DB": url}
        finally:
            drop_database(self.fleet.target, name)
            self._remove_indices()
            remove_marks(self.fleet.objects.client(), TARGET_BUCKET)

    def cpu_seconds(self) -> dict[str, float]:
        """What each server has used so far."""
        return {server.name: _cpu_seconds(server.leader()) for server in self.fleet.servers}

    def _settle(self, database: str) -> None:
        """No run pays for the one before it."""
        for url in (self.admin_url, self.fleet.target.url(database)):
            with connected(url) as connection, connection.cursor() as cursor:
                cursor.execute("CHECKPOINT")

    def _remove_indices(self) -> None:
        base = self.fleet.search.url
        with urllib.request.urlopen(f"{base}/_cat/indices?format=json") as answer:
            for index in json.load(answer):
                urllib.request.urlopen(urllib.request.Request(f"{base}/{index['index']}", method="DELETE")).close()


@contextmanager
def brought_up(repository: Path, rows: int) -> Iterator[Ground]:
    """Servers with a monolith of `rows` contents; nothing of them is left at the end."""
    home = Home(repository / ".bench")
    home.search_heap, home.java_flags = _HEAP, ()
    if JARS_SETTING not in os.environ:
        home.jars = repository / ".demo" / "jars"
    down(home)  # what a killed run left
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # the servers are stopped then, too
    try:
        ground = Ground(up(home))
        ground.fill(rows)
        yield ground
    finally:
        down(home)
        home.remove()


def _cpu_seconds(leader) -> float:
    """Of a server and all its children, those that have ended included."""
    times = [part.cpu_times() for part in (leader, *leader.children(recursive=True))]
    return sum(t.user + t.system for t in times) + times[0].children_user + times[0].children_system
