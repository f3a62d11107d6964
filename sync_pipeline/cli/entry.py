"""Running a command: what goes wrong is one message and an exit code, never a wall of calls unless asked for."""

from __future__ import annotations

import io
import os
import sys
import traceback
from importlib.metadata import entry_points
from typing import Any, TextIO, cast

import typer

from sync_pipeline.cli.commands import app
from sync_pipeline.cli.common import unused_files
from sync_pipeline.errors import SyncError

FAILED, INTERRUPTED = 2, 130


for _point in entry_points(group="sync_pipeline.commands"):
    app.add_typer(_point.load(), name=_point.name)


class _Pipe(io.FileIO):
    """Standard output whose reader may have enough: what it no longer reads is no error of ours."""

    _is_lost = False

    def write(self, content: Any) -> int:
        """Write to the reader while there is one. A device that takes nothing more is told once."""
        size = len(memoryview(content).cast("B"))
        if self._is_lost:
            return size
        try:
            return super().write(content)
        except BrokenPipeError:
            return size
        except OSError:
            self._is_lost = True
            raise


def main() -> None:
    """Run a command; every error is exit 2, so that 1 is always a verdict."""
    sys.stdout, sys.stderr = _forgiving(sys.stdout), _forgiving(sys.stderr)
    sys.exit(_run())


def _run() -> int | str | None:
    unused_files.clear()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
        return 0
    except SystemExit as ended:
        if unused_files and ended.code in {0, 1, None}:  # what was said of all entities is not said of these
            return FAILED
        if ended.code == INTERRUPTED:
            typer.echo("Interrupted. What is done is kept; the same command goes on from there.", err=True)
        return ended.code
    except SyncError as error:
        _print_error(f"{type(error).__name__.removesuffix('Error')}: {error}")
    except Exception as error:
        _print_error(f"{type(error).__name__}: {str(error).strip() or 'no reason given'} (--debug shows where)")
    return FAILED


def _forgiving(stream: TextIO) -> TextIO:
    """The same stream for readers that leave early (`| head`): a command still ends with its own exit code.

    A stream that is no file, as tests have it, stays as it is; one that is closed is replaced by one that goes nowhere.
    """
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper) or not isinstance(stream.buffer, io.BufferedWriter | io.RawIOBase):
        return stream
    stream.flush()
    raw = _Pipe(stream.fileno(), "wb", closefd=False)
    # with PYTHONUNBUFFERED there is no buffer
    pipe = cast(io.BufferedWriter, raw) if isinstance(stream.buffer, io.RawIOBase) else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        pipe, stream.encoding, stream.errors, line_buffering=stream.line_buffering, write_through=stream.write_through
    )


def _print_error(message: str) -> None:
    if os.environ.get("SYNC_DEBUG"):
        traceback.print_exc()
    typer.echo(message, err=True)
