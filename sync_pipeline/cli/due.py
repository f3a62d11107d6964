"""`sync-pipeline due …`: what is owed, and doing it now."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from sync_pipeline.cli import tables
from sync_pipeline.cli.common import All, AnyName, Format, Output, opened, parsed, show
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import SettingError
from sync_pipeline.ledger.ledger import migrate
from sync_pipeline.model.reasons import Reason
from sync_pipeline.queue import due as owed
from sync_pipeline.run import live

app = typer.Typer(
    no_args_is_help=True, help="What is owed: documents, files, rows that wait for others, sweep findings."
)

ReasonName = Annotated[str | None, typer.Option(help=f"Only {', '.join(owed.PRIORITY)}.", show_default=False)]
Key = Annotated[str | None, typer.Option(help="Only this key.", show_default=False)]


@app.command("list")
def listing(
    name: AnyName = None,
    everything: All = False,
    reason: ReasonName = None,
    key: Key = None,
    limit: Annotated[int, typer.Option(min=0, help="Records shown of each entity.")] = 20,
    output: Format = Output.TEXT,
) -> None:
    """What is owed by cause, and the most urgent of it."""
    if reason and reason not in owed.PRIORITY:
        hint = "; rows that were refused are dead letters: sync-pipeline dead-letters list"
        raise SettingError(f"nothing is owed for reason {reason!r}; there are {', '.join(owed.PRIORITY)}{hint}")
    with opened(name, everything or not name) as (stores, entities):
        migrate(stores)
        with stores.target() as cursor:
            chosen = {e.name: owed.QueueFilter(e.name, Reason(reason) if reason else None, key) for e in entities}
            report = {name: owed.overview(cursor, each, limit) for name, each in chosen.items()}
    show(report, output, partial(tables.owed, report))


@app.command()
def replay(name: AnyName = None, everything: All = False, key: Key = None, output: Format = Output.TEXT) -> None:
    """Make what waits due at once, and do it."""
    report = {}
    with opened(name, everything or not name) as (stores, entities):
        for entity in entities:
            context = EntityContext.open(entity, stores)
            if key and name:
                parsed(context, [key])
            with stores.target() as cursor:
                report[entity.name] = owed.replay(cursor, owed.QueueFilter(entity.name, key=key))
            while live.work(context, lambda *_: None):
                pass
    show(report, output, lambda: tables.table(("entity", "records replayed"), report.items()))
