"""The move as a workplace: servers, editors and Dagster go on until a person ends them; what they wrote is kept."""

from __future__ import annotations

from collections.abc import Callable

from checks.data_docs import DataDocs
from checks.serving import serving
from demo.databases import connected
from demo.edit import Editors
from demo.environment import variables
from demo.fleet import LEGACY_BUCKET, Fleet
from demo.home import DATA_DOCS
from demo.load import load
from demo.run.api import DagsterApi
from demo.signals import on_signal

_A_YEAR_SECONDS = 3.2e7

Say = Callable[[str], None]


def work(fleet: Fleet, contents: int, media: int, rate: float, say: Say) -> None:
    """Fill an empty monolith, start Dagster, and let editors work until a signal."""
    admin_url, client = fleet.addresses().monolith.admin_url, fleet.objects.client()
    if _is_empty(admin_url):
        done = load(admin_url, client, LEGACY_BUCKET, contents=contents, files=media)
        say(f"loaded {done.contents:,} contents and {done.files:,} files into the monolith")
    docs = DataDocs.from_env({"SYNC_DATA_DOCS": str(fleet.webserver.folder / "data_docs")})
    with serving(docs, port=fleet.home.ports()[DATA_DOCS]) as data_docs:
        published = {"SYNC_DATA_DOCS": docs.home, "SYNC_DATA_DOCS_URL": data_docs}
        fleet.start_dagster(variables(fleet.addresses()) | published)
        api = DagsterApi(fleet.webserver.url)
        api.wait_ready()
        for sensor in ("keep_live", "watch_standing"):
            api.start_sensor(sensor)
        editors = Editors(admin_url, client, LEGACY_BUCKET, rate, _A_YEAR_SECONDS)
        for line in (*_addresses(fleet), f"Data Docs      {data_docs} (published by the job expectations)"):
            say(line)
        say(f"editors commit {rate:g} transactions a second; Ctrl-C ends everything and keeps what was written")
        with on_signal(editors.halt), fleet.dagster_kept():
            tally = editors.run()
        say(f"the editors stopped: {tally.line()}")
        api.end_runs()


def _is_empty(admin_url: str) -> bool:
    with connected(admin_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT NOT EXISTS (SELECT FROM content)")
        return bool(cursor.fetchall()[0][0])


def _addresses(fleet: Fleet) -> list[str]:
    return [
        f"Dagster        {fleet.webserver.url}",
        f"monolith       postgresql://{fleet.legacy.address}",
        f"new side       postgresql://{fleet.target.address}",
        f"Elasticsearch  {fleet.search.url}",
        f"S3             {fleet.objects.url}",
        'everything else by: eval "$(.venv/bin/sync-pipeline demo env)"',
    ]
