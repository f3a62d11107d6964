"""The interface of a placing sink: it is written before the rows, which then name what it has placed.

The media sink is one: a file is copied first, and its row and documents name the copy.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

from sync_pipeline.db.keys import Key
from sync_pipeline.errors import MediaDelayedError
from sync_pipeline.model.rows import Adapted, Reject
from sync_pipeline.sinks.sink import Sink, Stage
from sync_pipeline.stores.breaker import Breaker
from sync_pipeline.stores.stores import Stores


class Reference(NamedTuple):
    """What a row (key text) names: the legacy key of an object, and its key in the new place."""

    key: str
    source: str
    target: str
    sink: str


@dataclass
class Placed:
    """Rows whose objects are in place, what they refer to, and what must wait or was rejected."""

    adapted: Adapted
    references: list[Reference] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)  # key texts
    delayed: dict[str, MediaDelayedError] = field(default_factory=dict)  # of those that wait: what fails, and how
    rejects: list[Reject] = field(default_factory=list)
    copied: int = 0
    copied_bytes: int = 0

    def without(self, texts: set[str]) -> Placed:
        """Return it without rows that wait any longer; what they refer to stays, because it is in place."""
        return replace(self, waiting=[text for text in self.waiting if text not in texts])

    def then(self, later: Placed) -> Placed:
        """Return what two sinks have placed, one after the other."""
        rejects = {reject.key: reject for reject in [*later.rejects, *self.rejects]}
        left = {*later.waiting, *rejects}
        return Placed(
            later.adapted,
            [reference for reference in self.references if reference.key not in left] + later.references,
            sorted({*self.waiting, *later.waiting} - rejects.keys()),
            {text: fault for text, fault in (self.delayed | later.delayed).items() if text not in rejects},
            list(rejects.values()),
            self.copied + later.copied,
            self.copied_bytes + later.copied_bytes,
        )


class PlacingSink(Sink):
    """A sink that places objects which rows name."""

    stage: ClassVar[Stage] = Stage.BEFORE_ROWS

    @property
    @abstractmethod
    def filled(self) -> Sequence[tuple[str, str]]:
        """What it fills columns of adapted rows with, once an object is placed, and the names of these columns.

        The adapter returns none of them. For example: `[("size", "cover_bytes")]`.
        """

    @abstractmethod
    def place_objects(
        self, stores: Stores, key: Key, adapted: Adapted, *, wait: bool, has_tries_left: bool = True
    ) -> Placed:
        """Place what rows name. With `wait`, rows of which something is to be placed are put off instead.

        A row whose object cannot be read now, though others can, is put off too while the caller `has_tries_left`, and
        is rejected then. Raises UnreachableError when a store does not answer, unless the rows may wait.
        """

    @abstractmethod
    def are_placed(self, stores: Stores, key: Key, adapted: Adapted, known: set[str]) -> bool:
        """Return whether rows name objects besides the `known` (legacy keys), and all of these are in place."""

    @abstractmethod
    def identities(self, stores: Stores, names: Sequence[str]) -> dict[str, str]:
        """Return what tells the present content of legacy objects (keys), such as an ETag, of those that are there.

        Raises UnreachableError.
        """

    @abstractmethod
    def breaker(self, stores: Stores) -> Breaker:
        """Return the breaker of its store."""


def placing(sinks: Iterable[Sink]) -> list[PlacingSink]:
    """Return the placing sinks among some."""
    return [sink for sink in sinks if isinstance(sink, PlacingSink)]
