"""What keeps a table from being put in the place of another one, told before anything is filled."""

from __future__ import annotations

from collections.abc import Iterator

from sync_pipeline.db.sql import Cursor, named, quote
from sync_pipeline.sinks.table import RelationalTable

_LONGEST = 63
_STANDING = """
    SELECT relname, relowner::regrole::text AS owner, pg_has_role(relowner, 'USAGE') AS ours, current_user AS us,
        relkind IN ('r', 'p') AND NOT relispartition
            AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = c.oid OR inhparent = c.oid AND relkind = 'r')
            AS on_its_own,
        relrowsecurity::text || relforcerowsecurity AS security, relreplident::text AS identity, relpersistence
    FROM pg_class c WHERE oid = to_regclass(%(relation)s)
"""
_COLUMNS = """
    SELECT attname, attnotnull AND NOT atthasdef AND attidentity = '' AS required, attgenerated <> '' AS generated
    FROM pg_attribute WHERE attrelid = %(relation)s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_UNIQUE = """
    SELECT EXISTS (SELECT FROM pg_index i WHERE indrelid = %(relation)s::regclass AND indisunique AND indpred IS NULL
        AND indisvalid AND indexprs IS NULL AND (SELECT array_agg(attname::text ORDER BY attname) FROM pg_attribute a
            WHERE attrelid = indrelid AND attnum = ANY (indkey[:indnkeyatts - 1]::int2[])) = %(key)s) AS there
"""
# what the live table has and its shadow table lacks: by what it is called, and what to do
_LACKING = """
    SELECT 'trigger ' || tgname AS what, 'make it there, or drop it here' AS remedy FROM pg_trigger t
    WHERE tgrelid = %(live)s::regclass AND NOT tgisinternal AND NOT EXISTS
        (SELECT FROM pg_trigger n WHERE (n.tgrelid, n.tgname) = (%(next)s::regclass, t.tgname))
    UNION ALL SELECT 'policy ' || polname, 'make it there, or drop it here' FROM pg_policy p
    WHERE polrelid = %(live)s::regclass AND NOT EXISTS
        (SELECT FROM pg_policy n WHERE (n.polrelid, n.polname) = (%(next)s::regclass, p.polname))
    UNION ALL SELECT 'a place in publication ' || pubname,
        format('ALTER PUBLICATION %%I ADD TABLE %%s;', pubname, %(next)s)
    FROM pg_publication_rel l JOIN pg_publication p ON p.oid = prpubid
    WHERE prrelid = %(live)s::regclass AND NOT EXISTS
        (SELECT FROM pg_publication_rel n WHERE (n.prrelid, n.prpubid) = (%(next)s::regclass, l.prpubid))
    ORDER BY 1
"""
_FOREIGN_KEYS = """
    SELECT 'foreign key ' || conname AS what, format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s;', %(next)s, conname,
        pg_get_constraintdef(oid)) AS remedy
    FROM pg_constraint c WHERE conrelid = %(live)s::regclass AND confrelid <> conrelid AND contype = 'f'
        AND conparentid = 0 AND NOT EXISTS
        (SELECT FROM pg_constraint n WHERE (n.conrelid, n.contype, n.confrelid) = (%(next)s::regclass, 'f', c.confrelid)
            AND (SELECT array_agg(attname ORDER BY attname) FROM pg_attribute WHERE attrelid = n.conrelid
                AND attnum = ANY (n.conkey)) = (SELECT array_agg(attname ORDER BY attname) FROM pg_attribute
                WHERE attrelid = c.conrelid AND attnum = ANY (c.conkey)))
    ORDER BY 1
"""
# what stays with the live table by its identity, and cannot be made again in a moment
_BOUND = """
    SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid) AS what, 'drop it, and make it again after the'
        ' swap' AS remedy
    FROM pg_depend d LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
        LEFT JOIN pg_class v ON v.oid = r.ev_class
    WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = %(live)s::regclass AND (d.classid = 'pg_proc'::regclass
        OR d.classid = 'pg_policy'::regclass AND NOT EXISTS (SELECT FROM pg_policy p
            WHERE p.oid = d.objid AND p.polrelid = d.refobjid)
        OR v.relkind = 'm' OR (v.oid = d.refobjid AND r.rulename <> '_RETURN'))
    UNION SELECT format('column default of %%s: %%s', %(next)s, pg_get_expr(a.adbin, a.adrelid)),
        format('ALTER SEQUENCE %%s OWNED BY NONE;', s.objid::regclass)
    FROM pg_attrdef a JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid
        AND d.refclassid = 'pg_class'::regclass JOIN pg_depend s ON s.classid = d.refclassid AND s.objid = d.refobjid
        AND s.refobjid = %(live)s::regclass AND s.deptype = 'a'
    WHERE a.adrelid = %(next)s::regclass
    UNION SELECT format('foreign key %%s of %%s', conname, %(next)s), format('have it refer to %%s', %(next)s)
    FROM pg_constraint WHERE conrelid = %(next)s::regclass AND confrelid = %(live)s::regclass
    ORDER BY 1
