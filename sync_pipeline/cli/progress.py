"""Progress of long work with the time that is left: on a terminal's standard error, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[int], None]


class Bars:
    """Bars on a terminal; elsewhere nothing is counted and nothing is shown."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress

    def bar(self, title: str, count: Callable[[], int | None]) -> Advance:
        """A new bar, advanced by what it gives. `count` (rows in all, if known) is asked only for a terminal."""
        if self._progress is None:
            return lambda _: None
        progress, task = self._progress, self._progress.add_task(title, total=None)
        progress.update(task, total=count())
        return lambda rows: progress.advance(task, rows)

    def level(self, title: str) -> Callable[[int, int], None]:
        """A bar that is told both numbers each time: done, and in all."""
        if self._progress is None:
            return lambda *_: None
        progress, task = self._progress, self._progress.add_task(title, total=None)
        return lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def bars() -> Iterator[Bars]:
    """Bars for as long as this lasts."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Bars(None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as progress:
        yield Bars(progress)
