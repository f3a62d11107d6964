"""From the log's messages to the keys of changed rows, so that no change vanishes.

A change of an unknown table, or one that lacks what leads to its root, is reported as a doubt: the source then stops,
or asks for a sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import orjson

from sync_pipeline.sources.pgoutput import Change, Relation
from sync_pipeline.sources.replica_identity import Member
from sync_pipeline.sources.roots import Tracked
from sync_pipeline.sources.table import Literal

# by the place in the entity's tables, the keys of changed rows as texts
Changed = dict[int, set[str]]
Doubt = Callable[[str], None]


@dataclass(frozen=True)
class _Way:
    """Where a table's rows have each part of a tracked key: its place in the row, or the literal for all rows.

    `required` are the places that are never NULL, with their columns; `needed` are all that are read of a row.
    """

    number: int
    places: tuple[int | bytes, ...]
    required: Mapping[int, str]
    needed: frozenset[int]


class KeyReader:
    """Reads the keys of changed rows. `members` are the tables of the entity's trees, and may be set anew."""

    def __init__(self, tracked: Sequence[Tracked], members: Callable[[int], Member | None], doubt: Doubt) -> None:
        self._tracked = tracked
        self._member = members
        self._doubt = doubt
        self._names: dict[int, str] = {}
        self._ways: dict[int, list[_Way]] = {}
        self._padded: dict[int, frozenset[int]] = {}

    def learn(self, relation: Relation) -> None:
        """Note how a table's rows are sent. A partition is announced beside its root, with an identity of its own."""
        self._names[relation.oid] = relation.name
        self._padded[relation.oid] = relation.padded
        self._ways.pop(relation.oid, None)
        member = self._member(relation.oid)
        if member is None:
            return
        ways = [(n, tracked) for n, tracked in enumerate(self._tracked) if tracked.oid == member.root]
        self._ways[relation.oid] = [way for n, tracked in ways if (way := self._way(n, tracked, relation, member))]

    def note(self, change: Change, changed: Changed) -> None:
        """Add the keys of a change."""
        ways = self._ways.get(change.oid)
        if ways is None:
            name = self._names.get(change.oid, f"oid {change.oid}")
            self._doubt(f"the log tells of {name}, which is none of the entity's tables")
            return
        padded = self._padded[change.oid]
        for way in ways:
            noted = changed.setdefault(way.number, set())
            for row in change.rows(way.needed):
                values = [_value(row, at, padded) if isinstance(at, int) else at for at in way.places]
                if None not in values:
                    noted.add(_text([value.decode() for value in values if value is not None]))
                elif lacking := [column for at, column in way.required.items() if row[at] is None]:
                    self._doubt(f"the log lacks {', '.join(lacking)} of a row of {self._names[change.oid]}")

    def _way(self, number: int, tracked: Tracked, relation: Relation, member: Member) -> _Way | None:
        unsent = [name for name in tracked.columns if name not in relation.columns]
        unlogged = [name for name in tracked.columns if name not in relation.identity]
        if unsent or unlogged:
            self._doubt(
                f"the log does not tell {', '.join(unsent or unlogged)} of a deleted row of {relation.name}"
                " (REPLICA IDENTITY, or a column list)"
            )
        if unsent:
            return None
        places = tuple(
            str(part.value).encode() if isinstance(part, Literal) else relation.columns.index(part)
            for part in tracked.parts
        )
        required = {relation.columns.index(name): name for name in tracked.columns if name in member.required}
        needed = frozenset(at for at in places if isinstance(at, int)) | required.keys()
        return _Way(number, places, required, needed)


def _value(row: Mapping[int, bytes | None], at: int, padded: frozenset[int]) -> bytes | None:
    value = row[at]
    return value.rstrip(b" ") if value is not None and at in padded else value


def _text(values: list[str]) -> str:
    """As Key.texts writes it."""
    return values[0] if len(values) == 1 else orjson.dumps(values).decode()
