"""The command line. Exit codes: 0 clean, 1 drift, 2 unknown or error."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

import typer

from sync_pipeline.errors import SyncError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def sync_pipeline() -> None:
    """Keep a new read side in step with a legacy monolith, and prove it."""


def main() -> None:
    """Run a command; what went wrong on purpose is one message and exit 2."""
    for point in entry_points(group="sync_pipeline.commands"):
        app.add_typer(point.load(), name=point.name)
    try:
        app()
    except SyncError as error:
        typer.echo(f"{type(error).__name__.removesuffix('Error')}: {error}", err=True)
        sys.exit(2)
