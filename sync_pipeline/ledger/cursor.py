"""The cursor of one entity: where its live delta stands, and the lease of who follows it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sync_pipeline.db.sql import Cursor
from sync_pipeline.errors import LeaseLostError
from sync_pipeline.ledger import cursor_table
from sync_pipeline.model.positions import SourcePosition, State
from sync_pipeline.stores.sessions import Purpose
from sync_pipeline.stores.stores import Stores


@dataclass(frozen=True)
class Lease:
    """The right to move an entity's cursor; the epoch tells a former holder apart from the present one."""

    entity: str
    owner: str
    epoch: int
    after_loss: bool = False  # whoever held it before did not give it back

    @classmethod
    def take(cls, stores: Stores, entity: str, owner: str) -> Lease | None:
        """The lease, when nobody holds it, its holder has gone quiet, or `owner` could not give it back; else None."""
        with stores.target_at_once(Purpose.LOOK) as cursor:
            found = cursor_table.take_lease(cursor, entity, owner)
        return cls(entity, owner, *found) if found else None

    def renew(self, stores: Stores) -> None:
        """Hold it for longer. Raises LeaseLostError."""
        with stores.target_at_once(Purpose.LOOK) as cursor:
            if not cursor_table.renew_lease(cursor, self.entity, self.epoch):
                raise LeaseLostError(f"entity {self.entity}: another worker follows it now")

    def give_back(self, stores: Stores) -> None:
        """Let another worker take it at once."""
        with stores.target_at_once(Purpose.LOOK) as cursor:
            cursor_table.give_lease_back(cursor, self.entity, self.epoch)

    def move(self, cursor: Cursor, position: SourcePosition) -> None:
        """Move the cursor in the caller's transaction, which ends with LeaseLostError where another one follows."""
        cursor_table.move(cursor, self.entity, self.epoch, position)


def open_at(stores: Stores, entity: str, source: str, position: SourcePosition) -> None:
    """Set where a source begins, unless another worker has meanwhile."""
    with stores.target() as cursor:
        cursor_table.open_at(cursor, entity, source, position)


def reopen_at(stores: Stores, entity: str, source: str, position: SourcePosition, gap_at: dt.datetime) -> None:
    """Go on from a source's beginning; what was committed before `gap_at` may be missing until a sweep has looked."""
    with stores.target() as cursor:
        cursor_table.reopen_at(cursor, entity, source, position, gap_at)


def state_of(stores: Stores, entity: str) -> tuple[str, State] | None:
    """(source, its state) as the last applied poll left it, if there was one."""
    with stores.target() as cursor:
        cursor.execute("SELECT source, state FROM sync.cursor WHERE entity = %s", (entity,))
        found = cursor.fetchone()
    return (found[0], found[1]) if found and found[1] is not None else None
