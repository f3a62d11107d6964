"""`make bench`: how fast history is filled with everything on, against binary COPY piped to COPY."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from demo.databases import connected
from sync_pipeline.entities.files import load_entities
from sync_pipeline.entity import Entity
from tests.benchmarks.bulk import documents_a_second
from tests.benchmarks.ground import Ground, brought_up
from tests.benchmarks.piped import copy_all
from tests.sinks import index_of

REPOSITORY = Path(__file__).resolve().parents[2]
LEAST_RATIO, MOST_MB = 0.25, 500
# the engine names files anew, so these differ from the yardstick's
_FILES = {"cover", "files"}
_CPU = ("engine", "legacy", "target", "search", "objects")

say = Console(stderr=True, highlight=False)
out = Console(highlight=False, width=150)


def main(
    rows: Annotated[int, typer.Option(min=1000, help="Contents in the monolith.")] = 1_000_000,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of the engine, each between two of the yardstick.")] = 1,
    parts: Annotated[bool, typer.Option(help="Also run the engine without documents.")] = True,
    to: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Exit 1 when the engine is below 25 % of the yardstick or above 500 MB."""
    entities = list(load_entities("assets.entities").values())
    with brought_up(REPOSITORY, rows) as ground:
        report = measure(ground, entities, rounds, parts)
    show(report)
    if to:
        to.write_text(json.dumps(report, indent=2) + "\n")
    raise typer.Exit(0 if report["ratio"] >= LEAST_RATIO and report["peak_mb"] <= MOST_MB else 1)


def measure(ground: Ground, entities: list[Entity], rounds: int, parts: bool) -> dict[str, Any]:
    """Take turns, so that whatever else the machine does hits both. One turn of each goes first, uncounted.

    Servers that were just started are cold: caches for both, and Java's compiler most of all.
    """
    with ground.target("bulk") as environment:
        alone = documents_a_second(entities, environment)
    cold = [yardstick_run(ground, entities), engine_run(ground, entities)]
    yardstick, engine = [yardstick_run(ground, entities)], []
    for _ in range(rounds):
        engine.append(engine_run(ground, entities))
        yardstick.append(yardstick_run(ground, entities))
    for run in (*cold, *yardstick, *engine):
        if (run["rows"], run["hash"]) != (yardstick[0]["rows"], yardstick[0]["hash"]):
            raise SystemExit("The engine and the yardstick did not make the same rows: nothing is compared.")
    ratios = [
        run["rows_a_second"] / mean(side["rows_a_second"] for side in yardstick[n : n + 2])
        for n, run in enumerate(engine)
    ]
    report = {"yardstick": yardstick, "engine": engine, "ratios": ratios, "ratio": mean(ratios)}
    report |= {"peak_mb": max(run["peak_mb"] for run in (cold[1], *engine)), "search_alone": alone, "cold": cold}
    if parts:
        report["without_documents"] = engine_run(ground, entities, "without-documents")
    return report


def yardstick_run(ground: Ground, entities: list[Entity]) -> dict[str, Any]:
    """One run of COPY to COPY into an empty database."""
    with ground.target("yardstick") as environment:
        before, began = ground.cpu_seconds(), time.monotonic()
        rows = copy_all(entities, environment["SYNC_LEGACY_DB"], environment["SYNC_TARGET_DB"])
        seconds = time.monotonic() - began
        run = {"rows": rows, "seconds": seconds, "rows_a_second": rows / seconds, "cpu": used(ground, before)}
        run["hash"] = content_hash(entities, environment["SYNC_TARGET_DB"])
    say.print(f"COPY to COPY: {rows:,} rows in {seconds:.1f} s")
    return run


def engine_run(ground: Ground, entities: list[Entity], *arguments: str) -> dict[str, Any]:
    """One run of the engine into an empty new side. Its start and imports are in its CPU, not in its seconds."""
    with ground.target("engine") as environment:
        before = ground.cpu_seconds()
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.engine", *arguments],
            env={**os.environ, **environment},
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            check=True,
        )
        run = json.loads(done.stdout)
        run["cpu"] = {**used(ground, before), "engine": run.pop("cpu_seconds")}
        run["rows_a_second"] = run["rows"] / run["seconds"]
        run["hash"] = content_hash(entities, environment["SYNC_TARGET_DB"])
        run["documents"] = documents(ground, entities)
    say.print(f"{' '.join(('engine', *arguments))}: {run['rows']:,} rows in {run['seconds']:.1f} s")
    return run


def used(ground: Ground, before: dict[str, float]) -> dict[str, float]:
    """CPU seconds of each server since."""
    return {name: seconds - before[name] for name, seconds in ground.cpu_seconds().items()}


def content_hash(entities: list[Entity], url: str) -> str:
    """One number for all rows in any order: both sides must have made the same ones."""
    total = 0
    with connected(url) as connection, connection.cursor() as cursor:
        for entity in entities:
            columns = ", ".join(name for name in entity.table.columns if name not in _FILES)
            cursor.execute(f"SELECT sum(hash_record_extended(ROW({columns}), 0)::numeric) FROM {entity.table.name}")
            total += int(cursor.fetchone()[0])
    return str(total)


def documents(ground: Ground, entities: list[Entity]) -> int:
    """How many documents there are."""
    count = 0
    for entity in entities:
        base = f"{ground.fleet.search.url}/{index_of(entity).alias}"
        for path in ("_refresh", "_count"):
            with urllib.request.urlopen(f"{base}/{path}?ignore_unavailable=true") as answer:
                found = json.load(answer)
        count += found["count"]
    return count


def show(report: dict[str, Any]) -> None:
    """One table for people."""
    table = Table("", "rows", "s", "rows/s", "of COPY", "documents", "peak MB", *(f"CPU s {name}" for name in _CPU))
    base = mean(run["rows_a_second"] for run in report["yardstick"])
    runs = list(zip(("cold: COPY to COPY", "cold: engine"), report["cold"], strict=True))
    runs += [("COPY to COPY", run) for run in report["yardstick"]]
    runs += [("engine", run) for run in report["engine"]]
    if "without_documents" in report:
        runs.append(("engine, no documents", report["without_documents"]))
    for name, run in runs:
        cpu = [f"{run['cpu'].get(part, 0):.1f}" for part in _CPU]
        peak = f"{run['peak_mb']:.0f}" if "peak_mb" in run else ""
        ratio = f"{run['rows_a_second'] / base:.1%}"
        made = f"{run['documents']:,}" if run.get("documents") else ""
        cells = (f"{run['rows']:,}", f"{run['seconds']:.1f}", f"{run['rows_a_second']:,.0f}", ratio, made, peak)
        table.add_row(name, *cells, *cpu)
    out.print(table)
    last = report["engine"][-1]
    phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in last["phases"].items())
    out.print(f"Where {last['workers']} workers spent their time, in s: {phases}")
    out.print(f"Elasticsearch alone, bodies ready: {report['search_alone']:,.0f} documents/s")
    verdict = "reached" if report["ratio"] >= LEAST_RATIO else "MISSED"
    out.print(f"Ratio {report['ratio']:.1%} (at least {LEAST_RATIO:.0%}: {verdict}), peak {report['peak_mb']:.0f} MB")


if __name__ == "__main__":
    typer.run(main)
