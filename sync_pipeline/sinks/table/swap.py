"""A table put in the place of another one, in one transaction, with all that hangs on the one that readers know.

Whatever refers to a table by its identity stays with the old one through a rename. What can go over safely goes:
rights, comments, foreign keys, views. What the new table has to have of its own, or cannot take over, is refused by
name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import psycopg2

from sync_pipeline.db.sql import Cursor, quote
from sync_pipeline.errors import SettingError
from sync_pipeline.sinks.table.declaration import TableDeclaration

# Readers queue behind a lock that is waited for. Shorter than any deadlock_timeout, so that whoever has to give way in
# a deadlock is never a reader.
_PATIENCE = "500ms"

_DEPENDING_VIEWS = """
    WITH RECURSIVE depending (oid, depth) AS (
        SELECT %(live)s::regclass::oid, 0
        UNION SELECT r.ev_class, v.depth + 1 FROM depending v JOIN pg_depend d
            ON d.refclassid = 'pg_class'::regclass AND d.refobjid = v.oid AND d.classid = 'pg_rewrite'::regclass
        JOIN pg_rewrite r ON r.oid = d.objid WHERE r.ev_class <> v.oid
    )
    SELECT c.oid::regclass::text, max(depth), pg_get_viewdef(c.oid), coalesce(array_to_string(reloptions, ', '), '')
    FROM depending v JOIN pg_class c USING (oid) WHERE depth > 0 AND relkind = 'v' GROUP BY c.oid ORDER BY 2 DESC, 1
"""
_REFERRING = """
    SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid), convalidated FROM pg_constraint
    WHERE confrelid = %(live)s::regclass AND conrelid <> confrelid AND contype = 'f' AND conparentid = 0 ORDER BY 1, 2
"""
# to its own rows, which the fill brings in whatever order: made when all are there
_OWN_REFERENCES = """
    SELECT quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid = %(live)s::regclass AND confrelid = conrelid AND contype = 'f' AND conparentid = 0 AND NOT EXISTS
        (SELECT FROM pg_constraint n WHERE (n.conrelid, n.confrelid) = (%(next)s::regclass, %(next)s::regclass))
    ORDER BY 1
"""
_RIGHTS = """
    SELECT format('GRANT %%s%%s ON %%s TO %%s%%s', privilege_type, columns, %(next)s,
        CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END, CASE WHEN is_grantable THEN
        ' WITH GRANT OPTION' ELSE '' END)
    FROM (SELECT '' AS columns, relowner, (aclexplode(relacl)).* FROM pg_class WHERE oid = %(live)s::regclass
        UNION ALL SELECT format('(%%I)', a.attname), relowner, (aclexplode(a.attacl)).*
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_attribute n
            ON n.attrelid = %(next)s::regclass AND n.attname = a.attname AND NOT n.attisdropped
        WHERE a.attrelid = %(live)s::regclass AND NOT a.attisdropped) rights WHERE grantee <> relowner
"""
_COMMENTS = """
    SELECT format('COMMENT ON %%s IS %%L', CASE d.objsubid WHEN 0 THEN 'TABLE ' || %(next)s
        ELSE format('COLUMN %%s.%%I', %(next)s, n.attname) END, d.description)
    FROM pg_description d LEFT JOIN pg_attribute a ON (a.attrelid, a.attnum) = (d.objoid, d.objsubid)
    LEFT JOIN pg_attribute n ON n.attrelid = %(next)s::regclass AND n.attname = a.attname AND NOT n.attisdropped
    WHERE d.classoid = 'pg_class'::regclass AND d.objoid = %(live)s::regclass
        AND (d.objsubid = 0 OR n.attnum IS NOT NULL)
        AND NOT EXISTS (SELECT FROM pg_description o WHERE (o.classoid, o.objoid, o.objsubid)
            = (d.classoid, %(next)s::regclass, coalesce(n.attnum, 0)))
"""
_INDICES = """
    SELECT c.oid::regclass::text, c.relname FROM pg_index i JOIN pg_class c ON c.oid = indexrelid
    WHERE indrelid = %s::regclass ORDER BY 2
