"""Many narrow rows and runs that are ended after a minute: do history, sweep and the poll of a bulk update end?

`make bench-scale ROWS=20000000`. A live run of Dagster lasts ten minutes; with runs of one minute everything that is
longer than a run is met with a tenth of the rows. Each phase starts the command again until its work is done, and
reports how many runs that took, how often the monolith's rows were read, and the memory of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from demo.databases import connected
from tests.benchmarks.ground import Ground, brought_up

_SETUP = """
    CREATE TABLE narrow (id bigint PRIMARY KEY, body text, updated_at timestamptz NOT NULL DEFAULT now());
    INSERT INTO narrow SELECT n, 'body ' || n, now() - interval '1 hour' FROM generate_series(1, {rows}) n;
    CREATE INDEX ON narrow (updated_at); GRANT SELECT ON narrow TO sync_reader;
"""
_READ = (
    "SELECT coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relname = 'narrow'"
)
_LOOK_SECONDS = 0.5
# a look counts rows of the new table: it rests this many times as long as it took
_LOOK_SHARE = 10
_COMMAND = Path(sys.executable).with_name("sync-pipeline")
_REPOSITORY = Path(__file__).resolve().parents[2]
# the demo's own contents are not what is measured
_CONTENTS = 100


@dataclass
class Phase:
    """What it took until a phase's work was done."""

    name: str
    done: bool = False
    seconds: float = 0.0
    runs: int = 0
    reads_per_row: float = 0.0
    peak_mb: float = 0.0
    mb_at_the_end_of_runs: list[int] = field(default_factory=list)
    notes: dict[str, float] = field(default_factory=dict)


class Bench:
    """The servers, the new side's environment, and the limits of a run and of a phase."""

    def __init__(self, ground: Ground, environment: dict[str, str], options: argparse.Namespace) -> None:
        self.ground = ground
        self.environment = environment
        self.options = options

    def legacy(self, statement: str) -> list[tuple[object, ...]]:
        return _ask(self.ground.admin_url, statement)

    def target(self, statement: str) -> list[tuple[object, ...]]:
        return _ask(self.environment["SYNC_TARGET_DB"], statement)

    def phase(self, name: str, command: list[str], is_done: Callable[[], bool]) -> Phase:
        """Run the command again and again, each time for a minute at most, until `is_done`."""
        phase, began, read = Phase(name), time.monotonic(), self._rows_read()
        while not phase.done and time.monotonic() - began < self.options.limit:
            phase.runs += 1
            self._run(phase, command, is_done)
        phase.seconds = round(time.monotonic() - began, 1)
        phase.reads_per_row = round((self._rows_read() - read) / self.options.rows, 2)
        return phase

    def _run(self, phase: Phase, command: list[str], is_done: Callable[[], bool]) -> None:
        environment = {**os.environ, **self.environment, "SYNC_ENTITIES": "tests.benchmarks.narrow"}
        environment["PYTHONPATH"] = str(_REPOSITORY)
        process = subprocess.Popen([str(_COMMAND), *command], env=environment)
        seen, limit = psutil.Process(process.pid), time.monotonic() + self.options.run_seconds
        megabytes = 0
        while process.poll() is None and time.monotonic() < limit:
            looked = time.monotonic()
            if is_done():
                phase.done = True
                break
            pause = max(_LOOK_SECONDS, _LOOK_SHARE * (time.monotonic() - looked))
            megabytes = self._watch(phase, seen, min(limit, time.monotonic() + pause)) or megabytes
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            phase.notes["killed"] = phase.notes.get("killed", 0) + 1
        phase.done = phase.done or is_done()
        phase.mb_at_the_end_of_runs.append(megabytes)

    def _watch(self, phase: Phase, seen: psutil.Process, until: float) -> int:
        """Note how much memory a process has until then, or until it ends; returns what it had last, in MB."""
        megabytes = 0
        while (now := _resident_mb(seen)) and time.monotonic() < until:
            megabytes = now
            phase.peak_mb = max(phase.peak_mb, megabytes)
            threading.Event().wait(_LOOK_SECONDS)
        return megabytes

    def _rows_read(self) -> float:
        self.legacy("SELECT pg_stat_clear_snapshot()")
        return float(str(self.legacy(_READ)[0][0]))


