"""`sync-pipeline sweep …`: what a person decides about a sweep."""

from __future__ import annotations

import getpass
import socket
from typing import Annotated

import typer

from sync_pipeline.cli import tables
from sync_pipeline.cli.common import Format, Output, opened, show
from sync_pipeline.errors import SettingError
from sync_pipeline.ledger import sweeps
from sync_pipeline.ledger.ledger import migrate

app = typer.Typer(no_args_is_help=True, help="The sweep: approve deletes that the brake holds.")


@app.callback()
def _group() -> None:
    """The sweep: approve deletes that the brake holds."""


@app.command()
def approve(
    name: Annotated[str, typer.Argument(help="The entity.")],
    reason: Annotated[str, typer.Option(help="Why these rows are meant to be gone; kept in the ledger.")],
    by: Annotated[str, typer.Option(help="Who says so.", show_default="USER@HOST")] = "",
    rows: Annotated[int | None, typer.Option(help="Refuse unless the sweep found exactly so many rows gone.")] = None,
    output: Format = Output.TEXT,
) -> None:
    """Allow the sweep that the brake holds to delete the rows it found gone. It counts for one sweep."""
    if not reason.strip():
        raise SettingError("--reason must say why these rows are meant to be gone")
    with opened(name, everything=False) as (stores, _):
        migrate(stores)
        with stores.target() as cursor:
            found = sweeps.approve(cursor, name, by or f"{getpass.getuser()}@{socket.gethostname()}", reason)
            if rows is not None and rows != found["gone"]:
                raise SettingError(f"entity {name}: the sweep found {found['gone']} rows gone, not {rows}: look again")
    show(
        {name: found},
        output,
        lambda: tables.say(
            f"{found['gone']:,} rows of {name} may be deleted, once. Whoever follows {name} does it within seconds."
        ),
    )
