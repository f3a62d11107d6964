"""How much each sink of an entity holds now, counted where that is cheap and estimated where it is not."""

from __future__ import annotations

from sync_pipeline.entity import Entity
from sync_pipeline.sinks.sink import SinkSize
from sync_pipeline.stores.stores import Stores


def sink_sizes(stores: Stores, entity: Entity) -> dict[str, SinkSize]:
    """What each sink holds, by its name in a verdict; what is not made yet is absent. Raises UnreachableError."""
    found = {sink.id: sink.measure(stores) for sink in entity.sinks}
    return {name: size for name, size in found.items() if size}
