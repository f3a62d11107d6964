"""`make bench-month`: a month of live delta in Dagster's storage, forgotten as it goes; its size, and its pages."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import dagster as dg
import psycopg2
import typer
from dagster._core.definitions.run_request import InstigatorType
from psycopg2.extensions import connection as Connection  # noqa: N812
from rich.console import Console
from rich.table import Table

from assets.automation import FREQUENT
from assets.live import _TELL_SECONDS
from assets.retention import forget_old, keep_connections, limits_from
from assets.sensors import WINDOW_MINUTES
from checks.data_docs import DataDocs
from checks.pages import drop_old
from demo.environment import variables
from demo.fleet import Fleet, down, up
from demo.home import JARS_SETTING, Home
from demo.run.api import DagsterApi
from tests.benchmarks.pages import opened
from tests.benchmarks.recording import record, stop_dagster
from tests.benchmarks.replay import Recording, copy_data_docs

REPOSITORY = Path(__file__).resolve().parents[2]
MOST_MB, MOST_SECONDS = 100.0, 3.0
_DAY, _HOUR, _SLOT = 86_400.0, 3_600.0, WINDOW_MINUTES * 60
_SLOWEST_START_SECONDS = 300.0
_TICKS = {"keep_live": 5.0, "watch_standing": 60.0}
_NIGHTLY = {"reconcile": 3, "expectations": 5}
_RETENTION_HOURS = 6
# a fifth of the ticks is dead by then, as it takes for autovacuum; of other tables, after each retention
_VACUUM_HOURS = 2.5
_TABLES = ("event_logs", "job_ticks", "asset_check_executions", "runs", "run_tags", "bulk_actions", "snapshots")

say = Console(stderr=True, highlight=False)
out = Console(highlight=False, width=150)


@dataclass
class Month:
    """Dagster's storage and home, and what a real stretch of work left in them; times are in s since the epoch."""

    fleet: Fleet
    connection: Connection
    instance: dg.DagsterInstance
    recording: Recording
    retentions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.fleet.webserver.folder

    def day(self, number: int, began: float) -> None:
        """24 hours as they would be written, with what the daemon and autovacuum do meanwhile."""
        for slot in range(int(_DAY / _SLOT)):
            at = began + slot * _SLOT
            self.live(at)
            if slot * _SLOT % (_HOUR / 2) == 0:
                self.half_hourly(at)
            for job in [job for job, hour in _NIGHTLY.items() if slot * _SLOT == hour * _HOUR]:
                self.nightly(job, number, at)
            if slot * _SLOT % (_RETENTION_HOURS * _HOUR) == 0:
                self.forget(at)
            if slot * _SLOT % (_VACUUM_HOURS * _HOUR) == 0:
                vacuum(self.connection)

    def live(self, at: float) -> None:
        """One run that follows, and the sensors' ticks meanwhile."""
        for name, seconds in _TICKS.items():
            self.recording.tick(name, "SKIPPED", (at + n * seconds for n in range(int(_SLOT / seconds))))
        self.recording.run("sync", at)
        self.recording.tick("keep_live", "SUCCESS", [at])

    def half_hourly(self, at: float) -> None:
        """A sweep, and what a sensor tells of checks."""
        self.recording.run("sweep", at)
        self.recording.tick("frequent_sweep", "SUCCESS", [at], like="keep_live")
        self.recording.tell_checks(at)
        self.purge_ticks(at)

    def nightly(self, job: str, number: int, at: float) -> None:
        """A job of the night and what it does."""
        run = self.recording.run(job, at)
        self.recording.tick(f"nightly_{job}", "SUCCESS", [at], like="keep_live")
        if job == "expectations":
            copy_data_docs(self.home / "data_docs", run, number + 1)
            drop_old(self.home / "data_docs", DataDocs.from_env().keep)

    def forget(self, now: float) -> None:
        """One run of retention."""
        self.recording.run("retention", now)
        before, began = self.megabytes(), time.monotonic()
        forgotten = forget_old(self.instance, FREQUENT, limits_from(), now=now)
        seconds = time.monotonic() - began
        vacuum(self.connection)
        self.retentions.append({"before": before, "after": self.megabytes(), "seconds": seconds, **asdict(forgotten)})

    def purge_ticks(self, now: float) -> None:
        """As the daemon does after each tick."""
        for name, (origin, selector) in self.recording.instigators.items():
            kind = InstigatorType.SENSOR if name in _TICKS else InstigatorType.SCHEDULE
            for status, days in self.instance.get_tick_retention_settings(kind).items():
                self.instance.purge_ticks(origin, selector, now - days * _DAY, [status])

    def megabytes(self) -> dict[str, float]:
        """Of the database as the server counts it, and of files as they are long."""
        size = _one(self.connection, "SELECT pg_database_size(current_database())")
        folders = {name: _length(self.home / name) for name in ("storage", "data_docs")}
        return {"database": size / 1e6, **{name: length / 1e6 for name, length in folders.items()}}


