"""The commands; what they exit with is in docs/cli.md."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer

from sync_pipeline import dead_letters, logs
from sync_pipeline.backfill import Filled, backfill_all
from sync_pipeline.batch.order import Order, Outcome
from sync_pipeline.cli import sources, tables
from sync_pipeline.cli.dead_letters import app as dead_letters_app
from sync_pipeline.cli.draining import drain
from sync_pipeline.cli.due import app as due_app
from sync_pipeline.cli.following import Totals, caught_up, follow
from sync_pipeline.cli.inquiry import history, why
from sync_pipeline.cli.ledger import app as ledger_app
from sync_pipeline.cli.opening import All, AnyName, Format, Name, Output, opened, parsed, partitions, show
from sync_pipeline.cli.progress import Bars, bars
from sync_pipeline.cli.rebuild import app as rebuild_app
from sync_pipeline.cli.servers import app as servers_app
from sync_pipeline.cli.sweep import app as sweep_app
from sync_pipeline.cli.visibility import visibility
from sync_pipeline.errors import SettingError, UnreachableError
from sync_pipeline.lane import Lane
from sync_pipeline.ledger.backfills import unfilled
from sync_pipeline.partitions import Monthly
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.preflight.notice import worst
from sync_pipeline.preflight.preflight import preflight
from sync_pipeline.reconcile.reconcile import reconcile as compare
from sync_pipeline.reconcile.verdict import Verdict, overall
from sync_pipeline.repair import Step, as_report, carry_out, plan, plan_keys
from sync_pipeline.status import status_of
from sync_pipeline.visibility import check_visibility

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(due_app, name="due")
app.add_typer(rebuild_app, name="rebuild")
app.add_typer(dead_letters_app, name="dead-letters")
app.add_typer(ledger_app, name="ledger")
app.add_typer(sweep_app, name="sweep")
app.add_typer(servers_app, name="servers")
app.command()(drain)
app.command()(visibility)
app.command()(why)
app.command()(history)
app.add_typer(sources.outbox, name="outbox")
app.add_typer(sources.wal, name="wal")

_EXIT = {"clean": 0, "drift": 1, "unknown": 2, "ok": 0, "warning": 0, "error": 2}
_INTERRUPTED = 130


@app.callback()
def sync_pipeline(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from (or SYNC_DEBUG=1).")] = False,
) -> None:
    """Keep a new read side in step with a legacy monolith, and prove it."""
    if debug:
        os.environ["SYNC_DEBUG"] = "1"
    logs.configure(os.environ)


@app.command()
def sync(
    name: Name = None,
    everything: All = False,
    key: Annotated[list[str] | None, typer.Option(help="Only this key; may be given several times.")] = None,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="Stop when all committed by now is over.")
    ] = False,
    forever: Annotated[bool, typer.Option("--follow", help="Go on until interrupted.")] = False,
    output: Format = Output.TEXT,
) -> None:
    """Apply what changed in the monolith: by default until caught up."""
    if (bool(key) + until_caught_up + forever) > 1:
        raise SettingError("--key, --until-caught-up and --follow exclude each other")
    whole = True
    with opened(name, everything) as (stores, entities):
        totals = Totals(entities)
        if key:
            if len(entities) != 1:
                raise SettingError("--key goes with one entity")
            lane = Lane.open(entities[0], stores)
            totals.add(lane.entity.name, sync_keys(lane, parsed(lane, key), Order()))
        elif forever:
            follow(stores, entities, totals)
        else:
            whole = caught_up(stores, entities, totals)
        refused: dict[str, int] = {}
        missing: dict[str, list[str]] = {}
        with suppress(UnreachableError), stores.target() as cursor:
            refused = dead_letters.counts(cursor, totals)
            missing = {entity.name: unfilled(cursor, entity.name, entity.partitions) for entity in entities}
    report = {name: {**asdict(total), "history_missing": missing.get(name, [])} for name, total in totals.items()}
    show(report, output, partial(_synced, totals, refused, missing))
    raise typer.Exit(0 if whole else _INTERRUPTED)


def _synced(totals: Totals, refused: dict[str, int], missing: dict[str, list[str]]) -> None:
    tables.outcomes(totals, refused)
    for entity, partitions_missing in missing.items():
        tables.history(entity, partitions_missing)


@app.command()
def backfill(
    name: Name = None,
    everything: All = False,
    partition: Annotated[list[str] | None, typer.Option(help="Only this partition; may be given again.")] = None,
    output: Format = Output.TEXT,
) -> None:
    """Fill history, by partition. Cut off, it goes on where it was."""
    report: dict[str, list[Filled]] = {}
    with opened(name, everything) as (stores, entities), bars() as shown:
        wanted = {entity.name: partitions(entity, partition) for entity in entities}
        for entity in entities:
            report[entity.name] = _fill(Lane.open(entity, stores), wanted[entity.name], partition is None, shown)
    as_json = {entity: [asdict(part) for part in parts] for entity, parts in report.items()}
    show(as_json, output, partial(tables.filled, report))


def _fill(lane: Lane, parts: list[str], whole: bool, shown: Bars) -> list[Filled]:
    advance = shown.bar(f"{lane.entity.name}: rows", lambda: _rows(lane, parts, whole))
    return list(backfill_all(lane, parts, lambda outcome: advance(outcome.read + outcome.parked)))


def _rows(lane: Lane, parts: list[str], whole: bool) -> int | None:
    """How many rows the parts hold, where that can be asked."""
    kind = lane.entity.partitions
    if whole:
        return lane.origin.count("true")
    if not isinstance(kind, Monthly):
        return None
    return sum(lane.origin.count(lane.origin.within_month(kind, part)) for part in parts)


@app.command()
def status(name: AnyName = None, everything: All = False, output: Format = Output.TEXT) -> None:
    """Where each entity stands."""
    with opened(name, everything or not name) as (stores, entities):
        report = {entity.name: status_of(stores, entity) for entity in entities}
    show(report, output, partial(tables.statuses, report))


@app.command()
def reconcile(name: Name = None, everything: All = False, output: Format = Output.TEXT) -> None:
    """Compare every row, document and file of both sides. Exit 0 clean, 1 drift, 2 unknown."""
    with opened(name, everything) as (stores, entities), bars() as shown:
        verdicts = [_compare(Lane.open(entity, stores), shown) for entity in entities]
    word = overall(verdicts)
    report = {"verdict": word, "entities": {verdict.entity: verdict.as_dict() for verdict in verdicts}}
    show(report, output, partial(tables.verdicts, verdicts, word))
    raise typer.Exit(_EXIT[word])


def _compare(lane: Lane, shown: Bars) -> Verdict:
    return compare(lane, shown.bar(f"{lane.entity.name}: rows", lambda: lane.origin.count("true")))


@app.command()
def repair(
    name: Annotated[str, typer.Argument(help="The entity.")],
    key: Annotated[list[str] | None, typer.Option(help="Only this key, whether it drifts or not.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be done, and do nothing.")] = False,
    output: Format = Output.TEXT,
) -> None:
    """Write again what reconciliation finds drifting. Exit 2 when something could not be looked at."""
    with opened(name, everything=False) as (stores, entities), bars() as shown:
        totals = Totals(entities)
        lane = Lane.open(entities[0], stores)
        steps, word = _planned(lane, key, shown)
        if not dry_run:
            check_visibility(lane.entity, stores)
            for outcome in carry_out(lane, steps):
                totals.add(name, outcome)
    report = {name: as_report(steps) if dry_run else asdict(totals[name])}
    show(report, output, partial(_mended, totals, steps, word, dry_run=dry_run))
    raise typer.Exit(_EXIT[word])


def _planned(lane: Lane, keys: list[str] | None, shown: Bars) -> tuple[list[Step], str]:
    """What is to be done, and `unknown` where something could not be looked at."""
    if keys:
        return plan_keys(lane, parsed(lane, keys)), "clean"
    verdict = _compare(lane, shown)
    return plan(lane, verdict.findings), "unknown" if verdict.word == "unknown" else "clean"


def _mended(totals: dict[str, Outcome], steps: list[Step], word: str, *, dry_run: bool) -> None:
    if dry_run:
        tables.steps(steps)
    else:
        tables.outcomes(totals)
        tables.left_alone(steps)
    if word == "unknown":
        tables.say("Something could not be looked at: sync-pipeline reconcile says what.", "yellow")


@app.command()
def check(name: AnyName = None, everything: All = False, output: Format = Output.TEXT) -> None:
    """Preflight: reachability, grants, indices, types, aliases, buckets. Leaves nothing behind. Exit 2 on an error."""
    with opened(name, everything or not name) as (stores, entities):
        found = preflight(stores, entities)
    word = worst(found)
    report = {"verdict": word, "findings": [asdict(notice) for notice in found]}
    show(report, output, partial(tables.notices, found))
    raise typer.Exit(_EXIT[word])
