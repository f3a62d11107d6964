"""Which legacy tables and columns a query reads, and what its output columns are made of. No database is asked."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cache

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.lineage import Node, lineage
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, build_scope

Column = tuple[str, str]  # table as `table` or `schema.table`, column
_DIALECT = "postgres"
_STAR = "*"


@dataclass(frozen=True)
class ColumnOrigin:
    """Legacy columns that a value is made of; `as_is` when it is one of them, untouched."""

    columns: frozenset[Column]
    as_is: bool = False


def tables_read(sql: str) -> set[str]:
    """The tables a query reads. Raises sqlglot.errors.ParseError, which shows the place in the query."""
    query = sqlglot.parse_one(sql, dialect=_DIALECT)
    named = {cte.alias for cte in query.find_all(exp.CTE)}
    return {_name(table) for table in query.find_all(exp.Table)} - named


@cache
def columns_read(sql: str) -> dict[str, frozenset[str]]:
    """The columns a query names, by table; one of which it cannot be said whose it is, is left out."""
    found = defaultdict(set)
    root = _scope(sql)
    for scope in root.traverse() if root else ():
        for column in scope.columns:
            table = _table_of(column, scope)
            if table and not isinstance(column.this, exp.Star):
                found[_name(table)].add(column.name)
    return {table: frozenset(columns) for table, columns in found.items()}


@cache
def column_origins(sql: str) -> dict[str, ColumnOrigin]:
    """The output columns of a query, each with what its value is made of; conditions and joins do not count."""
    root = _scope(sql)
    if root is None:
        return {}
    try:
        found: dict[str, Node] = lineage(None, root.expression, {}, scope=root, dialect=_DIALECT, trim_selects=False)
    except SqlglotError:
        return {}
    return {name: _origin(node) for name, node in found.items() if name != _STAR}


@cache
def _scope(sql: str) -> Scope | None:
    """A query with its columns qualified; None for SQL that runs but is beyond the parser's lineage."""
    try:
        query = sqlglot.parse_one(sql, dialect=_DIALECT)
        return build_scope(qualify(query, dialect=_DIALECT, validate_qualify_columns=False, identify=False))
    except SqlglotError:
        return None


def _origin(root: Node) -> ColumnOrigin:
    columns, as_is = set(), True
    for node in root.walk():
        if isinstance(node.expression, exp.Table):
            columns.add((_name(node.expression), exp.to_column(node.name, dialect=_DIALECT).name))
        else:
            as_is = as_is and isinstance(node.expression.unalias(), exp.Column)
    return ColumnOrigin(frozenset(columns), as_is and len(columns) == 1)


def _table_of(column: exp.Column, scope: Scope | None) -> exp.Table | None:
    """The table a column belongs to: by its qualifier, in which a sub-select sees those around it; or the only one."""
    if scope and not column.table and not scope.is_subquery and len(scope.sources) == 1:
        (only,) = scope.sources.values()
        return only if isinstance(only, exp.Table) else None
    while scope is not None:
        source = scope.sources.get(column.table)
        if source is not None:
            return source if isinstance(source, exp.Table) else None
        scope = scope.parent
    return None


def _name(table: exp.Table) -> str:
    return f"{table.db}.{table.name}" if table.db else table.name
