"""The command line. Exit codes: 0 clean, 1 not so (drift, not swapped, not drained), 2 unknown, 130 interrupted."""

from sync_pipeline.cli.commands import app
from sync_pipeline.cli.entry import main

__all__ = ["app", "main"]