def main() -> int:
    """0 when every phase ended."""
    options = _options()
    with brought_up(_REPOSITORY, _CONTENTS) as servers, servers.target("scale") as environment:
        bench = Bench(servers, {**environment, "SYNC_SWEEP_SECONDS": "1e9"}, options)
        bench.legacy(_SETUP.format(rows=options.rows))
        bench.legacy("VACUUM ANALYZE narrow")
        done = True
        for play in (_history, _sweep, _bulk):
            phase = play(bench)
            print(json.dumps(vars(phase)), flush=True)
            done = done and phase.done
        return 0 if done else 1


def _history(bench: Bench) -> Phase:
    def is_done() -> bool:
        try:
            return bool(bench.target("SELECT 1 FROM sync.cursor WHERE filled_at IS NOT NULL"))
        except Exception:  # no ledger yet
            return False

    return bench.phase("history", ["backfill", "narrow"], is_done)


def _sweep(bench: Bench) -> Phase:
    """Hard deletes and changes without a stamp, all over the table: the sweep alone finds them."""
    step = max(1, bench.options.rows // 1_000)
    bench.legacy(f"DELETE FROM narrow WHERE id % {step} = 0")
    bench.legacy(f"UPDATE narrow SET body = 'unstamped' WHERE id % {step} = 1")
    (deleted,) = bench.legacy(f"SELECT {bench.options.rows} - count(*) FROM narrow")[0]
    (changed,) = bench.legacy("SELECT count(*) FROM narrow WHERE body = 'unstamped'")[0]
    bench.environment["SYNC_SWEEP_SECONDS"] = "1"

    def is_done() -> bool:
        query = (
            "SELECT (SELECT count(*) FROM catalog.narrow WHERE body = 'unstamped'), (SELECT count(*) FROM"
            f" catalog.narrow WHERE id % {step} = 0 AND id IN (SELECT {step} * n FROM generate_series(1, 3) n))"
        )
        return bench.target(query)[0] == (changed, 0)

    phase = bench.phase("sweep", ["sync", "narrow", "--follow"], is_done)
    bench.environment["SYNC_SWEEP_SECONDS"] = "1e9"
    phase.notes |= {"deleted": float(str(deleted)), "changed": float(str(changed))}
    return phase


def _bulk(bench: Bench) -> Phase:
    """A quarter of all rows in one stamped update, and a fresh edit behind it."""
    share = bench.options.rows // 4
    bench.legacy(f"UPDATE narrow SET body = 'bulk', updated_at = now() WHERE id <= {share}")
    bench.legacy(
        f"UPDATE narrow SET body = 'fresh', updated_at = clock_timestamp() WHERE id = {bench.options.rows - 1}"
    )
    (wanted,) = bench.legacy("SELECT count(*) FROM narrow WHERE body = 'bulk'")[0]
    began, fresh = time.monotonic(), []

    def is_done() -> bool:
        if not fresh and bench.target("SELECT 1 FROM catalog.narrow WHERE body = 'fresh'"):
            fresh.append(time.monotonic() - began)
        return bool(fresh) and bench.target("SELECT count(*) FROM catalog.narrow WHERE body = 'bulk'")[0][0] == wanted

    phase = bench.phase("bulk update", ["sync", "narrow", "--follow"], is_done)
    phase.notes |= {"rows": float(str(wanted)), "fresh edit after": round(fresh[0], 1) if fresh else -1.0}
    return phase


def _resident_mb(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss) >> 20
    except psutil.Error:
        return 0


def _ask(url: str, statement: str) -> list[tuple[object, ...]]:
    with connected(url) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-scale", description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--run-seconds", type=float, default=60, help="after which a run is ended")
    parser.add_argument("--limit", type=float, default=3_600, help="seconds after which a phase is given up")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
