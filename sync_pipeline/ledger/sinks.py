"""Sinks as the ledger knows them: each has a bit of its own in `held`, which says where something of a key may lie.

A bit is given once to the name of an entity's sink, and to no other after it. So a sink that is taken out of an
entity's file and put back finds what it holds, and a new one begins with nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sync_pipeline.db.sql import Cursor, Values
from sync_pipeline.db.statements import statements
from sync_pipeline.errors import DeclarationError

_SQL = statements(__name__)

# of the table that is written in the ledger's transaction
HELD_ROW = 1
_BITS = 15  # of a smallint without its sign
_LOCK = 0x53594E53


class DeclaredSink(NamedTuple):
    """A sink as an entity's file declares it: its name, whether it has a bit, the parts of its recovery, its place."""

    name: str
    has_bit: bool
    parts: Sequence[str]
    place: str  # as messages name it


@dataclass(frozen=True)
class HeldBits:
    """The bits of an entity's sinks by the sinks' names, such as `{"relational": 1, "search": 2}`."""

    bits: Mapping[str, int]

    def __getitem__(self, sink: str) -> int:
        return self.bits[sink]

    @property
    def all(self) -> int:
        """All of them in one number."""
        return sum(self.bits.values())

    def names(self, held: int) -> list[str]:
        """Return the sinks that hold something, in the order of their bits."""
        return [name for name, bit in sorted(self.bits.items(), key=lambda each: each[1]) if held & bit]

    @classmethod
    def in_order(cls, names: Sequence[str]) -> HeldBits:
        """Return bits for sinks that no ledger knows."""
        return cls({name: 1 << n for n, name in enumerate(names)})


class _Known(NamedTuple):
    """A sink as the ledger knows it."""

    name: str
    bit: int | None
    parts: list[str]
    place: str | None
    declared: bool


class Filling(NamedTuple):
    """A sink that lacks rows, and the last key that was queued for it.

    It is not `declared` where a program with another file of the entity has left it out since.
    """

    name: str
    position: list[str] | None
    declared: bool = True


def register(cursor: Cursor, entity: str, table: str, sinks: Sequence[DeclaredSink]) -> HeldBits:
    """Return the bits of an entity's sinks; one that is new is given one, and is to be filled where there are rows.

    The first sink is the table that is written with the ledger; `table` is the ledger's table of keys. Raises
    DeclarationError where no bit is left.
    """
    known = _known(cursor, entity)
    _check_first(entity, sinks[0], known)
    names = {sink.name for sink in sinks}
    if any(_differs(sink, known.get(sink.name)) for sink in sinks) or any(
        sink.declared for name, sink in known.items() if name not in names
    ):
        cursor.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK, entity))
        for sink in sinks:
            known = _known(cursor, entity)
            if _differs(sink, known.get(sink.name)):
                _add(cursor, entity, table, sink, known)
        cursor.execute(_SQL["leave_out"], {"entity": entity, "names": sorted(names)})
        known = _known(cursor, entity)
    return HeldBits({sink.name: int(known[sink.name].bit or 0) for sink in sinks if sink.has_bit})


def _check_first(entity: str, first: DeclaredSink, known: Mapping[str, _Known]) -> None:
    """The bit of rows is the first table's for good: another one in its place would have no rows."""
    owner = next((each.name for each in known.values() if each.bit == HELD_ROW), first.name)
    if owner != first.name:
        raise DeclarationError(
            f"entity {entity}: its first table is {first.name!r} now, and its ledger knows {owner!r} as the one that is"
            " written with it: put that one first, under that label, or give the entity another name"
        )


def _known(cursor: Cursor, entity: str) -> dict[str, _Known]:
    cursor.execute(_SQL["known"], {"entity": entity})
    return {row[0]: _Known(*row) for row in cursor.fetchall()}


def _differs(sink: DeclaredSink, known: _Known | None) -> bool:
    return known is None or (known.parts, known.place, known.declared) != ([*sink.parts], sink.place, True)


def _add(cursor: Cursor, entity: str, table: str, sink: DeclaredSink, known: Mapping[str, _Known]) -> None:
    taken = {each.bit for each in known.values()}
    free = next((1 << n for n in range(_BITS) if 1 << n not in taken), None)
    if sink.has_bit and free is None and sink.name not in known:
        raise DeclarationError(
            f"entity {entity}: its ledger has known {_BITS} sinks and has no bit left for {sink.name!r}: give the"
            " entity another name, and backfill it anew"
        )
    cursor.execute(f"SELECT EXISTS (SELECT FROM {table} WHERE digest IS NOT NULL)")
    values: Values = {
        "entity": entity,
        "name": sink.name,
        "bit": free if sink.has_bit else None,
        "parts": [*sink.parts],
        "place": sink.place,
        # the first table is written with the ledger, and files with their rows
        "has_rows": cursor.fetchone()[0] and sink.has_bit and free != HELD_ROW and not _is_first(sink, known),
    }
    cursor.execute(_SQL["add"], values)


def _is_first(sink: DeclaredSink, known: Mapping[str, _Known]) -> bool:
    return sink.name in known and known[sink.name].bit == HELD_ROW


def filling(cursor: Cursor, entity: str, names: Sequence[str]) -> list[Filling]:
    """Return those of the sinks that lack rows which the ledger holds."""
    cursor.execute(_SQL["filling"], {"entity": entity, "names": list(names)})
    return [Filling(*row) for row in cursor.fetchall()]


def advance(cursor: Cursor, entity: str, sink: Filling, after: list[str] | None) -> bool:
    """Note that keys up to `after` are queued for a sink, or all of them (None); false where another worker did so."""
    values: Values = {"entity": entity, "name": sink.name, "before": sink.position, "after": after}
    cursor.execute(_SQL["advance"], values)
    return bool(cursor.rowcount)


def is_left_out(cursor: Cursor, entity: str, sink: str) -> bool:
    """Return whether no program declares a sink now, as far as the ledger has been told."""
    cursor.execute(_SQL["is_declared"], {"entity": entity, "name": sink})
    found = cursor.fetchone()
    return found is None or not found[0]


def left_behind(cursor: Cursor) -> list[tuple[str, str, str]]:
    """Return (entity, sink, place) of what files of entities declare no longer."""
    cursor.execute(_SQL["left_behind"])
    return list(cursor.fetchall())
