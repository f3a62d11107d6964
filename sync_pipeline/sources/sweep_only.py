"""No source at all: what has changed is found by the sweep alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from sync_pipeline.model.positions import SourcePosition, State
from sync_pipeline.sources.source import Page, Source, Subject

_PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class SweepOnly:
    """Nothing reports changes: the monolith has no timestamps, and nobody may add a trigger or a slot."""

    name: str = field(default="sweep", init=False)

    def open(self, subject: Subject, state: State | None) -> SweepSource:
        """The source that reports nothing."""
        return SweepSource(subject)


@dataclass
class SweepSource(Source):
    """All that was committed before the last sweep began is applied or due; the ledger knows when that was."""

    subject: Subject

    def begin(self) -> SourcePosition:
        """There is nothing to begin."""
        return SourcePosition()

    def pull(self, rows: int) -> Iterator[Page]:
        """Nothing."""
        return iter(())

    def position(self) -> SourcePosition:
        """As far as the last sweep saw."""
        with self.subject.stores.target() as cursor:
            cursor.execute("SELECT compared_from FROM sync.cursor WHERE entity = %s", (self.subject.entity,))
            (compared_from,) = cursor.fetchone()
        return SourcePosition(through=compared_from)

    def acknowledge(self) -> None:
        """There is nothing to keep."""

    def wait(self, halt: threading.Event, seconds: float) -> None:
        """There is nothing to wait for."""
        halt.wait(max(seconds, _PAUSE_SECONDS))
