"""Messages of PostgreSQL's output plugin pgoutput, as far as keys are concerned.

Layout: "Logical Replication Message Formats" of the PostgreSQL manual, protocol version 1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_RELATION, _BEGIN, _COMMIT, _INSERT, _UPDATE, _DELETE, _TRUNCATE = b"RBCIUDT"
_NEW, _OLD, _OLD_KEY = b"NOK"
_NULL, _UNCHANGED, _TEXT = b"nut"
_IDENTITY = 1
_BPCHAR = 1042


@dataclass(frozen=True)
class Relation:
    """A published table as the stream announces it: its oid, name, columns, and those of its replica identity.

    `padded` are columns (by place) of type char(n), whose values come filled up with spaces that do not count.
    """

    oid: int
    columns: tuple[str, ...]
    identity: frozenset[str]
    padded: frozenset[int] = frozenset()
    name: str = ""


@dataclass(frozen=True)
class Begin:
    """A transaction follows; all of it is committed. `xid` has 32 bits, `commit` is the position of its commit."""

    xid: int
    commit: int = 0


@dataclass(frozen=True)
class Commit:
    """The transaction is complete; `end` is the position after it."""

    end: int


@dataclass(frozen=True)
class Change:
    """Rows of a table before and after a change, each as its columns' texts; None is NULL, or was not sent."""

    oid: int
    rows: tuple[Sequence[bytes | None], ...]


@dataclass(frozen=True)
class Truncate:
    """Tables were emptied."""

    oids: tuple[int, ...]


Message = Relation | Begin | Commit | Change | Truncate


def parse(message: bytes) -> Message | None:
    """One message; None for kinds that say nothing of rows."""
    kind = message[0]
    if kind in {_INSERT, _UPDATE, _DELETE}:
        return Change(struct.unpack_from("!I", message, 1)[0], tuple(_tuples(message, 5)))
    if kind == _BEGIN:
        return Begin(struct.unpack_from("!I", message, 17)[0], struct.unpack_from("!Q", message, 1)[0])
    if kind == _COMMIT:
        return Commit(struct.unpack_from("!Q", message, 10)[0])
    if kind == _RELATION:
        return _relation(message)
    if kind == _TRUNCATE:
        (count,) = struct.unpack_from("!I", message, 1)
        return Truncate(struct.unpack_from(f"!{count}I", message, 6))
    return None


def _tuples(message: bytes, at: int) -> Iterator[list[bytes | None]]:
    """The old row, or its key, and the new one: those that were sent.

    A long value that did not change is left out of the new row, and is taken from the old one where that was sent.
    """
    before: list[bytes | None] = []
    while at < len(message):
        assert message[at] in {_NEW, _OLD, _OLD_KEY}
        (count,) = struct.unpack_from("!H", message, at + 1)
        at += 3
        values: list[bytes | None] = []
        for place in range(count):
            kind = message[at]
            at += 1
            if kind in {_NULL, _UNCHANGED}:
                values.append(before[place] if kind == _UNCHANGED and before else None)
                continue
            assert kind == _TEXT
            end = at + 4 + struct.unpack_from("!I", message, at)[0]
            values.append(message[at + 4 : end])
            at = end
        yield values
        before = values


def _relation(message: bytes) -> Relation:
    (oid,) = struct.unpack_from("!I", message, 1)
    schema_end = message.index(b"\0", 5)
    name_end = message.index(b"\0", schema_end + 1)
    name = f"{message[5:schema_end].decode() or 'pg_catalog'}.{message[schema_end + 1 : name_end].decode()}"
    at = name_end + 2  # past the identity's kind
    (count,) = struct.unpack_from("!H", message, at)
    at += 2
    columns, identity, padded = [], set(), set()
    for place in range(count):
        end = message.index(b"\0", at + 1)
        column = message[at + 1 : end].decode()
        columns.append(column)
        if message[at] & _IDENTITY:
            identity.add(column)
        if struct.unpack_from("!I", message, end + 1)[0] == _BPCHAR:
            padded.add(place)
        at = end + 9  # past type and modifier
    return Relation(oid, tuple(columns), frozenset(identity), frozenset(padded), name)
