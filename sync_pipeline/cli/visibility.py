"""`sync-pipeline visibility`: has the monolith begun to hide rows, and is that meant?"""

from __future__ import annotations

import getpass
from functools import partial
from typing import Annotated

import typer

from sync_pipeline.cli.common import All, Format, Name, Output, opened, show
from sync_pipeline.cli.tables import say
from sync_pipeline.entities.visibility import accept_visibility, changes_of
from sync_pipeline.ledger.ledger import migrate

Accept = Annotated[
    bool, typer.Option("--accept", help="Record it as it is now: sweeps go on, and delete what is gone.")
]


def visibility(
    name: Name = None, everything: All = False, accept: Accept = False, output: Format = Output.TEXT
) -> None:
    """Show which views, policies and memberships have changed since they were accepted. Exit 1 while any has."""
    found: dict[str, list[str]] = {}
    with opened(name, everything) as (stores, entities):
        migrate(stores)
        for entity in entities:
            found[entity.name] = changes_of(entity, stores)
            if accept:
                accept_visibility(entity, stores, getpass.getuser())
    show(
        {entity: {"changes": changes, "accepted": accept} for entity, changes in found.items()},
        output,
        partial(_print, found, accept),
    )
    raise typer.Exit(1 if any(found.values()) and not accept else 0)


def _print(found: dict[str, list[str]], accepted: bool) -> None:
    for entity, changes in found.items():
        if not changes:
            say(f"{entity}: as it was accepted", "green")
        for change in changes:
            say(f"{entity}: {change}{' (accepted)' if accepted else ''}", "green" if accepted else "red")
