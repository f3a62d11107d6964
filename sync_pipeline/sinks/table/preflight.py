"""A declared table: may our role make or write it, and is what is there as declared?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import psycopg2

from sync_pipeline.db.sql import Cursor, quote
from sync_pipeline.model.notices import Notice

if TYPE_CHECKING:
    from sync_pipeline.sinks.table.declaration import TableDeclaration

ABOUT = "target database"
ROLE = """
    SELECT quote_ident(current_user), current_database(), has_database_privilege(current_database(), 'CREATE'),
           has_database_privilege(current_database(), 'TEMPORARY'), pg_is_in_recovery()
"""
_COLUMNS = """
    SELECT attname, format_type(atttypid, atttypmod), attnotnull, attnotnull AND NOT atthasdef AND attidentity = '',
        CASE WHEN attidentity = 'a' THEN 'identity' WHEN attgenerated <> '' THEN 'generated' ELSE '' END
    FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
"""
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "i": "an index"}
_UNIQUE = """
    SELECT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = %s::regclass AND i.indisunique AND i.indpred IS NULL
        AND i.indisvalid AND i.indimmediate AND i.indexprs IS NULL
        AND (SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_attribute a
            WHERE a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey[:i.indnkeyatts - 1]::int2[])) = %s)
"""
_ORDERED = """
    SELECT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = %s::regclass AND i.indpred IS NULL AND i.indisvalid
        AND (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(i.indkey) WITH ORDINALITY k(attnum, n)
            JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum)[:array_length(%s, 1)] = %s)
