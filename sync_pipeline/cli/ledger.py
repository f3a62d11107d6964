"""`sync-pipeline ledger …`: snapshots of what was written when, and the ledger made again from them and the log."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from sync_pipeline.cli import tables
from sync_pipeline.cli.common import All, AnyName, Format, Name, Output, opened, show
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.take_over import take_over as take_over_entity
from sync_pipeline.ledger.ledger import migrate
from sync_pipeline.operate import snapshot
from sync_pipeline.sinks.ownership import ledger_of

app = typer.Typer(no_args_is_help=True, help="The ledger: kept, trimmed, made again, and what is marked as its own.")


@app.command("snapshot")
def taken(name: AnyName = None, everything: All = False, output: Format = Output.TEXT) -> None:
    """Keep the ledger as it is now, beside it: with the log since, it can be made again."""
    with opened(name, everything or not name) as (stores, entities):
        migrate(stores)
        report = {entity.name: snapshot.take(stores, entity.name) for entity in entities}
    show(report, output, lambda: tables.table(("entity", "keys kept"), report.items()))


@app.command()
def trim(output: Format = Output.TEXT) -> None:
    """Drop the log older than SYNC_HISTORY_DAYS, once snapshots are taken. Dagster's job retention does it, too."""
    with opened(None, everything=True) as (stores, _):
        migrate(stores)
        report = snapshot.trim(stores)
    show(
        report, output, partial(tables.say, f"{report['days']:,} days dropped; snapshots hold {report['keys']:,} keys.")
    )


@app.command()
def rebuild(name: Annotated[str, typer.Argument(help="The entity.")], output: Format = Output.TEXT) -> None:
    """Make an entity's ledger again from its snapshot and the log since. Batches wait meanwhile."""
    with opened(name, everything=False) as (stores, entities):
        report = {name: snapshot.rebuild(EntityContext.open(entities[0], stores))}
    show(report, output, lambda: tables.table(("entity", "keys"), report.items()))


@app.command("take-over")
def take_over(name: Name = None, everything: All = False, output: Format = Output.TEXT) -> None:
    """Make table, indices and prefix this entity's, though another ledger or entity has them.

    Only where the other one is gone for good. All that lies there counts as this entity's from then on.
    """
    with opened(name, everything) as (stores, entities):
        migrate(stores)
        found = {entity.name: take_over_entity(stores, entity) for entity in entities}
        ours = ledger_of(stores)
    rows = [(entity, mark.what, mark.ledger or "no mark", ours) for entity, marks in found.items() for mark in marks]
    report = {entity: [{"what": mark.what, "ledger": mark.ledger} for mark in marks] for entity, marks in found.items()}
    show(report, output, partial(_taken_over, rows))


def _taken_over(rows: list[tuple[str, str, str, str | None]]) -> None:
    if rows:
        tables.table(("entity", "what", "was", "is"), rows)
    else:
        tables.say("All of it is this ledger's and these entities' already.")
