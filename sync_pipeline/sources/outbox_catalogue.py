"""What the monolith's catalogue holds of our outbox triggers: functions, their marks and triggers, and tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from sync_pipeline.db.sql import Cursor
from sync_pipeline.sources.table import Table

MADE_BY = "made by: sync-pipeline outbox install"
_NAME_BYTES = 63
# the bit of pg_trigger.tgtype: a trigger AFTER a statement has no other one
ACTS = {"insert": 4, "update": 16, "delete": 8, "truncate": 32}
# comments and bodies of versions that kept no mark
_UNMARKED = re.compile(r"\(fills (.*)\)$")
_AGGREGATE = re.compile(r"VALUES \('((?:[^']|'')*)', '\*'")
_FUNCTIONS = f"""
    SELECT format('%%I.%%I', n.nspname, p.proname), d.description, p.prosrc, coalesce((
        SELECT json_agg(json_build_array(t.tgrelid::bigint, format('%%I.%%I', s.nspname, c.relname),
                                         quote_ident(t.tgname), t.tgtype,
                                         t.tgenabled IN ('O', 'A') AND t.tgqual IS NULL) ORDER BY c.oid, t.tgtype)
        FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace s ON s.oid = c.relnamespace
        WHERE t.tgfoid = p.oid), '[]')
    FROM pg_description d JOIN pg_proc p ON p.oid = d.objoid JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE d.classoid = 'pg_proc'::regclass AND d.objsubid = 0 AND d.description LIKE '{MADE_BY}%%' ORDER BY 1
"""
# every table whose statements may change rows of these: themselves, all below them, and those above them
MEMBERS = """
    down (root, member) AS (
        SELECT r, r FROM roots
        UNION SELECT d.root, i.inhrelid FROM down d JOIN pg_inherits i ON i.inhparent = d.member),
    up (root, member) AS (
        SELECT r, r FROM roots
        UNION SELECT u.root, i.inhparent FROM up u JOIN pg_inherits i ON i.inhrelid = u.member),
    members AS (SELECT * FROM down UNION SELECT * FROM up)
"""
_MEMBERS = f"""
    WITH RECURSIVE roots (r) AS (SELECT %s::oid), {MEMBERS}
    SELECT m.member::bigint, format('%%I.%%I', n.nspname, c.relname), quote_ident(n.nspname), c.relkind::text,
           ARRAY(SELECT a.attname::text FROM pg_attribute a
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
    FROM members m JOIN pg_class c ON c.oid = m.member JOIN pg_namespace n ON n.oid = c.relnamespace
    ORDER BY m.member <> m.root, 2
"""
# one as it is there; else where it will be made
_OUTBOX = """
    SELECT coalesce((SELECT format('%%I.%%I', n.nspname, c.relname) FROM pg_class c
                     JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(%(name)s)),
                    CASE WHEN %(name)s LIKE '%%.%%' THEN %(name)s
                         ELSE quote_ident(current_schema()) || '.' || %(name)s END),
           to_regclass(%(name)s) IS NOT NULL
"""


@dataclass(frozen=True)
class Events:
    """Which events are an entity's: the outbox as it is declared, and the aggregate_type of the root's."""

    table: str
    aggregate: str

    def of(self, table: Table) -> str:
        """The aggregate_type of events of a table: a joined one's name its own rows, not the root's."""
        return f"{self.aggregate}/{table.name}" if table.join else self.aggregate

    def include(self, aggregate: str) -> bool:
        """Whether an aggregate_type is one of the entity's, whatever tables it is made from."""
        return aggregate == self.aggregate or aggregate.startswith(f"{self.aggregate}/")


@dataclass(frozen=True)
class Mark:
    """The comment of a function of ours: which outbox it fills, under which aggregate_type, for whose ledger."""

    outbox: str
    aggregate: str
    entity: str = ""  # empty: a version made it that kept no marks
    ledger: str | None = None
    granted: tuple[str, ...] = ()  # what our role was granted for it, as `DELETE TO sync_reader`

    def comment(self) -> str:
        """The mark as a comment."""
        return f"{MADE_BY} {json.dumps(vars(self), ensure_ascii=False)}"

    @classmethod
    def read(cls, comment: str, body: str) -> Mark:
        """The mark of a comment; of one that has none, from comment and body."""
        if unmarked := _UNMARKED.search(comment):
            aggregate = _AGGREGATE.search(body)
            return cls(unmarked[1], aggregate[1].replace("''", "'") if aggregate else "")
        found = json.loads(comment.removeprefix(MADE_BY))
        return cls(**{**found, "granted": tuple(found["granted"])})


@dataclass(frozen=True)
class Trigger:
    """A trigger of ours, with its names as SQL has them."""

    oid: int
    table: str
    name: str
    act: str
    enabled: bool


@dataclass(frozen=True)
class Function:
    """A function of ours, with its name as SQL has it, and the triggers that call it."""

    name: str
    mark: Mark
    body: str
    triggers: tuple[Trigger, ...]

    def covers(self, oid: int) -> set[str]:
        """Which of a table's changes it reports."""
        return {trigger.act for trigger in self.triggers if trigger.oid == oid and trigger.enabled}


@dataclass(frozen=True)
class Member:
    """A table whose statements may change rows of a tracked one: itself, a partition, an heir, or what it inherits."""

    oid: int
    name: str
    schema: str
    kind: str
    columns: tuple[str, ...]


def functions(cursor: Cursor) -> list[Function]:
    """Every function of ours in the monolith's database, of any ledger."""
    acts = {bit: act for act, bit in ACTS.items()}
    cursor.execute(_FUNCTIONS, ())
    return [
        Function(
            name,
            Mark.read(comment, body),
            body,
            tuple(Trigger(oid, table, own, acts.get(bits, ""), on) for oid, table, own, bits, on in triggers),
        )
        for name, comment, body, triggers in cursor.fetchall()
    ]


def members(cursor: Cursor, oid: int) -> list[Member]:
    """The table itself first, then its partitions, heirs and parents at any depth."""
    cursor.execute(_MEMBERS, (oid,))
    return [
        Member(found, name, schema, kind, tuple(columns)) for found, name, schema, kind, columns in cursor.fetchall()
    ]


def locate_outbox(cursor: Cursor, name: str) -> tuple[str, bool]:
    """An outbox's name with its schema, and whether it is there."""
    cursor.execute(_OUTBOX, {"name": name})
    located, there = cursor.fetchone()
    return str(located), bool(there)


def is_made_by_us(cursor: Cursor, table: str) -> bool:
    """Whether `outbox install` made the table, so that our triggers alone fill it."""
    cursor.execute("SELECT coalesce(obj_description(to_regclass(%s), 'pg_class') = %s, false)", (table, MADE_BY))
    return bool(cursor.fetchone()[0])


def filling(found: Iterable[Function], *names: str) -> list[Function]:
    """Those that fill an outbox, which goes by any of these names."""
    return [function for function in found if function.mark.outbox in names]


def channel(table: str) -> str:
    """The channel by which events of an outbox are announced."""
    name = "sync_" + "".join(sign if sign.isalnum() else "_" for sign in table.lower())
    return name.encode()[:_NAME_BYTES].decode(errors="ignore")  # a longer one would fail in the monolith
