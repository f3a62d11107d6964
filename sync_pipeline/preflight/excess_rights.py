"""Rights that our role has in the monolith and does not need: from whom it has them, and the statement that ends them.

What every role may do (PUBLIC) is no fault of ours, and to revoke it would break others: it is told, and no warning.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from sync_pipeline.db.sql import Cursor
from sync_pipeline.model.notices import Notice

_SHOWN = 5
_PUBLIC = "PUBLIC"
_WRITES = "'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE'"
# by grantee: our role itself, a role that it is a member of, or PUBLIC
_GRANTEE = """
    CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
"""
_OURS = "(a.grantee = 0 OR pg_has_role(current_user, a.grantee, 'USAGE'))"
_TABLES = f"""
    SELECT {_GRANTEE}, c.oid::regclass::text, array_agg(DISTINCT a.privilege_type ORDER BY a.privilege_type)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
        LATERAL (SELECT * FROM aclexplode(coalesce(c.relacl, acldefault('r', c.relowner)))
            UNION ALL SELECT x.* FROM pg_attribute t, aclexplode(t.attacl) x WHERE t.attrelid = c.oid) a
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
      AND has_schema_privilege(n.oid, 'USAGE') AND a.privilege_type IN ({_WRITES}) AND {_OURS}
    GROUP BY 1, 2
    UNION ALL SELECT 'pg_write_all_data', 'all tables', ARRAY[{_WRITES}]
    WHERE pg_has_role(current_user, 'pg_write_all_data', 'USAGE')
    ORDER BY 1, 2
"""
_SCHEMAS = f"""
    SELECT {_GRANTEE}, quote_ident(n.nspname)
    FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
    WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND a.privilege_type = 'CREATE' AND {_OURS}
    ORDER BY 1, 2
"""


@dataclass(frozen=True)
class _Right:
    grantee: str
    name: str
    kinds: tuple[str, ...]


def check_excess_rights(cursor: Cursor, about: str, role: str, acknowledged: Collection[str]) -> Iterator[Notice]:
    """Name what our role may write; `acknowledged` are outboxes, in which it must UPDATE and DELETE."""
    cursor.execute(_TABLES)
    found = [_Right(grantee, name, tuple(kinds)) for grantee, name, kinds in cursor.fetchall()]
    tables = [right for right in found if right.name not in acknowledged]
    # of an outbox it must UPDATE and DELETE; a REVOKE of those takes rights on columns away, too
    spoiled = [right for right in found if right.name in acknowledged and {"INSERT", "TRUNCATE"} & {*right.kinds}]
    cursor.execute(_SCHEMAS)
    schemas = [_Right(grantee, name, ("CREATE",)) for grantee, name in cursor.fetchall()]
    notices = [
        *_notices(about, role, tables, "may write to {}; SELECT is enough", "INSERT, UPDATE, DELETE, TRUNCATE ON {}"),
        *_notices(
            about,
            role,
            spoiled,
            "may INSERT into or TRUNCATE {}; UPDATE and DELETE are enough for an outbox",
            "INSERT, TRUNCATE ON {}",
        ),
        *_notices(about, role, schemas, "may create objects in {}; SELECT is enough", "CREATE ON SCHEMA {}"),
    ]
    yield from notices
    if not any(notice.level == "warning" for notice in notices):
        more = " but to outboxes" if acknowledged else ""
        more += ", but for what every role may" if notices else ""
        yield Notice("ok", about, f"{role} may write nowhere{more}")


def _notices(about: str, role: str, rights: list[_Right], what: str, revoked: str) -> Iterator[Notice]:
    for grantee in dict.fromkeys(right.grantee for right in rights):
        names = list(dict.fromkeys(right.name for right in rights if right.grantee == grantee))
        message = f"{role} {what.format(_some(names))}"
        if grantee == _PUBLIC:
            yield Notice("ok", about, f"{message.partition(';')[0]}, as every role may (PUBLIC)")
        elif grantee == role:
            yield Notice("warning", about, message, f"REVOKE {revoked.format(', '.join(names))} FROM {role};")
        else:
            yield Notice("warning", about, f"{message} (by {grantee})", f"REVOKE {grantee} FROM {role};")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
