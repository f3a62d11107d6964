"""`sync-pipeline rebuild …`: a new index or table beside the one that readers use, then in its place."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer

from sync_pipeline.cli import tables
from sync_pipeline.cli.common import All, Format, Name, Output, opened, show
from sync_pipeline.cli.progress import Bars, bars
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.ledger.ledger import migrate
from sync_pipeline.ledger.sinks import HELD_ROW
from sync_pipeline.rebuild.index import index_names
from sync_pipeline.rebuild.rebuild import Rebuilt, abandon, clear, rebuild_index, rebuild_table
from sync_pipeline.rebuild.report import COMPARED, FILLED, Report

app = typer.Typer(no_args_is_help=True, help="A new index or table beside the one that readers use, then in its place.")

Entity = Annotated[str, typer.Argument(help="The entity.")]


@app.command()
def index(
    name: Name = None,
    everything: All = False,
    sink: Annotated[str, typer.Option("--sink", help="The index's name, where an entity has several.")] = "",
    output: Format = Output.TEXT,
) -> None:
    """Fill a new index beside the live one, compare it, swap the alias. Cut off, it goes on. Exit 1: not swapped."""
    with opened(name, everything) as (stores, entities), bars() as shown:
        chosen = [(entity, each) for entity in entities for each in index_names(entity, sink, is_named=bool(name))]
        found = []
        for entity, each in chosen:
            context = EntityContext.open(entity, stores)
            found.append(rebuild_index(context, _progress(context, shown, context.bits[each]), sink=each))
    _end(found, output)


@app.command()
def table(
    name: Entity,
    like: Annotated[bool, typer.Option("--like", help="Make NAME_next as the live table is.")] = False,
    output: Format = Output.TEXT,
) -> None:
    """Fill the table NAME_next beside the live one, compare it, swap both. Cut off, it goes on. Exit 1: not swapped."""
    with opened(name, everything=False) as (stores, entities), bars() as shown:
        context = EntityContext.open(entities[0], stores, shadow=True)
        found = [rebuild_table(context, _progress(context, shown, HELD_ROW), like=like)]
    _end(found, output)


def _end(found: list[Rebuilt], output: Output) -> None:
    show({rebuilt.entity: asdict(rebuilt) for rebuilt in found}, output, partial(tables.rebuilt, found))
    raise typer.Exit(1 if any(rebuilt.findings for rebuilt in found) else 0)


def _progress(context: EntityContext, shown: Bars, held: int) -> Report:
    advance = {
        FILLED: shown.bar(f"{context.entity.name}: {FILLED}", lambda: context.origin.count("true")),
        COMPARED: shown.bar(f"{context.entity.name}: {COMPARED}", lambda: _held(context, held)),
    }
    return lambda step, count: advance[step](count)


def _held(context: EntityContext, held: int) -> int:
    with context.stores.target() as cursor:
        return context.ledger.count(cursor, held)


@app.command("abandon")
def give_up(name: Entity, output: Format = Output.TEXT) -> None:
    """Give up a rebuild that is under way, with what it has filled. Readers notice nothing."""
    with opened(name, everything=False) as (stores, entities):
        migrate(stores)
        gone = abandon(stores, entities[0])
    message = f"{gone} is given up." if gone else f"No rebuild of {name} is under way."
    show({name: gone}, output, partial(tables.say, message))


@app.command("clear")
def delete_former(name: Entity, output: Format = Output.TEXT) -> None:
    """Delete indices and tables that readers used before, and that are kept since."""
    with opened(name, everything=False) as (stores, entities):
        migrate(stores)
        gone = clear(stores, entities[0])
    message = f"{', '.join(gone)}: deleted." if gone else f"Nothing former of {name} is kept."
    show({name: gone}, output, partial(tables.say, message))
