"""Whether two entities name the same place.

Two entities that name one table both call the other's rows extra, and `repair` deletes them. The same holds for an
index, for a prefix of the new bucket, and for the events of an outbox, which one of the two acknowledges before the
other has read them. So such entities are refused when their files are loaded, with both names and the place's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import TYPE_CHECKING

from sync_pipeline.model.places import Place
from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.table import plain

if TYPE_CHECKING:
    from sync_pipeline.entity import Entity

_PART = re.compile(r'"(?:[^"]|"")+"|[^".]+')


def conflicts(entities: Iterable[Entity]) -> Iterator[tuple[str, str, str]]:
    """Each two entities that say the same place: their names, and a sentence that names both and the place."""
    named = [(entity.name, list(places_of(entity))) for entity in entities]
    for (first, ours), (second, theirs) in combinations(named, 2):
        both = next(((one, other) for one in ours for other in theirs if one.overlaps(other)), None)
        if both:
            yield first, second, _refusal(first, both[0], second, both[1])


def places_of(entity: Entity) -> Iterator[Place]:
    """The places that an entity's file names, those of a rebuild included."""
    for sink in entity.sinks:
        yield from sink.places
    if isinstance(entity.capture, Outbox):
        aggregate = entity.capture.aggregate or entity.name
        yield Place(
            "outbox",
            f"{_outbox(entity.capture.table)} {aggregate}",
            "give one of them another Outbox(aggregate=…), which its events bear",
            description=f"events {aggregate!r} of outbox {entity.capture.table}",
        )


def _outbox(name: str) -> str:
    """An outbox's name as PostgreSQL reads it; without a schema it is `public`'s, as a rule."""
    parts = [plain(part) for part in _PART.findall(name)]
    return ".".join(["public", *parts] if len(parts) == 1 else parts)


def _refusal(first: str, one: Place, second: str, other: Place) -> str:
    if one.shown == other.shown:
        return f"entities {first} and {second} both name {one.shown}: {one.remedy}"
    how = "which are the same" if one.name == other.name else "one of which lies in the other"
    return f"entity {first} names {one.shown} and entity {second} names {other.shown}, {how}: {one.remedy}"
