"""`sync-pipeline ledger …`: snapshots of what was written when, and the ledger made again from them and the log."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from sync_pipeline import snapshot
from sync_pipeline.cli import tables
from sync_pipeline.cli.opening import All, AnyName, Format, Output, opened, show
from sync_pipeline.lane import Lane
from sync_pipeline.ledger.ledger import migrate

app = typer.Typer(no_args_is_help=True, help="The ledger: kept, trimmed, made again.")


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
        report = {name: snapshot.rebuild(Lane.open(entities[0], stores))}
    show(report, output, lambda: tables.table(("entity", "keys"), report.items()))
