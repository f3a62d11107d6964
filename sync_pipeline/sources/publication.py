"""What the WAL source needs in the monolith: statements that make it, and those that leave no trace."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from sync_pipeline.sources.roots import Tracked, track_all
from sync_pipeline.sources.source import Subject
from sync_pipeline.sources.wal import slot_name
from sync_pipeline.sql import Cursor, bind, quote

# 'f' is the whole row; else the columns of the primary key, or of the index that was chosen
_IDENTITY = """
    SELECT c.relreplident = 'f', coalesce(array_agg(a.attname ORDER BY a.attnum) FILTER (WHERE a.attname IS NOT NULL),
           '{}')::text[]
    FROM pg_class c
    LEFT JOIN pg_index i ON i.indrelid = c.oid
      AND (c.relreplident = 'd' AND i.indisprimary OR c.relreplident = 'i' AND i.indisreplident)
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey)
    WHERE c.oid = %s GROUP BY c.relreplident
"""
_ROLE = """
    SELECT quote_ident(current_user), rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user
"""
_MARK = "made by: sync-pipeline wal install "
_OURS = f"""
    SELECT p.pubname, obj_description(p.oid, 'pg_publication'),
           ARRAY(SELECT r.prrelid::bigint FROM pg_publication_rel r WHERE r.prpubid = p.oid)
    FROM pg_publication p WHERE obj_description(p.oid, 'pg_publication') LIKE '{_MARK}%' ORDER BY 1
"""
_PUBLISHED = """
    SELECT EXISTS (
        SELECT FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
        WHERE p.pubname = %s AND r.prrelid = %s AND r.prqual IS NULL
          AND p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate)
"""


def install(subject: Subject) -> list[str]:
    """Statements for who owns the tables. A deleted row must tell its root: some tables must log whole rows for that.

    The publication's comment keeps what was changed for it. Raises DeclarationError, UnreachableError.
    """
    name = quote(slot_name(subject))
    with subject.stores.legacy() as cursor:
        tracked = track_all(cursor, subject)
        names = {t.oid: t.table.name for t in reversed(tracked)}
        full = {t.oid: names[t.oid] for t in tracked if not _is_told(cursor, t)}
        tables = ", ".join(_published(cursor, oid, name, oid in full) for oid, name in reversed(names.items()))
        cursor.execute(_ROLE)
        role, may = cursor.fetchone()
        made = _Made(() if may else (role,), tuple(full.values()))
        return [
            *(f"ALTER ROLE {role} REPLICATION" for role in made.roles),
            *(f"ALTER TABLE {table} REPLICA IDENTITY FULL" for table in made.full),
            f"CREATE PUBLICATION {name} FOR TABLE {tables} WITH (publish_via_partition_root = true)",
            _comment(cursor, slot_name(subject), made),
        ]


def uninstall(subject: Subject) -> list[str]:
    """Statements that take away publication, slot, and what was changed for them.

    What another of our publications still needs is left to it. Raises UnreachableError.
    """
    name = slot_name(subject)
    with subject.stores.legacy() as cursor:
        cursor.execute(_OURS)
        ours = {other: (_Made.read(comment), set(tables)) for other, comment, tables in cursor.fetchall()}
        made, _ = ours.pop(name, (_Made(), set()))
        left: dict[str, _Made] = {}
        undone = []
        for table in made.full:
            oid = _oid(cursor, table)
            heir = next((other for other, (_, tables) in ours.items() if oid in tables), None)
            if heir:
                left[heir] = left.get(heir, ours[heir][0]).with_full(table)
            else:
                undone.append(f"ALTER TABLE {table} REPLICA IDENTITY DEFAULT")
        for role in made.roles:
            if ours:
                heir = next(iter(ours))
                left[heir] = left.get(heir, ours[heir][0]).with_role(role)
            else:
                undone.append(f"ALTER ROLE {role} NOREPLICATION")
        return [
            f"DROP PUBLICATION IF EXISTS {quote(name)}",
            *(_comment(cursor, heir, made) for heir, made in left.items()),
            *undone,
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            f" WHERE slot_name = {bind(cursor, name)}",
        ]


@dataclass(frozen=True)
class _Made:
    """What was changed in the monolith for a publication: roles that may replicate, tables that log whole rows."""

    roles: tuple[str, ...] = ()
    full: tuple[str, ...] = ()

    @classmethod
    def read(cls, comment: str) -> _Made:
        found = json.loads(comment.removeprefix(_MARK))
        return cls(tuple(found["roles"]), tuple(found["full"]))

    def with_full(self, table: str) -> _Made:
        return replace(self, full=(*self.full, table))

    def with_role(self, role: str) -> _Made:
        return replace(self, roles=(*self.roles, role))


def _comment(cursor: Cursor, name: str, made: _Made) -> str:
    told = _MARK + json.dumps({"roles": made.roles, "full": made.full})
    return f"COMMENT ON PUBLICATION {quote(name)} IS {bind(cursor, told)}"


def unpublished(cursor: Cursor, subject: Subject) -> list[str]:
    """Tables of the entity whose changes its publication leaves out, some or all."""
    found = []
    for tracked in track_all(cursor, subject):
        cursor.execute(_PUBLISHED, (slot_name(subject), tracked.oid))
        if not cursor.fetchone()[0]:
            found.append(tracked.table.name)
    return found


def untold(cursor: Cursor, subject: Subject) -> list[str]:
    """Tables whose deleted rows do not tell their root."""
    tracked = track_all(cursor, subject)
    return [each.table.name for each in tracked if not _is_told(cursor, each)]


def _is_told(cursor: Cursor, tracked: Tracked) -> bool:
    """Whether a deleted row's entry in the log holds the columns that lead to the root."""
    full, columns = _identity(cursor, tracked.oid)
    return full or {*tracked.columns} <= {*columns}


def _published(cursor: Cursor, oid: int, name: str, becomes_full: bool) -> str:
    full, columns = _identity(cursor, oid)
    return name if full or becomes_full else f"{name} ({', '.join(map(quote, columns))})"


def _identity(cursor: Cursor, oid: int) -> tuple[bool, list[str]]:
    cursor.execute(_IDENTITY, (oid,))
    full, columns = cursor.fetchone()
    return bool(full), list(columns)


def _oid(cursor: Cursor, table: str) -> int | None:
    cursor.execute("SELECT to_regclass(%s)::oid", (table,))
    (oid,) = cursor.fetchone()
    return None if oid is None else int(oid)
