"""Running a command: what goes wrong is one message and an exit code, never a wall of calls unless asked for."""

from __future__ import annotations

import os
import sys
import traceback
from importlib.metadata import entry_points

import typer

from sync_pipeline.cli.commands import app
from sync_pipeline.errors import SyncError

FAILED, INTERRUPTED = 2, 130


for _point in entry_points(group="sync_pipeline.commands"):
    app.add_typer(_point.load(), name=_point.name)


def main() -> None:
    """Run a command; every error is exit 2, so that 1 is always a verdict."""
    try:
        app()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            typer.echo("Interrupted. What is done is kept; the same command goes on from there.", err=True)
        raise
    except SyncError as error:
        _tell(f"{type(error).__name__.removesuffix('Error')}: {error}")
        sys.exit(FAILED)
    except Exception as error:
        _tell(f"{type(error).__name__}: {str(error).strip() or 'no reason given'} (--debug shows where)")
        sys.exit(FAILED)


def _tell(message: str) -> None:
    if os.environ.get("SYNC_DEBUG"):
        traceback.print_exc()
    typer.echo(message, err=True)
