"""How a batch is to be carried out, and what it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from sync_pipeline.batch.delivery import Delivery
from sync_pipeline.batch.versions import Expected
from sync_pipeline.db.sql import Cursor

if TYPE_CHECKING:
    from sync_pipeline.batch.references import ReferenceLocks

# undoes what a plan leaves as it is, in the rows' transaction, under (locks, revision, plan, applied); gives the plan
# with UNDO where it has
Undo = Callable[["ReferenceLocks", int, pa.Table, pa.Table], pa.Table]


@dataclass(frozen=True)
class Order:
    """How a batch is to be carried out."""

    acknowledge: bool = False  # its keys are events: every key's revision is raised, changed or not
    force: bool = False  # write rows that have not changed, too
    documents: bool = False  # send rows that have not changed to outer sinks, too
    again: bool = False  # of rows that were undone, too: they are written once more
    shadow: bool = False  # adapt rows that have not changed, too, because a shadow table wants them
    wait: bool = False  # rows whose files must be copied are put off into `due`
    commit: Callable[[Cursor, Outcome], None] | None = None  # done in the rows' transaction
    cause: str = "keys"  # whose doing it is, for the log
    position: str = ""  # what of the monolith it acknowledges, for the log
    after: int | None = None  # the record of `due` that its documents are owed by: what they leave owed is as old
    record: int | None = None  # the record of `due` that is worked on: rows that are put off stay as old as it
    has_tries_left: bool = True  # what may pass by itself is tried again, and not rejected yet
    expected: Expected | None = None  # versions that its rows must show; keys of others are left to `commit`
    undo: Undo | None = None
    whole: bool = False  # its rows are read and written together, however large they are
    sink: str = ""  # the only outer sink that rows which have not changed are sent to; empty: all of them
    hand_over: Callable[[Delivery], None] | None = (
        None  # takes what outer sinks are owed, instead of sending it at once
    )

    @property
    def sends_all(self) -> bool:
        """Whether documents are sent of rows that have not changed."""
        return self.force or self.documents

    def sends_all_to(self, sink: str) -> bool:
        """Return whether a sink is sent rows that have not changed."""
        return self.sends_all and self.sink in {"", sink}

    @property
    def of_all(self) -> bool:
        """Whether rows are adapted that have not changed."""
        return self.sends_all or self.shadow


@dataclass
class Outcome:
    """What a batch did, in rows, documents, files and bytes."""

    keys: int = 0
    read: int = 0
    written: int = 0
    deleted: int = 0
    parked: int = 0
    waiting: int = 0
    documents: int = 0
    documents_owed: int = 0
    files: int = 0
    file_bytes: int = 0
    position: list[str] | None = None


Report = Callable[[str, Outcome], None]
