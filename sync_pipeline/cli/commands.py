"""The commands; what they exit with is in docs/cli.md."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from sync_pipeline.cli.common import All, AnyName, Format, Name, Output, opened, parsed, partitions, show
from sync_pipeline.cli.lazy import LazyGroup, Member
from sync_pipeline.errors import SettingError, UnreachableError
from sync_pipeline.model.findings import VerdictStatus
from sync_pipeline.operate import logs

# What only one command needs is imported by that command, so that help and short reports do not wait for it.
if TYPE_CHECKING:
    from sync_pipeline.batch.order import Outcome
    from sync_pipeline.cli.following import Totals
    from sync_pipeline.cli.progress import Bars
    from sync_pipeline.entities.context import EntityContext
    from sync_pipeline.operate.repair import Step
    from sync_pipeline.reconcile.verdict import Verdict
    from sync_pipeline.run.backfill import Filled


class _Commands(LazyGroup):
    members: ClassVar[Mapping[str, Member]] = {
        "due": Member(
            "sync_pipeline.cli.due:app", "What is owed: documents, files, rows that wait for others, sweep findings."
        ),
        "rebuild": Member(
            "sync_pipeline.cli.rebuild:app",
            "A new index or table beside the one that readers use, then in its place.",
        ),
        "dead-letters": Member(
            "sync_pipeline.cli.dead_letters:app",
            "Rows that were refused: by cause, one by one; tried again, or discarded.",
        ),
        "ledger": Member(
            "sync_pipeline.cli.ledger:app", "The ledger: kept, trimmed, made again, and what is marked as its own."
        ),
        "sweep": Member("sync_pipeline.cli.sweep:app", "The sweep: approve deletes that the brake holds."),
        "servers": Member(
            "sync_pipeline.cli.servers:app", "The servers of both sides: recorded, and accepted where they change."
        ),
        "outbox": Member(
            "sync_pipeline.cli.sources:outbox", "A table of events in the monolith, and triggers that fill it."
        ),
        "wal": Member("sync_pipeline.cli.sources:wal", "A publication of the monolith's log."),
        "drain": Member(
            "sync_pipeline.cli.draining:drain",
            "When the monolith's writers are fenced off: bring over all they committed."
            " Exit 0 only if all of it is in.",
        ),
        "visibility": Member(
            "sync_pipeline.cli.visibility:visibility",
            "Show which views, policies and memberships have changed since they were accepted. Exit 1 while any has.",
        ),
        "why": Member("sync_pipeline.cli.explain:why", "Why an object is, or is not, in each sink."),
        "history": Member(
            "sync_pipeline.cli.explain:history",
            "The story of an object: what batches did with it, and what was exceptional.",
        ),
    }


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

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
    where: Annotated[
        str | None, typer.Option(help="Only rows of which this is true: SQL over the columns of the entity's query.")
    ] = None,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="Stop when all committed by now is over.")
    ] = False,
    forever: Annotated[bool, typer.Option("--follow", help="Go on until interrupted.")] = False,
    output: Format = Output.TEXT,
) -> None:
    """Apply what changed in the monolith: by default until caught up."""
    from sync_pipeline.batch.order import Order
    from sync_pipeline.cli.following import Totals, caught_up, follow
    from sync_pipeline.entities.context import EntityContext
    from sync_pipeline.ledger import queue_reads
    from sync_pipeline.ledger.backfills import unfilled
    from sync_pipeline.pipeline import sync_keys
    from sync_pipeline.run.resync import sync_where

    if (bool(key) + (where is not None) + until_caught_up + forever) > 1:
        raise SettingError("--key, --where, --until-caught-up and --follow exclude each other")
    whole = True
    with opened(name, everything) as (stores, entities):
        totals = Totals(entities)
        if (key or where is not None) and len(entities) != 1:
            raise SettingError(f"{'--key' if key else '--where'} goes with one entity")
        if where is not None:
            context = EntityContext.open(entities[0], stores)
            for outcome in sync_where(context, where):
                totals.add(context.entity.name, outcome)
        elif key:
            context = EntityContext.open(entities[0], stores)
            totals.add(context.entity.name, sync_keys(context, parsed(context, key), Order()))
        elif forever:
            follow(stores, entities, totals)
        else:
            whole = caught_up(stores, entities, totals)
        refused: dict[str, int] = {}
        missing: dict[str, list[str]] = {}
        with suppress(UnreachableError), stores.target() as cursor:
            refused = queue_reads.count_rejected(cursor, totals)
            missing = {entity.name: unfilled(cursor, entity.name, entity.partitions) for entity in entities}
    report = {name: {**asdict(total), "history_missing": missing.get(name, [])} for name, total in totals.items()}
    show(report, output, partial(_synced, totals, refused, missing))
    raise typer.Exit(0 if whole else _INTERRUPTED)


def _synced(totals: Totals, refused: dict[str, int], missing: dict[str, list[str]]) -> None:
    from sync_pipeline.cli import tables

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
    """Fill history, by partition. After an interruption the same command goes on where it was."""
    from sync_pipeline.cli import tables
    from sync_pipeline.cli.progress import bars
    from sync_pipeline.entities.context import EntityContext

    report: dict[str, list[Filled]] = {}
    with opened(name, everything) as (stores, entities), bars() as shown:
        wanted = {entity.name: partitions(entity, partition) for entity in entities}
        for entity in entities:
            report[entity.name] = _fill(
                EntityContext.open(entity, stores), wanted[entity.name], partition is None, shown
            )
    as_json = {entity: [asdict(part) for part in parts] for entity, parts in report.items()}
    show(as_json, output, partial(tables.filled, report))


def _fill(context: EntityContext, parts: list[str], whole: bool, shown: Bars) -> list[Filled]:
    from sync_pipeline.run.backfill import backfill_all

    advance = shown.bar(f"{context.entity.name}: rows", lambda: _rows(context, parts, whole))
    return list(backfill_all(context, parts, lambda outcome: advance(outcome.read + outcome.parked), whole=whole))


def _rows(context: EntityContext, parts: list[str], whole: bool) -> int | None:
    """How many rows the parts hold, where that can be asked."""
    from sync_pipeline.partitions import Monthly

    kind = context.entity.partitions
    if whole:
        return context.origin.count("true")
    if not isinstance(kind, Monthly):
        return None
    return sum(context.origin.count(context.origin.within_month(kind, part)) for part in parts)


@app.command()
def status(name: AnyName = None, everything: All = False, output: Format = Output.TEXT) -> None:
    """Where each entity stands."""
    from sync_pipeline.cli import tables
    from sync_pipeline.operate.status import status_of

    with opened(name, everything or not name, adapts=False) as (stores, entities):
        report = {entity.name: status_of(stores, entity) for entity in entities}
    show(report, output, partial(tables.statuses, report))


@app.command()
def reconcile(name: Name = None, everything: All = False, output: Format = Output.TEXT) -> None:
    """Compare every row, document and file of both sides. Exit 0 clean, 1 drift, 2 unknown."""
    from sync_pipeline.cli import tables
    from sync_pipeline.cli.progress import bars
    from sync_pipeline.entities.context import EntityContext
    from sync_pipeline.reconcile.verdict import overall

    with opened(name, everything) as (stores, entities), bars() as shown:
        verdicts = [_compare(EntityContext.open(entity, stores), shown) for entity in entities]
    status = overall(verdicts)
    report = {"verdict": status, "entities": {verdict.entity: verdict.as_dict() for verdict in verdicts}}
    show(report, output, partial(tables.verdicts, verdicts, status))
    raise typer.Exit(_EXIT[status])


def _compare(context: EntityContext, shown: Bars) -> Verdict:
    from sync_pipeline.reconcile.reconcile import reconcile as compare

    return compare(context, shown.bar(f"{context.entity.name}: rows", lambda: context.origin.count("true")))


@app.command()
def repair(
    name: Annotated[str, typer.Argument(help="The entity.")],
    key: Annotated[list[str] | None, typer.Option(help="Only this key, whether it drifts or not.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be done, and do nothing.")] = False,
    output: Format = Output.TEXT,
) -> None:
    """Write again what reconciliation finds drifting. Exit 2 when something could not be looked at."""
    from sync_pipeline.cli.following import Totals
    from sync_pipeline.cli.progress import bars
    from sync_pipeline.entities.context import EntityContext
    from sync_pipeline.entities.visibility import check_visibility
    from sync_pipeline.operate.repair import as_report, carry_out

    with opened(name, everything=False) as (stores, entities), bars() as shown:
        totals = Totals(entities)
        context = EntityContext.open(entities[0], stores)
        steps, status = _planned(context, key, shown)
        if not dry_run:
            check_visibility(context.entity, stores)
            for outcome in carry_out(context, steps):
                totals.add(name, outcome)
    report = {name: as_report(steps) if dry_run else asdict(totals[name])}
    show(report, output, partial(_repaired, totals, steps, status, dry_run=dry_run))
    raise typer.Exit(_EXIT[status])


def _planned(context: EntityContext, keys: list[str] | None, shown: Bars) -> tuple[list[Step], VerdictStatus]:
    """Plan the repair of what differs; the status is `unknown` where something could not be compared."""
    from sync_pipeline.operate.repair import plan, plan_keys

    if keys:
        return plan_keys(context, parsed(context, keys)), VerdictStatus.CLEAN
    verdict = _compare(context, shown)
    is_unknown = verdict.status is VerdictStatus.UNKNOWN
    return plan(context, verdict.findings), VerdictStatus.UNKNOWN if is_unknown else VerdictStatus.CLEAN


def _repaired(totals: dict[str, Outcome], steps: list[Step], status: VerdictStatus, *, dry_run: bool) -> None:
    from sync_pipeline.cli import tables

    if dry_run:
        tables.steps(steps)
    else:
        tables.outcomes(totals)
        tables.left_alone(steps)
    if status is VerdictStatus.UNKNOWN:
        tables.say("Something could not be looked at: sync-pipeline reconcile says what.", "yellow")


@app.command()
def check(name: AnyName = None, everything: All = False, output: Format = Output.TEXT) -> None:
    """Preflight: reachability, grants, indices, types, aliases, buckets. Leaves nothing behind. Exit 2 on an error."""
    from sync_pipeline.cli import tables
    from sync_pipeline.model.notices import worst
    from sync_pipeline.preflight.preflight import preflight

    with opened(name, everything or not name) as (stores, entities):
        found = preflight(stores, entities, whole=not name)
    status = worst(found)
    report = {"verdict": status, "findings": [asdict(notice) for notice in found]}
    show(report, output, partial(tables.notices, found))
    raise typer.Exit(_EXIT[status])
