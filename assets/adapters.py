"""Which legacy columns an adapter makes each column of, read from its source: nothing is run and nothing guessed.

An adapter that ends in `return {"header": legacy["title"], …}` tells it by itself, in a DataFrame or not. So do the
functions it hands the frame to, as long as they name the columns they take. What is written otherwise stays unknown.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ColumnReads:
    """Legacy columns that an adapted column is made of; `as_is` when it is one of them, untouched."""

    columns: frozenset[str]
    as_is: bool = False


class _UnknownError(Exception):
    """The source does not say it."""


@dataclass(frozen=True)
class _Scope:
    """What names mean in a function: the frame, what was assigned before, and the module's own names."""

    frame: str
    module: Mapping[str, Any]
    assigned: dict[str, ast.expr] = field(default_factory=dict)


def column_reads(adapt: Callable[..., Any]) -> dict[str, ColumnReads]:
    """The adapted columns of which it is known what they are made of."""
    try:
        function, scope = _open(adapt, 0)
        returned = _returned(function, scope)
    except (_UnknownError, OSError, TypeError, SyntaxError):
        return {}
    found = {}
    for name, value in returned.items():
        try:
            found[name] = ColumnReads(frozenset(_reads(value, scope)), _is_column(value, scope))
        except (_UnknownError, OSError, TypeError, SyntaxError, RecursionError):
            continue
    return found


def _open(function: Callable[..., Any], position: int) -> tuple[ast.FunctionDef, _Scope]:
    """A function's source, and its names when the frame is its argument at `position`."""
    (definition, *_) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    if not isinstance(definition, ast.FunctionDef) or len(definition.args.args) <= position:
        raise _UnknownError
    return definition, _Scope(definition.args.args[position].arg, function.__globals__)


def _returned(function: ast.FunctionDef, scope: _Scope) -> dict[str, ast.expr]:
    """The columns that are returned at the end, after plain assignments."""
    for statement in function.body:
        match statement:
            case ast.Expr(value=ast.Constant()):
                continue
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name not in {scope.frame, *scope.assigned}:
                scope.assigned[name] = value
            case ast.Return(value=ast.Dict() as returned):
                return _columns(returned)
            case ast.Return(value=ast.Call(func=called, args=[ast.Dict() as returned])) if (
                ast.unparse(called).rpartition(".")[2] == "DataFrame"
            ):
                return _columns(returned)
            case _:
                break
    raise _UnknownError


def _columns(returned: ast.Dict) -> dict[str, ast.expr]:
    return {_text(key): value for key, value in zip(returned.keys, returned.values, strict=True)}


def _reads(node: ast.AST, scope: _Scope) -> set[str]:
    """The frame's columns that an expression reads. Raises _UnknownError where it takes the frame as a whole."""
    match node:
        case ast.Subscript(value=ast.Name(id=scope.frame), slice=selector, ctx=ast.Load()):
            return _named(selector, scope)
        case ast.Attribute(value=ast.Name(id=scope.frame), attr="index"):
            return set()
        case ast.Call(func=ast.Name(id=called), args=args) if inspect.isfunction(scope.module.get(called)):
            parts = [_passed(arg, scope, scope.module[called], n) for n, arg in enumerate(args)]
            return set().union(*parts, *(_reads(keyword, scope) for keyword in node.keywords))
        case ast.Name(id=scope.frame):
            raise _UnknownError
        case ast.Name(id=name) if name in scope.assigned:
            return _reads(scope.assigned[name], scope)
    return set().union(*(_reads(child, scope) for child in ast.iter_child_nodes(node)))


def _passed(arg: ast.expr, scope: _Scope, function: Callable[..., Any], position: int) -> set[str]:
    """What an argument reads; the frame itself reads what the function it is handed to reads of it."""
    if not (isinstance(arg, ast.Name) and arg.id == scope.frame):
        return _reads(arg, scope)
    inner, names = _open(function, position)
    return set().union(*(_reads(statement, names) for statement in inner.body))


def _named(selector: ast.expr, scope: _Scope) -> set[str]:
    """The columns in `frame[…]`: a text, a list of texts, or a name of the module that stands for either."""
    found = (
        scope.module.get(selector.id) if isinstance(selector, ast.Name) and selector.id not in scope.assigned else None
    )
    if found is None:
        try:
            found = ast.literal_eval(selector)
        except ValueError as error:
            raise _UnknownError from error
    columns = [found] if isinstance(found, str) else found
    if not isinstance(columns, (list, tuple)) or not all(isinstance(column, str) for column in columns):
        raise _UnknownError
    return set(columns)


def _is_column(value: ast.expr, scope: _Scope) -> bool:
    match value:
        case ast.Subscript(value=ast.Name(id=scope.frame), slice=ast.Constant()):
            return True
        case ast.Name(id=name) if name in scope.assigned:
            return _is_column(scope.assigned[name], scope)
    return False


def _text(key: ast.expr | None) -> str:
    if isinstance(key, ast.Constant) and isinstance(key.value, str):
        return key.value
    raise _UnknownError
