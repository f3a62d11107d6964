"""Takes over what another deployment or entity had, where that one is gone for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sync_pipeline.ledger import claims
from sync_pipeline.sinks.ownership import Mark
from sync_pipeline.stores.stores import Stores

if TYPE_CHECKING:
    from sync_pipeline.entity import Entity


def take_over(stores: Stores, entity: Entity) -> list[Mark]:
    """Mark the places of the entity's sinks as ours, also where they are another ledger's; return what this replaced.

    The places are the entity's from now on, with all that lies there. Raises UnreachableError where a mark cannot be
    read or written.
    """
    with stores.target() as cursor:
        claimed = [
            Mark(sink.place.shown, former)
            for sink in (entity.table, *entity.other_sinks)
            for former in claims.take_over(cursor, entity.name, sink.place)
        ]
    return [mark for sink in entity.other_sinks for mark in sink.take_over(stores, entity.name)] + claimed