"""


@dataclass
class TableSwap:
    """The live table, and the shadow table that takes its place. Everything is done in the caller's transaction."""

    cursor: Cursor
    table: TableDeclaration
    to_validate: list[str] = field(default_factory=list)  # statements for after the swap

    def lock(self) -> None:
        """All that is touched, in the order in which readers take it: views, tables that refer to it, the table.

        Raises psycopg2.errors.LockNotAvailable where somebody reads it for longer than a moment.
        """
        self._query(_DEPENDING_VIEWS)
        views = [view for view, *_ in self.cursor.fetchall()]
        self._query(_REFERRING)
        referring = sorted({relation for relation, *_ in self.cursor.fetchall()})
        tables = [*views, *referring, self.table.quoted, self.table.shadow.quoted]
        self.cursor.execute(f"SET LOCAL lock_timeout = '{_PATIENCE}'")
        for table in tables:
            self.cursor.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")

    def swap(self) -> None:
        """Under the locks. Raises SettingError naming what cannot go over."""
        self._query(_DEPENDING_VIEWS)
        views = self.cursor.fetchall()
        self._query(_REFERRING)
        referring = self.cursor.fetchall()
        self._query(_OWN_REFERENCES)
        own = self.cursor.fetchall()
        for statements in (_RIGHTS, _COMMENTS):
            self._query(statements)
            for (statement,) in self.cursor.fetchall():
                self._try(statement, "rights and comments")
        self._rename()
        for relation, name, definition, validated in referring:
            self._refer(relation, name, definition, validated)
        for name, definition in own:
            self._try(
                f"ALTER TABLE {self.table.quoted} ADD CONSTRAINT {name} {_later(definition)}", f"foreign key {name}"
            )
            self.to_validate.append(f"ALTER TABLE {self.table.quoted} VALIDATE CONSTRAINT {name}")
        for view, depth, definition, options in views:
            if depth == 1:  # those on top of it stay as they are
                made_with = f" WITH ({options})" if options else ""
                self._try(f"CREATE OR REPLACE VIEW {view}{made_with} AS {definition}", f"view {view}")

    def _query(self, query: str) -> None:
        self.cursor.execute("SET LOCAL search_path = pg_catalog")  # or names would be written short
        self.cursor.execute(query, {"live": self.table.quoted, "next": self.table.shadow.quoted})

    def _rename(self) -> None:
        (_, live), (_, shadow), (_, former) = (
            table.name.split(".") for table in (self.table, self.table.shadow, self.table.former)
        )
        for table, replaced in ((self.table, None), (self.table.shadow, shadow)):
            self.cursor.execute(_INDICES, (table.quoted,))
            for index, name in self.cursor.fetchall():
                new = name.replace(replaced, live, 1) if replaced else f"{name}_former"
                if new != name:
                    self._try(f"ALTER INDEX {index} RENAME TO {quote(new)}", f"index {index}")
        self._try(f"ALTER TABLE {self.table.quoted} RENAME TO {quote(former)}", self.table.name)
        self._try(f"ALTER TABLE {self.table.shadow.quoted} RENAME TO {quote(live)}", self.table.shadow.name)

    def _refer(self, relation: str, name: str, definition: str, validated: bool) -> None:
        """Foreign keys hold from now on; that they held before is looked at later, without keeping anybody waiting."""
        self._try(
            f"ALTER TABLE {relation} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} {_later(definition)}",
            f"foreign key {name} of {relation}",
        )
        if validated:
            self.to_validate.append(f"ALTER TABLE {relation} VALIDATE CONSTRAINT {name}")

    def _try(self, statement: str, what: str) -> None:
        try:
            self.cursor.execute(statement)
        except psycopg2.OperationalError:
            raise
        except psycopg2.Error as error:
            message = str(error).strip().splitlines()[0]
            raise SettingError(f"{what} cannot go over to {self.table.shadow.name}: {message}") from error


def _later(definition: str) -> str:
    """A constraint that holds from now on, and is looked at later as to what is there."""
    return definition if definition.endswith(" NOT VALID") else f"{definition} NOT VALID"
