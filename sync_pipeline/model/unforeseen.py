"""Errors that no code foresaw, as a message for the one object that was handled when they came up."""

from __future__ import annotations

import traceback
from pathlib import Path

import psycopg2

from sync_pipeline.errors import SyncError

_FRAMES = 4


def is_unforeseen(error: Exception) -> bool:
    """Whether neither the engine nor a database has raised it on purpose."""
    return not isinstance(error, (SyncError, psycopg2.Error, MemoryError))


def is_of_cluster(error: Exception) -> bool:
    """Whether the search client has raised it; asked by name, because the client takes long to import."""
    return type(error).__module__.partition(".")[0] in {"elasticsearch", "elastic_transport"}


def describe(error: BaseException) -> str:
    """What was raised, and the last places that it passed, innermost first."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    return f"{type(error).__name__}: {' '.join(str(error).split())} (unforeseen, at {places})"
