"""The interface of an outer sink: a store that is sent what a batch wrote, after the batch has committed.

The ledger owes each operation until the sink has taken it. An outer sink sends, and says what became of what it was
sent; the engine keeps what is owed, tries it again, and parks what is refused.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from sync_pipeline.sinks.context import SinkContext
from sync_pipeline.sinks.operations import Operations, Sent
from sync_pipeline.sinks.sink import Sink
from sync_pipeline.stores.breaker import Breaker
from sync_pipeline.stores.stores import Stores


@dataclass(frozen=True)
class Seen:
    """An object as readers see it: the version that it bears, and its body as the sink's own text."""

    version: int = 0  # 0: the sink keeps none
    body: str = ""


class OuterSink(Sink):
    """A sink that is owed what a batch wrote."""

    # whether a reader's object can be read and put back, which `on_refused="compensate"` needs
    can_restore: ClassVar[bool] = False
    where: str | None  # the boolean column of adapted rows that says which of them it holds; None: all

    @property
    def can_read(self) -> bool:
        """Whether it can be asked what it holds; where not, it is not verifiable, and a verdict does not cover it."""
        return True

    @abstractmethod
    def contents(self, adapted: pa.Table) -> pa.Table:
        """Return what it needs of adapted rows. Raises DeclarationError naming a column that adapt does not return."""

    @abstractmethod
    def send(self, context: SinkContext, operations: Operations) -> Sent:
        """Write and delete objects; a version below the one that the sink holds changes nothing.

        Raises UnreachableError where the store does not answer, which leaves all of them owed. It may have taken some.
        """

    def send_with_shadow(self, context: SinkContext, operations: Operations, shown: Operations, shadow: str) -> Sent:
        """Send `shown` to readers, once all operations are in the `shadow` that a rebuild fills (empty: there is none).

        The positions in what is returned count in `shown`, those of `missed` in `operations`.
        """
        return self.send(context, shown)

    @abstractmethod
    def breaker(self, stores: Stores) -> Breaker:
        """Return the breaker of its store, which the engine enters around `send`."""

    def read(self, context: SinkContext, ids: Sequence[str]) -> Mapping[str, Seen]:
        """Return the objects of these ids (key texts) that readers see now, as far as it can tell.

        Raises UnreachableError.
        """
        return {}

    def delete_foreign(self, context: SinkContext, ids: Sequence[str]) -> None:
        """Delete objects that `compare_rest` found and whose ids are no keys of the entity. Raises UnreachableError."""

    def restore(self, context: SinkContext, former: Mapping[str, tuple[int, str | None]], *, has_shadow: bool) -> None:
        """Put objects back under a version, by id: its body, or None to delete. Raises UnreachableError.

        Only a sink with `can_restore` is asked: the load refuses a saga of compensation over any other.
        """
        raise NotImplementedError


def outer(sinks: Iterable[Sink]) -> list[OuterSink]:
    """Return the outer sinks among some."""
    return [sink for sink in sinks if isinstance(sink, OuterSink)]
