"""Visibility: what decides which rows the monolith shows us, compared with what a person last accepted.

A view with one more condition, or a policy with fewer rows, looks like so many deleted rows. The server refuses a read
that a policy would filter (`row_security=off`), except where an entity's tables declare `policies="complete"`. What
it cannot refuse is compared here: the definitions of all views that the entity's query reads, however deep, and for
such entities the policies of the tables below and what our role is a member of. A change stops every sweep and
repair, and so every delete that they would find, until a person has accepted it; a reconciliation is *unknown*. For
example, `WHERE status <> 'draft'` added to a
view is named as "view public.articles: its definition has changed".

The relations of a query are those that the server locks for it: views, the tables below them, and those that policies
look at. Bodies of functions are not compared.
"""

from __future__ import annotations

import hashlib
import json

import psycopg2
from psycopg2.extras import Json

from sync_pipeline.db.sql import Cursor
from sync_pipeline.entity import Entity
from sync_pipeline.errors import HiddenRowsError, LegacySchemaError
from sync_pipeline.model.faults import guarded
from sync_pipeline.stores.stores import Stores

# what the server has locked for the statements of this transaction
_READ = """
    read AS (
        SELECT c.oid, c.relkind, c.relowner, c.relrowsecurity, c.relforcerowsecurity, c.reloptions,
            format('%I.%I', n.nspname, c.relname) AS name
        FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND c.oid >= 16384
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    )
"""
_VIEWS = f"""
    WITH {_READ}
    SELECT 'view ' || name, concat_ws(' ', 'owner', pg_get_userbyid(relowner), array_to_string(reloptions, ','),
        pg_get_viewdef(oid)) FROM read WHERE relkind IN ('v', 'm')
"""
_POLICIES = f"""
    WITH {_READ}
    SELECT 'row-level security of ' || r.name, concat_ws('; ',
        CASE WHEN r.relrowsecurity THEN 'enabled' ELSE 'disabled' END,
        CASE WHEN r.relforcerowsecurity THEN 'forced' END, 'owner ' || pg_get_userbyid(r.relowner),
        (SELECT string_agg(concat_ws(' ', p.polname, CASE WHEN p.polpermissive THEN 'permissive' ELSE 'restrictive' END,
            p.polcmd, array(SELECT pg_get_userbyid(role) FROM unnest(p.polroles) role ORDER BY 1)::text,
            pg_get_expr(p.polqual, p.polrelid)), '; ' ORDER BY p.polname)
         FROM pg_policy p WHERE p.polrelid = r.oid))
    FROM read r WHERE r.relkind IN ('r', 'p')
      AND (r.relrowsecurity OR EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = r.oid))
    UNION ALL
    SELECT 'role ' || r.rolname, concat_ws('; ', CASE WHEN r.rolsuper THEN 'superuser' END,
        CASE WHEN r.rolbypassrls THEN 'bypassrls' END,
        'member of ' || (SELECT string_agg(m.rolname, ', ' ORDER BY m.rolname) FROM pg_roles m
            WHERE pg_has_role(r.oid, m.oid, 'MEMBER') AND m.oid <> r.oid))
    FROM pg_roles r WHERE r.rolname = current_user OR r.oid IN (SELECT relowner FROM read WHERE relkind IN ('v', 'm'))
"""


def check_visibility(entity: Entity, stores: Stores, *, record: bool = True) -> None:
    """Compare what decides on visible rows with what was accepted; the first time it is only recorded, by `record`.

    Raises HiddenRowsError naming each change, AccessError where the monolith refuses a read, UnreachableError.
    """
    shown = read_visibility(entity, stores)
    with stores.target() as cursor:
        changes, is_same = _changes(cursor, entity, shown)
        if record and not is_same and not changes:
            _record(cursor, entity, shown, "")
    if changes and guarded(71):
        raise HiddenRowsError(
            f"entity {entity.name}: the monolith may show fewer rows than before: {'; '.join(changes)}."
            f" Nothing is deleted until a person has looked: sync-pipeline visibility {entity.name} --accept"
        )


def accept_visibility(entity: Entity, stores: Stores, by: str) -> None:
    """Record what decides on visible rows as it is now. Raises AccessError, UnreachableError."""
    shown = read_visibility(entity, stores)
    with stores.target() as cursor:
        _record(cursor, entity, shown, by)


def changes_of(entity: Entity, stores: Stores) -> list[str]:
    """What has changed since it was accepted, in sentences. Records nothing. Raises AccessError, UnreachableError."""
    shown = read_visibility(entity, stores)
    with stores.target() as cursor:
        cursor.execute("SELECT to_regclass('sync.visibility') IS NOT NULL")
        return _changes(cursor, entity, shown)[0] if cursor.fetchone()[0] else []


def read_visibility(entity: Entity, stores: Stores) -> dict[str, str]:
    """Definitions of views, and policies and memberships where the entity relies on them, by what they define."""
    queries = [f"SELECT * FROM ({entity.origin.sql}) q", *(f"SELECT FROM {t.name} {t.join}" for t in entity.tables)]
    with stores.of_entity(entity.name, filtered=entity.is_filtered).legacy() as cursor:
        cursor.execute("BEGIN")
        try:
            cursor.execute(";\n".join(f"EXPLAIN {query}" for query in queries))
            cursor.defer("SET LOCAL search_path = pg_catalog")  # definitions then name all schemas, whoever asks
            cursor.execute(_VIEWS)
            found = dict(cursor.fetchall())
            if entity.is_filtered:
                cursor.execute(_POLICIES)
                found |= dict(cursor.fetchall())
        except psycopg2.errors.InsufficientPrivilege:
            raise
        except psycopg2.ProgrammingError as error:
            raise LegacySchemaError(
                f"entity {entity.name}: its query or a table's fails: {str(error).splitlines()[0]}"
            ) from error
        finally:
            cursor.roll_back()
    return found


def _changes(cursor: Cursor, entity: Entity, shown: dict[str, str]) -> tuple[list[str], bool]:
    """(sentences, whether the record is as things are now)."""
    cursor.execute("SELECT declared, shown FROM sync.visibility WHERE entity = %s", (entity.name,))
    found = cursor.fetchone()
    if found is None:
        return [], False
    declared, accepted = found
    sentences = [
        f"{name}: {_kind(name)} changed" for name in sorted(accepted.keys() & shown) if accepted[name] != shown[name]
    ]
    if declared == _declared(entity):  # else the entity's file names other relations than it did
        sentences += [f"{name}: is read now, and was not" for name in sorted(shown.keys() - accepted)]
        sentences += [f"{name}: is no longer read" for name in sorted(accepted.keys() - shown)]
    return sentences, declared == _declared(entity) and accepted == shown


def _kind(name: str) -> str:
    kind = name.partition(" ")[0]
    return {"view": "its definition has", "role": "its rights or memberships have"}.get(kind, "its policies have")


def _record(cursor: Cursor, entity: Entity, shown: dict[str, str], by: str) -> None:
    cursor.execute(
        "INSERT INTO sync.visibility (entity, declared, shown, accepted_by) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (entity) DO UPDATE SET declared = excluded.declared, shown = excluded.shown, accepted_at = now(),"
        " accepted_by = excluded.accepted_by",
        (entity.name, _declared(entity), Json(shown), by),
    )


def _declared(entity: Entity) -> str:
    """A digest of what the entity's file names."""
    tables = [(table.name, table.join, table.policies) for table in entity.tables]
    return hashlib.sha256(json.dumps([entity.origin.sql, tables]).encode()).hexdigest()
