"""What a sink is given to work on the objects of an entity."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from sync_pipeline.db.keys import Key
from sync_pipeline.db.sql import Cursor
from sync_pipeline.ledger.ledger import Ledger
from sync_pipeline.ledger.sinks import HeldBits
from sync_pipeline.stores.stores import Stores


@dataclass(frozen=True)
class SinkContext:
    """An entity as its sinks see it.

    `table` is the name, quoted, of the table that is written with the ledger: the types of its columns say which texts
    are one value. `bits` say by a sink's name which bit of `held` is its own.
    """

    entity: str
    key: Key
    stores: Stores
    ledger: Ledger
    table: str
    bits: HeldBits


@dataclass(frozen=True)
class Span:
    """Keys that are compared at once: all of a range of a page, or chosen ones.

    Where it is a range, `asked` are the keys that were read of it, `after` (exclusive) and `until` (inclusive) its
    ends, of which None is open.
    """

    asked: pa.Table
    is_range: bool = False
    after: list[str] | None = None
    until: list[str] | None = None

    def within(self, cursor: Cursor, alias: str, key: Key) -> str:
        """SQL: whether a row's key lies in the span."""
        if not self.is_range:
            return key.is_in(cursor, alias, self.asked)
        return f"{key.after(cursor, alias, self.after)} AND {key.until(cursor, alias, self.until)}"
