"""Messages of PostgreSQL's output plugin pgoutput, as far as keys are concerned.

Layout: "Logical Replication Message Formats" of the PostgreSQL manual, protocol version 1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_RELATION, _BEGIN, _COMMIT, _INSERT, _UPDATE, _DELETE, _TRUNCATE = b"RBCIUDT"
_NEW, _OLD, _OLD_KEY = b"NOK"
_NULL, _UNCHANGED, _TEXT = b"nut"
_IDENTITY = 1
_BPCHAR = 1042
_FIRST_ROW = 5  # after the message's kind and the table's oid


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
    """A change of a table's row. The message holds the row before, or its key, and the row after: what was sent."""

    oid: int
    message: bytes

    def rows(self, places: frozenset[int]) -> Iterator[Mapping[int, bytes | None]]:
        """Yields each row that was sent, as the texts of the columns at `places`; None is NULL, or was not sent.

        Other columns are passed over unread, because the log sends whole rows and few columns are of the key. A long
        value that did not change is left out of the new row, and is taken from the old one where that was sent.
        """
        message, at = self.message, _FIRST_ROW
        last = max(places, default=-1)
        before: Mapping[int, bytes | None] = {}
        while at < len(message):
            is_new = message[at] == _NEW
            assert is_new or message[at] in {_OLD, _OLD_KEY}
            count = int.from_bytes(message[at + 1 : at + 3])
            values: dict[int, bytes | None] = {}
            at += 3
            for place in range(min(count, last + 1) if is_new else count):  # nothing follows the new row
                kind, start = message[at], at + 1
                if kind == _TEXT:
                    start = at + 5
                    at = start + int.from_bytes(message[at + 1 : start])
                else:
                    assert kind in {_NULL, _UNCHANGED}
                    at = start
                if place in places:
                    unsent = before.get(place) if kind == _UNCHANGED else None
                    values[place] = message[start:at] if kind == _TEXT else unsent
            yield values
            if is_new:
                return
            before = values


@dataclass(frozen=True)
class Truncate:
    """Tables were emptied."""

    oids: tuple[int, ...]


Message = Relation | Begin | Commit | Change | Truncate


def parse(message: bytes) -> Message | None:
    """One message; None for kinds that say nothing of rows."""
    kind = message[0]
    if kind in {_INSERT, _UPDATE, _DELETE}:
        return Change(struct.unpack_from("!I", message, 1)[0], message)
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
