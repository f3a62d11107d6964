"""`sync-pipeline rebuild …`: a new index beside the one that readers use, and in its place once it is whole."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer

from sync_pipeline.cli import tables
from sync_pipeline.cli.opening import All, Format, Name, Output, opened, show
from sync_pipeline.cli.progress import Bars, bars
from sync_pipeline.lane import Lane
from sync_pipeline.ledger.ledger import migrate
from sync_pipeline.rebuild.compare import wanted_documents
from sync_pipeline.rebuild.fill import COMPARED, FILLED
from sync_pipeline.rebuild.rebuild import Rebuilt, abandon, clear, rebuild_index

app = typer.Typer(no_args_is_help=True, help="A new index beside the one that readers use, then in its place.")

Entity = Annotated[str, typer.Argument(help="The entity.")]


@app.command()
def index(name: Name = None, everything: All = False, output: Format = Output.TEXT) -> None:
    """Fill a new index beside the live one, compare it, swap the alias. Cut off, it goes on. Exit 1: not swapped."""
    with opened(name, everything) as (stores, entities), bars() as shown:
        found = [_rebuilt(Lane.open(entity, stores), shown) for entity in entities if entity.index or name]
    show({made.entity: asdict(made) for made in found}, output, partial(tables.rebuilt, found))
    raise typer.Exit(1 if any(made.findings for made in found) else 0)


def _rebuilt(lane: Lane, shown: Bars) -> Rebuilt:
    entity = lane.entity.name
    advance = {
        FILLED: shown.bar(f"{entity}: {FILLED}", lambda: lane.origin.count("true")),
        COMPARED: shown.bar(f"{entity}: {COMPARED}", lambda: wanted_documents(lane)),
    }
    return rebuild_index(lane, lambda step, count: advance[step](count))


@app.command("abandon")
def give_up(name: Entity, output: Format = Output.TEXT) -> None:
    """Give up a rebuild that is under way, and delete its index. Readers notice nothing."""
    with opened(name, everything=False) as (stores, entities):
        migrate(stores)
        gone = abandon(stores, entities[0])
    told = f"{gone} is deleted." if gone else f"No rebuild of {name} is under way."
    show({name: gone}, output, partial(tables.say, told))


@app.command("clear")
def delete_former(name: Entity, output: Format = Output.TEXT) -> None:
    """Delete the indices that were behind the alias before, and are kept since."""
    with opened(name, everything=False) as (stores, entities):
        migrate(stores)
        gone = clear(stores, entities[0])
    told = f"{', '.join(gone)}: deleted." if gone else f"No former index of {name} is kept."
    show({name: gone}, output, partial(tables.say, told))
