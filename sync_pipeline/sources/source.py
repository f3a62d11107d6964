"""What every source of changes offers: pages of keys, where it stands, and word that they were applied.

A source gives keys, never values. It is open at one follower at a time, under the entity's lease.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from sync_pipeline.db.keys import Key
from sync_pipeline.model.positions import SourcePosition, State
from sync_pipeline.sources.table import Table
from sync_pipeline.stores.stores import Stores

# so many numbers are listed one by one
_FEW = 8


@dataclass(frozen=True)
class Subject:
    """Whose changes a source reports."""

    entity: str
    key: Key
    tables: tuple[Table, ...]
    stores: Stores


@dataclass(frozen=True)
class EventVersions:
    """What the events of one root tell of its version."""

    version: int | None = None  # the highest
    plain: bool = False  # one tells none: the row is applied as it stands, whatever others wait for
    ends_plain: bool = False  # the last one tells none: a row that is not there has been deleted

    def then(self, version: int | None) -> EventVersions:
        """With one more event."""
        if version is None:
            return EventVersions(self.version, True, True)
        return EventVersions(max(version, self.version or version), self.plain)

    def is_ahead(self, there: bool, shown: int | None) -> bool:
        """Whether the row is yet to come; one that bears no version says nothing against being the one."""
        if self.version is None:
            return False
        return shown is not None and shown < self.version if there else not self.ends_plain


@dataclass(frozen=True)
class Page:
    """Keys that may have changed. Those of a fan-out wait behind fresh edits."""

    keys: pa.Table
    fanout: bool = False
    event_versions: Mapping[str, EventVersions] = field(default_factory=dict)  # by key, as text
    position: str = ""  # what of the monolith it tells of, for people: transactions, events, an instant
    events: pa.Array | None = None  # ids of events that are reported with this page, where each is acknowledged


def numbered(what: str, numbers: Collection[int]) -> str:
    """`events 7, 9`, or `events 7 to 90 (41)`; nothing where there are none."""
    if len(numbers) <= _FEW:
        return f"{what} {', '.join(map(str, sorted(numbers)))}" if numbers else ""
    return f"{what} {min(numbers)} to {max(numbers)} ({len(numbers)})"


def mark_last(pages: Iterator[Page]) -> Iterator[tuple[Page, bool]]:
    """Yields each page with whether it is the last one."""
    page = next(pages, None)
    while page is not None:
        following = next(pages, None)
        yield page, following is None
        page = following


class Source(ABC):
    """An open source; all methods raise UnreachableError."""

    @abstractmethod
    def begin(self) -> SourcePosition:
        """Where it stands before anything was read: whatever is committed from now on will be reported."""

    @abstractmethod
    def pull(self, rows: int) -> Iterator[Page]:
        """What has changed since the last `acknowledge`, in pages of about so many keys."""

    @abstractmethod
    def position(self) -> SourcePosition:
        """Where it stands when all pages that `pull` has given so far are applied.

        Asked between two pages it names a position from which another process goes on, so that a poll of any size ends.
        """

    @abstractmethod
    def acknowledge(self) -> None:
        """All pages are applied or due, and that is committed: they need not be reported again."""

    def acknowledge_page(self, page: Page) -> None:  # noqa: B027 (most acknowledge a whole poll)
        """The page is applied or due, and that is committed, while others of its poll are not."""

    def wait(self, halt: threading.Event, seconds: float) -> None:
        """Until something may have changed, at most so long."""
        halt.wait(seconds)

    def close(self) -> None:  # noqa: B027 (most hold nothing)
        """Let go of what it holds open."""


class Capture(Protocol):
    """A way of catching changes, as an entity declares it."""

    @property
    def name(self) -> str:
        """As it stands in the cursor."""

    def open(self, subject: Subject, state: State | None) -> Source:
        """The source, from where its last one stood."""
