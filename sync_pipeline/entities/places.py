"""Places: what an entity writes to or takes away from, and whether two entities name the same one.

Two entities that name one table both call the other's rows extra, and `repair` deletes them. The same holds for an
index, for a prefix of the new bucket, and for the events of an outbox, which one of the two acknowledges before the
other has read them. So such entities are refused when their files are loaded, with both names and the place's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.table import plain

if TYPE_CHECKING:
    from sync_pipeline.entity import Entity

_PART = re.compile(r'"(?:[^"]|"")+"|[^".]+')
# names of these kinds have parts, separated by a slash
_WITH_PARTS = {"prefix", "outbox"}
_NUMBERED = re.compile(r"(?P<alias>.+)-\d{6}")


@dataclass(frozen=True)
class Place:
    """Something that one entity writes to alone: its kind, its name and, for the message, how the entity says it."""

    kind: str
    name: str
    description: str
    shared: bool = False

    def overlaps(self, other: Place) -> bool:
        """Whether both are the same place, or one lies within the other. Places that both share do not overlap."""
        if self.kind != other.kind or (self.shared and other.shared):
            return False
        return self.name == other.name or self.is_within(other) or other.is_within(self)

    def is_within(self, other: Place) -> bool:
        """Whether this is a part of the other: a prefix within a prefix, or a numbered index of an alias."""
        if self.kind == "index":
            numbered = _NUMBERED.fullmatch(self.name)
            return numbered is not None and numbered["alias"] == other.name
        return self.kind in _WITH_PARTS and self.name.startswith(f"{other.name}/")


def conflicts(entities: Iterable[Entity]) -> Iterator[tuple[str, str, str]]:
    """Each two entities that say the same place: their names, and a sentence that names both and the place."""
    named = [(entity.name, list(places_of(entity))) for entity in entities]
    for (first, ours), (second, theirs) in combinations(named, 2):
        both = next(((one, other) for one in ours for other in theirs if one.overlaps(other)), None)
        if both:
            yield first, second, _refusal(first, both[0], second, both[1])


def places_of(entity: Entity) -> Iterator[Place]:
    """The places that an entity's file names, those of a rebuild included."""
    table = entity.table
    for each in (table, table.shadow, table.former):
        yield Place("table", each.name, f"table {each.name}")
    if entity.index:
        for alias in (entity.index.alias, entity.index.next_alias):
            yield Place("index", alias, f"alias {alias}")
    if entity.media:
        yield Place("prefix", entity.media.prefix, f"prefix {entity.media.prefix}/", entity.media.shared)
    if isinstance(entity.capture, Outbox):
        aggregate = entity.capture.aggregate or entity.name
        description = f"events {aggregate!r} of outbox {entity.capture.table}"
        yield Place("outbox", f"{_outbox(entity.capture.table)} {aggregate}", description)


def _outbox(name: str) -> str:
    """An outbox's name as PostgreSQL reads it; without a schema it is `public`'s, as a rule."""
    parts = [plain(part) for part in _PART.findall(name)]
    return ".".join(["public", *parts] if len(parts) == 1 else parts)


def _refusal(first: str, one: Place, second: str, other: Place) -> str:
    remedy = {
        "table": "give one of them another RelationalTable",
        "index": "give one of them another alias in its SearchIndex",
        "outbox": "give one of them another Outbox(aggregate=…), which its events bear",
        "prefix": "give one of them another prefix, or say MediaBucket(…, shared=True) in both: then one copy of a"
        " file serves both",
    }[one.kind]
    if one.description == other.description:
        return f"entities {first} and {second} both name {one.description}: {remedy}"
    how = "which are the same" if one.name == other.name else "one of which lies in the other"
    return f"entity {first} names {one.description} and entity {second} names {other.description}, {how}: {remedy}"