def main(
    days: Annotated[int, typer.Option(min=2, help="How many.")] = 30,
    to: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Exit 1 when storage is above 100 MB, or the runs' or an asset's page takes 3 s (the median of its turns)."""
    with month() as made:
        pages = {"before": pages_of(made.fleet)}
        began = time.monotonic()
        first = time.time() - days * _DAY
        for number in range(days):
            made.day(number, first + number * _DAY)
            say.print(f"day {number + 1}: {_told(made.retentions[-1])}")
        report = {"days": days, "written_seconds": time.monotonic() - began, "retentions": made.retentions}
        report |= {"tables": tables(made.connection), "last": made.megabytes()}
        report["pages"] = pages | {"after": pages_of(made.fleet)}
    show(report)
    if to:
        to.write_text(json.dumps(report, indent=2) + "\n")
    small = sum(report["retentions"][-1]["after"].values()) < MOST_MB and sum(report["last"].values()) < MOST_MB
    quick = all(median(report["pages"]["after"]["seconds"][name]) < MOST_SECONDS for name in ("runs", "asset"))
    raise typer.Exit(0 if small and quick else 1)


@contextmanager
def month() -> Iterator[Month]:
    """Servers with a recorded stretch of work; nothing of them is left at the end."""
    home = Home(REPOSITORY / ".bench")
    if JARS_SETTING not in os.environ:
        home.jars = REPOSITORY / ".demo" / "jars"
    down(home)  # what a killed run left
    try:
        fleet = up(home)
        record(fleet)
        say.print("a stretch of real work is recorded")
        os.environ |= variables(fleet.addresses()) | {"SYNC_DATA_DOCS": str(fleet.webserver.folder / "data_docs")}
        folder = fleet.webserver.folder
        with (
            closing(psycopg2.connect(fleet.target.url("dagster"))) as connection,
            dg.DagsterInstance.from_config(str(folder)) as instance,
        ):
            connection.autocommit = True
            keep_connections(instance)
            recording = Recording(connection, folder, _TELL_SECONDS, _SLOT)
            yield Month(fleet, connection, instance, recording)
    finally:
        down(home)
        shutil.rmtree(home.root, ignore_errors=True)


def pages_of(fleet: Fleet) -> dict[str, Any]:
    """How long pages take to open on what is stored now."""
    fleet.start_dagster(variables(fleet.addresses()))
    DagsterApi(fleet.webserver.url).wait_ready(_SLOWEST_START_SECONDS)
    fleet.daemon.stop()
    try:
        return opened(fleet.webserver.url)
    finally:
        stop_dagster(fleet)


def vacuum(connection: Connection) -> None:
    """What autovacuum does: it would come too seldom, for the month is written thousands of times as fast."""
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")


def tables(connection: Connection) -> dict[str, tuple[int, float]]:
    """Rows and megabytes of each."""
    return {
        name: (
            _one(connection, f"SELECT count(*) FROM {name}"),
            _one(connection, f"SELECT pg_total_relation_size('{name}')") / 1e6,
        )
        for name in _TABLES
    }


def show(report: dict[str, Any]) -> None:
    """Tables for people."""
    retentions = Table("day", "before", "after", "database", "logs", "Data Docs", "runs", "retention")
    a_day = int(24 / _RETENTION_HOURS)
    for number, last in enumerate(report["retentions"][a_day - 1 :: a_day], start=1):
        after = last["after"]
        cells = [f"{sum(last['before'].values()):.0f} MB", f"{sum(after.values()):.0f} MB"]
        cells += [f"{after[name]:.1f}" for name in ("database", "storage", "data_docs")]
        retentions.add_row(str(number), *cells, f"{last['runs']}", f"{last['seconds']:.1f} s")
    out.print(retentions)
    rows = Table("table", "rows", "MB")
    for name, (count, size) in report["tables"].items():
        rows.add_row(name, f"{count:,}", f"{size:.1f}")
    out.print(rows)
    before, after = report["pages"]["before"]["seconds"], report["pages"]["after"]["seconds"]
    pages = Table(f"page, by {report['pages']['after']['by']}", "s before the month, first and again", "after it")
    for name in after:
        pages.add_row(name, *(", ".join(f"{second:.2f}" for second in side[name]) for side in (before, after)))
    out.print(pages)
    last = sum(report["last"].values())
    out.print(f"Storage at the end of the last day {last:.0f} MB (under {MOST_MB:.0f}), written in"
              f" {report['written_seconds']:.0f} s")  # fmt: skip


def _told(last: dict[str, Any]) -> str:
    return f"{sum(last['after'].values()):.0f} MB, {last['runs']} runs forgotten in {last['seconds']:.1f} s"


def _one(connection: Connection, query: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return int(cursor.fetchone()[0])


def _length(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    typer.run(main)
