"""The interface of a sink: where an entity's objects go, and what a sink says and does of its own place.

The first table of an entity is written in the transaction of the ledger. What goes to all other sinks is owed by the
ledger until their stores have taken it, and retried.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

import pyarrow as pa

from sync_pipeline.errors import DeclarationError
from sync_pipeline.model.findings import Finding
from sync_pipeline.model.notices import Notice
from sync_pipeline.model.places import Place
from sync_pipeline.model.rows import Adapted
from sync_pipeline.sinks.context import SinkContext, Span
from sync_pipeline.sinks.named import Named
from sync_pipeline.sinks.ownership import Mark
from sync_pipeline.sinks.pages import SinkPage
from sync_pipeline.stores.stores import Stores


class Stage(IntEnum):
    """When a sink takes its part of a batch."""

    BEFORE_ROWS = 0  # rows name what it has placed, such as the new keys of files
    ROWS = 1  # in the transaction of the ledger
    AFTER_ROWS = 2  # owed by that transaction, and sent afterwards


@dataclass(frozen=True)
class SinkSize:
    """Rows, documents or files, and the bytes they take up."""

    rows: int
    size: int


@dataclass(frozen=True)
class PartPage:
    """What a page of a recovery found: where the next one begins (None: it was the last), and the keys that differ.

    `lost` are keys of files that the ledger knows and that are not there: rows that name them copy them again.
    """

    position: list[str] | None
    checked: int
    keys: Sequence[str] = ()
    lost: Sequence[str] = ()


class Sink(Named, ABC):
    """Where objects of an entity go. A sink is declared in the entity's file: it does nothing when it is made."""

    noun: ClassVar[str] = "object"  # what it holds, for people: `row`, `document`
    stage: ClassVar[Stage] = Stage.AFTER_ROWS
    # what is compared of it after the new side has lost commits; see `compare_part`
    recovery_parts: ClassVar[tuple[str, ...]] = ()
    names_rows: ClassVar[bool] = True  # its findings name rows by their keys; False: objects of its own

    @property
    @abstractmethod
    def place(self) -> Place:
        """What it claims for its entity: no other entity and no other deployment writes there."""

    @property
    def places(self) -> Iterable[Place]:
        """All places that it names, those of a rebuild included."""
        return (self.place,)

    @property
    @abstractmethod
    def declared(self) -> frozenset[str]:
        """The columns of adapted rows that it keeps, by their names there."""

    @abstractmethod
    def asset_path(self, entity: str) -> tuple[str, ...]:
        """The parts of its asset's key; the last one, which graphs show, is no other sink's of the entity."""

    @abstractmethod
    def page(self, entity: str) -> SinkPage:
        """What an asset page shows of it."""

    @abstractmethod
    def column_faults(self, adapted: pa.Table) -> Iterator[str]:
        """What of its columns adapted rows lack, each as a sentence."""

    @abstractmethod
    def open(self, stores: Stores, entity: str) -> None:
        """Make its place where it is not there, and mark it as the entity's.

        Raises UnreachableError, DeclarationError, OwnershipError where the place belongs to another.
        """

    def preflight(self, stores: Stores, entity: str) -> Iterator[Notice]:
        """What `check` says of its place. Changes nothing. Raises UnreachableError."""
        yield from ()

    def marks(self, stores: Stores) -> list[Mark]:
        """The marks of ownership on its place, its own last. Raises UnreachableError."""
        return []

    def unmarked(self, stores: Stores, entity: str, mark: Mark) -> Iterator[Notice]:
        """What `check` says of a mark that is not there, although the entity was opened."""
        yield from ()

    def take_over(self, stores: Stores, entity: str) -> list[Mark]:
        """Mark its place as ours, also where it is another ledger's; return the marks that this replaced.

        Raises UnreachableError.
        """
        return []

    def breaker(self, stores: Stores) -> AbstractContextManager[None]:
        """Leaves its store alone while that does not answer, and counts what fails within."""
        return nullcontext()

    def as_written(self, context: SinkContext, adapted: Adapted) -> Adapted:
        """Adapted rows as this sink has them written, with what it fills of them."""
        return adapted

    def compare(self, context: SinkContext, expected: Adapted, span: Span) -> list[Finding]:
        """How what it holds in a span differs from the expected rows. Raises UnreachableError."""
        return []

    def compare_rest(self, context: SinkContext) -> list[Finding]:
        """How what it holds differs, as far as no span of rows shows it. Raises UnreachableError."""
        return []

    def compare_part(self, context: SinkContext, part: str, position: list[str] | None) -> PartPage:
        """Compare the next page of a part of `recovery_parts` with the ledger, after the new side has lost commits.

        Raises UnreachableError.
        """
        return PartPage(None, 0)

    def rows_of(self, context: SinkContext, objects: Sequence[str]) -> dict[str, set[str]]:
        """The rows (key texts) to which each of its objects belongs, where its findings do not name rows."""
        return {}

    def measure(self, stores: Stores) -> SinkSize | None:
        """What it holds now; None where its place is not made yet. Raises UnreachableError."""
        return None


def select(adapted: pa.Table, columns: list[str], sink: str) -> pa.Table:
    """Columns of adapted rows by name. Raises DeclarationError naming the first that is not there."""
    there = set(adapted.column_names)
    missing = [name for name in columns if name not in there]
    if missing:
        raise DeclarationError(f"adapt returns no column {missing[0]!r}, which {sink} declares")
    return adapted.select(columns)
