"""An entity as a new side has it: beside another side's indices and files, under names of its own."""

import os
from dataclasses import replace

from sync_pipeline.entity import Entity, Sink
from sync_pipeline.sinks.media import MediaBucket
from sync_pipeline.sinks.search import SearchIndex


def on_side(entity: Entity, side: str = "") -> Entity:
    """The entity with the aliases and prefixes of a side; by default the one that TEST_SIDE names."""
    name = side or os.environ["TEST_SIDE"]
    return replace(entity, sinks=tuple(_renamed(sink, name) for sink in entity.sinks))


def alias(side: str, entity: str) -> str:
    """The alias of an entity's documents."""
    return f"{side}_{entity}"


def _renamed(sink: Sink, side: str) -> Sink:
    match sink:
        case SearchIndex():
            return replace(sink, alias=alias(side, sink.alias))
        case MediaBucket():
            return replace(sink, prefix=f"{side}/{sink.prefix}")
    return sink