"""
Column = tuple[str, bool, bool, str]  # type, NOT NULL, must be given a value, made by the database (how)


def check_table(cursor: Cursor, table: TableDeclaration) -> Iterator[Notice]:
    """What keeps a declared table from being made or written. Changes nothing."""
    cursor.execute(ROLE)
    role, database, may_create, may_stage, _ = cursor.fetchone()
    if not may_stage:  # the check of the database says so
        return
    cursor.execute(
        "SELECT c.oid, c.relkind::text FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = relnamespace WHERE (nspname, relname) = (%s, %s)",
        tuple(table.name.split(".")),
    )
    found = cursor.fetchone()
    try:
        declared = _declared(cursor, table, is_made=found is not None)
    except psycopg2.Error as error:
        what = f"{table.name} cannot be made as declared: {str(error).strip().splitlines()[0]}"
        yield Notice("error", ABOUT, what, "mend the columns of its RelationalTable")
        return
    if found is None:
        yield from _made_by_database(table, declared, is_there=False)
        yield check_schema(cursor, role, database, table.name.split(".")[0], may_create)
        return
    if found[1] not in {"r", "p"}:
        what = f"{table.name} is {_KINDS.get(found[1], 'no table')}: rows are written to a table"
        yield Notice("error", ABOUT, what, "name a table in its RelationalTable")
        return
    found = found[:1]
    cursor.execute(
        "SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p WHERE NOT has_table_privilege(%s, p)",
        found,
    )
    denied = ", ".join(name for (name,) in cursor.fetchall())
    if denied:
        remedy = f"GRANT {denied} ON {table.quoted} TO {role};"
        yield Notice("error", ABOUT, f"{role} lacks {denied} on {table.name}", remedy)
    cursor.execute(_COLUMNS, found)
    differences = list(_differences(table, declared, {row[0]: row[1:] for row in cursor.fetchall()}))
    differences += _keys(cursor, table)
    yield from differences or [Notice("ok", ABOUT, f"{table.name} is as declared")]


def check_schema(cursor: Cursor, role: str, database: str, schema: str, may_create: bool) -> Notice:
    """Whether our role may make tables in a schema, or the schema itself."""
    cursor.execute(
        "SELECT has_schema_privilege(oid, 'USAGE') AND has_schema_privilege(oid, 'CREATE')"
        " FROM pg_namespace WHERE nspname = %s",
        (schema,),
    )
    found = cursor.fetchone()
    if found is None and may_create:
        return Notice("ok", ABOUT, f"schema {schema} will be made")
    if found is None:
        remedy = f"CREATE SCHEMA {quote(schema)} AUTHORIZATION {role};"
        return Notice("error", ABOUT, f"{role} may not make schema {schema} in {database}", remedy)
    if found[0]:
        return Notice("ok", ABOUT, f"{role} may make tables in schema {schema}")
    remedy = f"GRANT USAGE, CREATE ON SCHEMA {quote(schema)} TO {role};"
    return Notice("error", ABOUT, f"{role} may not make tables in schema {schema}", remedy)


def _keys(cursor: Cursor, table: TableDeclaration) -> Iterator[Notice]:
    """The index by which rows are told apart and, where that is another one, the order in which they are compared."""
    columns = ", ".join(map(quote, table.identity))
    cursor.execute(_UNIQUE, (table.quoted, sorted(table.identity)))
    if not cursor.fetchone()[0]:
        indexed = "exactly its primary_key" if table.outer_key else "its key"
        what = f"{table.name} has no unique index on {indexed} ({', '.join(table.identity)})"
        remedy = f"ALTER TABLE {table.quoted} ADD PRIMARY KEY ({columns});"
        if table.outer_key:
            remedy = f"CREATE UNIQUE INDEX ON {table.quoted} ({columns});"
        yield Notice("error", ABOUT, what, remedy)
    elif table.outer_key:
        cursor.execute(_ORDERED, (table.quoted, list(table.key), list(table.key)))
        if not cursor.fetchone()[0]:
            what = f"no index gives the rows of {table.name} in the order of its key: each comparison sorts all of them"
            remedy = f"CREATE INDEX ON {table.quoted} ({', '.join(map(quote, table.key))});"
            yield Notice("warning", ABOUT, what, remedy)


def _declared(cursor: Cursor, table: TableDeclaration, *, is_made: bool) -> dict[str, Column]:
    """The declared columns as PostgreSQL understands them: it is asked, in a table that does not stay."""
    columns = ", ".join(f"{quote(name)} {kind}" for name, kind in table.columns.items())
    cursor.execute("SAVEPOINT declared")
    try:
        cursor.execute(f"CREATE TEMP TABLE declared ({columns})")
        cursor.execute(_COLUMNS, ("pg_temp.declared",))
        found = {row[0]: row[1:] for row in cursor.fetchall()}
        if not is_made:
            cursor.execute(f"ALTER TABLE pg_temp.declared ADD PRIMARY KEY ({', '.join(map(quote, table.identity))})")
        return found
    finally:
        cursor.execute("ROLLBACK TO SAVEPOINT declared")


def _made_by_database(table: TableDeclaration, columns: dict[str, Column], *, is_there: bool) -> Iterator[Notice]:
    """Declared columns whose values the database makes itself: it takes none of ours."""
    for name in table.columns.keys() & columns.keys():
        how = columns[name][3]
        if how == "identity":
            remedy = (
                f"declare it GENERATED BY DEFAULT AS IDENTITY, or without: columns={{{name!r}: {columns[name][0]!r}}}"
            )
            if is_there:
                remedy = f"ALTER TABLE {table.quoted} ALTER COLUMN {quote(name)} SET GENERATED BY DEFAULT;"
            what = f"{table.name}.{name} is GENERATED ALWAYS AS IDENTITY: it takes no value of ours"
            yield Notice("error", ABOUT, what, remedy)
        elif how:
            what = f"{table.name}.{name} is a generated column: it takes no value of ours"
            yield Notice("error", ABOUT, what, "leave it out of the columns of its RelationalTable")


def _differences(table: TableDeclaration, declared: dict[str, Column], there: dict[str, Column]) -> Iterator[Notice]:
    alter = f"ALTER TABLE {table.quoted}"
    yield from _made_by_database(table, there, is_there=True)
    for name, (kind, required, *_) in declared.items():
        if name not in there:
            remedy = f"{alter} ADD COLUMN {quote(name)} {table.columns[name]};"
            yield Notice("error", ABOUT, f"{table.name} has no column {name}", remedy)
        elif there[name][0] != kind:
            what = f"{table.name}.{name} is {there[name][0]}, declared is {kind}"
            yield Notice("error", ABOUT, what, f"{alter} ALTER COLUMN {quote(name)} TYPE {kind};")
        elif there[name][1] and not required and name not in table.key:
            what = f"{table.name}.{name} takes no NULL, declared is that it does"
            yield Notice("error", ABOUT, what, f"{alter} ALTER COLUMN {quote(name)} DROP NOT NULL;")
    for name in there.keys() - declared.keys():
        if there[name][2]:
            what = f"{table.name}.{name} must be given a value, and is not declared"
            yield Notice("error", ABOUT, what, f"{alter} ALTER COLUMN {quote(name)} DROP NOT NULL;")