"""


def obstacles(cursor: Cursor, table: RelationalTable) -> Iterator[str]:
    """Yields what keeps the shadow table from taking the place of a table, each with its remedy. Changes nothing."""
    if len(table.former.name.partition(".")[2]) > _LONGEST:
        yield f"{table.former.name} would be too long a name"
        return
    cursor.execute("SET LOCAL search_path = pg_catalog")
    relations = {"live": table.quoted, "next": table.shadow.quoted}
    (live,), shadow = (named(cursor, _STANDING, {"relation": relation}) for relation in relations.values())
    if not shadow:
        yield f"{table.shadow.name} is not there: make it by a migration of yours, or say --like"
        return
    foreign = list(_differences(table, live, shadow[0]))
    if foreign:
        yield from foreign
        return
    yield from _columns(cursor, table)
    cursor.execute(f"SELECT EXISTS (SELECT FROM {table.shadow.quoted})")
    if cursor.fetchone()[0]:
        yield f"{table.shadow.name} holds rows: TRUNCATE {table.shadow.quoted};"
    cursor.execute("SELECT to_regclass(%s)", (table.former.quoted,))
    if cursor.fetchone()[0]:
        yield f"{table.former.name} is there from the rebuild before: sync-pipeline rebuild clear"
    for row in [*named(cursor, _LACKING, relations), *named(cursor, _FOREIGN_KEYS, relations)]:
        yield f"{table.shadow.name} lacks {row['what']} of {table.name}: {row['remedy']}"
    for row in named(cursor, _BOUND, relations):
        yield f"{row['what']} would stay with the former table: {row['remedy']}"


def foreign_keys(cursor: Cursor, table: RelationalTable) -> list[str]:
    """Statements that give the shadow table the foreign keys of the live table that it lacks."""
    cursor.execute("SET LOCAL search_path = pg_catalog")
    relations = {"live": table.quoted, "next": table.shadow.quoted}
    return [str(row["remedy"]) for row in named(cursor, _FOREIGN_KEYS, relations)]


def _differences(table: RelationalTable, live: dict[str, object], shadow: dict[str, object]) -> Iterator[str]:
    for name, found in ((table.name, live), (table.shadow.name, shadow)):
        if not found["ours"]:
            yield f"{name} belongs to {found['owner']}, who alone renames it: GRANT {found['owner']} TO {live['us']};"
        if not found["on_its_own"]:
            yield f"{name} is a part of another table, or has children: only a table of its own can be swapped"
    if live["owner"] != shadow["owner"]:
        yield (
            f"{table.shadow.name} belongs to {shadow['owner']}:"
            f" ALTER TABLE {table.shadow.quoted} OWNER TO {live['owner']};"
        )
    for what in ("security", "identity", "relpersistence"):
        if live[what] != shadow[what]:
            setting = {"security": "row security", "identity": "replica identity", "relpersistence": "UNLOGGED"}[what]
            yield f"{table.shadow.name} differs from {table.name} in {setting}: ALTER TABLE one of them"


def _columns(cursor: Cursor, table: RelationalTable) -> Iterator[str]:
    columns = {}
    for each in (table, table.shadow):
        found = {row["attname"]: row for row in named(cursor, _COLUMNS, {"relation": each.quoted})}
        for name, column in found.items():
            if column["required"] and name not in table.columns:
                yield (
                    f"{each.name}.{name} must be given a value, and is not declared:"
                    f" ALTER TABLE {each.quoted} ALTER COLUMN {quote(name)} DROP NOT NULL;"
                )
        columns[each.name] = found
    live, shadow = columns.values()
    for name in table.columns:
        if name not in shadow:
            yield f"{table.shadow.name} has no column {name}, which is declared: add it there"
    for name in live.keys() & shadow.keys() - table.columns.keys():
        if not shadow[name]["generated"]:
            yield f"{table.name}.{name} is not declared: its values would not go over; declare it, or drop it from one"
    values = {"relation": table.shadow.quoted, "key": sorted(table.identity)}
    if not named(cursor, _UNIQUE, values)[0]["there"]:
        yield (
            f"{table.shadow.name} has no unique index on its key ({', '.join(table.identity)}):"
            f" ALTER TABLE {table.shadow.quoted} ADD PRIMARY KEY ({', '.join(map(quote, table.identity))});"
        )
