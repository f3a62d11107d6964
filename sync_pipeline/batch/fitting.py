"""Columns that an adapter returns, fitted to the types that the sinks declare.

Columns of usual types pass as they are, whole. Any other is turned into text value by value, and what has no exact form
is named by its row. Nothing here depends on the other rows of a column: not on a NULL that made floats of whole
numbers, nor on the keys of other rows' dicts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.db.columns import DOCUMENT, array_literals, json_of, text_of
from sync_pipeline.db.values import (
    EXACT_FLOATS,
    INTEGER_LIMIT,
    INTEGERS,
    MisfitError,
    copy_text,
    document_text,
    shown,
    type_of,
)

_JSON = {"json", "jsonb"}
_FLOATS = {"real", "float4", "double precision", "float8", "float"}


@dataclass
class Fitted:
    """Columns as sinks take them, and what of their rows fits none, by row: the first column at fault and why."""

    columns: dict[str, pa.Array | pa.ChunkedArray] = field(default_factory=dict)
    faults: dict[int, str] = field(default_factory=dict)

    @property
    def table(self) -> pa.Table:
        """All columns; rows at fault hold NULL where they fit not."""
        return pa.table(self.columns)

    def note(self, name: str, faults: Mapping[int, str]) -> None:
        """Add why rows do not fit a column."""
        for row, why in faults.items():
            self.faults.setdefault(row, f"column {name}: {why}")


def fit(
    returned: Mapping[str, pd.Series] | pd.DataFrame, definitions: Mapping[str, str], fields: Iterable[str] = ()
) -> Fitted:
    """Fit the columns of a frame to declared types; `fields` are those that documents bear, too."""
    result, wanted = Fitted(), set(fields)
    for name, column in ((str(name), column) for name, column in returned.items()):
        kind, is_array = type_of(definitions[name]) if name in definitions else ("", False)
        fitted = _fit(column, _Declared(kind, is_array, name in definitions, name in wanted))
        result.columns[name] = fitted.column
        if fitted.document is not None:
            result.columns[DOCUMENT + name] = fitted.document
        result.note(name, fitted.faults)
    return result


def concatenate(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables one after the other. A column that has different types in them becomes text: Arrow would make one type
    of them, and floats of whole numbers.
    """
    first, *others = tables
    if all(table.schema.equals(first.schema) for table in others):
        return pa.concat_tables(tables)
    names = list(dict.fromkeys(name for table in tables for name in table.column_names))
    columns = {}
    for name in names:
        parts = [table.column(name) if name in table.column_names else _rest(table, name) for table in tables]
        columns[name] = _joined(parts)
    return pa.table(columns)


@dataclass
class _Column:
    column: pa.Array | pa.ChunkedArray
    document: pa.Array | None = None
    faults: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Declared:
    """What a column is declared as: in the table, where it may not be, and whether documents bear it, too."""

    kind: str
    is_array: bool
    in_table: bool
    in_document: bool

    @property
    def is_json(self) -> bool:
        return self.kind in _JSON and not self.is_array


def _fit(column: pd.Series, declared: _Declared) -> _Column:
    if isinstance(array := column.array, pd.arrays.ArrowExtensionArray):
        return _fit_arrow(pa.array(array), declared)
    if column.dtype == object or isinstance(column.dtype, (pd.PeriodDtype, pd.IntervalDtype, pd.SparseDtype)):
        return _fit_objects(column.astype(object), declared)
    try:
        whole = pa.array(column, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError):
        return _fit_objects(column.astype(object), declared)
    result = _fit_arrow(whole, declared)
    # alone, it is what the adapter returns
    if pa.types.is_floating(whole.type) and len(whole) > 1 and declared.in_table and declared.kind not in _FLOATS:
        result.faults |= _lossy_floats(whole, declared.kind)
    return result


def _fit_objects(values: pd.Series, declared: _Declared) -> _Column:
    """Python's objects: texts and booleans as they are, any other one by one."""
    inferred = pd.api.types.infer_dtype(values, skipna=True)
    whole = None
    if inferred in {"string", "empty"}:
        whole = _whole(values, pa.string())
    elif inferred == "boolean" and not declared.is_json:
        whole = _whole(values, pa.bool_())
    elif declared.is_array or not declared.in_table:
        whole = _lists_of_texts(values)
    if whole is not None:
        return _Column(whole)
    return _one_by_one(values, declared) if declared.in_table else _undeclared(values, inferred)


def _whole(values: pd.Series, kind: pa.DataType | None = None) -> pa.Array | None:
    try:
        return pa.array(values, kind, from_pandas=True)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return None


def _lists_of_texts(values: pd.Series) -> pa.Array | None:
    """The column where each value is a list of texts, as of names of files."""
    lists = _whole(values)
    is_fit = lists is not None and pa.types.is_list(lists.type) and pa.types.is_string(lists.type.value_type)
    return lists if is_fit else None


def _undeclared(values: pd.Series, inferred: str) -> _Column:
    """What only documents bear, or what the engine itself reads."""
    if inferred not in {"mixed", "mixed-integer", "mixed-integer-float", "bytes", "timedelta", "interval", "period"}:
        whole = _whole(values)
        if whole is not None:
            return _Column(whole)
    tokens, faults = _each(values, lambda value: document_text(value, "bytea"))
    return _Column(_as_json(tokens), faults=faults)


def _fit_arrow(whole: Any, declared: _Declared) -> _Column:
    if pa.types.is_dictionary(whole.type):
        whole = pc.cast(whole, whole.type.value_type)
    if pa.types.is_large_string(whole.type) or pa.types.is_string_view(whole.type):
        whole = whole.cast(pa.string())
    as_read = whole.type
    is_usual = _is_usual(as_read) or _is_list_of_usual(as_read)
    if not declared.in_table:
        if is_usual or pa.types.is_struct(as_read):
            return _Column(whole)
        return _undeclared(pd.Series(whole.to_pylist(), dtype=object), "mixed")
    if declared.is_json:
        return _fit_json(whole, declared)
    if pa.types.is_floating(as_read) and declared.kind not in _FLOATS:
        return _fit_floats(whole, declared.kind)
    return _Column(whole) if is_usual else _one_by_one(whole.to_pylist(), declared)


def _is_usual(kind: pa.DataType) -> bool:
    """Whether a whole column is written as PostgreSQL reads it for any type."""
    is_number = pa.types.is_integer(kind) or pa.types.is_decimal(kind) or pa.types.is_floating(kind)
    is_instant = pa.types.is_timestamp(kind) or pa.types.is_date32(kind)
    return bool(
        pa.types.is_string(kind) or is_number or pa.types.is_boolean(kind) or is_instant or pa.types.is_null(kind)
    )


def _is_list_of_usual(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_usual(kind.value_type)


def _fit_json(whole: Any, declared: _Declared) -> _Column:
    """For json and jsonb: a text is JSON already, and a list is one of JSON and no array literal."""
    as_read = whole.type
    if pa.types.is_string(as_read) or pa.types.is_null(as_read):
        return _Column(whole)
    if pa.types.is_struct(as_read) or (_is_list_of_usual(as_read) and not pa.types.is_floating(as_read.value_type)):
        tokens = json_of(whole)
        texts = pc.if_else(_combined(whole).is_valid(), tokens, pa.scalar(None, pa.string()))
        return _Column(texts, _as_json(texts) if declared.in_document else None)
    if pa.types.is_integer(as_read) or pa.types.is_boolean(as_read) or pa.types.is_decimal(as_read):
        return _Column(whole)
    return _one_by_one(whole.to_pylist(), declared)


def _fit_floats(whole: Any, kind: str) -> _Column:
    """Floats for a type that is none. What made them of whole numbers may have been a NULL beside them."""
    array = _combined(whole)
    limit = float(INTEGER_LIMIT) if kind in INTEGERS else float(EXACT_FLOATS)
    is_whole = pc.and_(pc.equal(pc.trunc(array), array), pc.less(pc.abs(array), limit))
    is_whole = pc.fill_null(pc.and_(is_whole, pc.is_finite(array)), False)
    if kind not in INTEGERS:
        negative_zero = pc.and_(pc.equal(array, 0.0), pc.equal(text_of(array), "-0"))
        is_whole = pc.and_not(is_whole, pc.fill_null(negative_zero, False))
    digits = pc.cast(pc.if_else(is_whole, array, pa.scalar(None, array.type)), pa.int64()).cast(pa.string())
    column = pc.if_else(is_whole, digits, text_of(array))
    faults: dict[int, str] = {}
    if kind in INTEGERS:
        broken = pc.and_(array.is_valid(), pc.invert(is_whole))
        for row in pc.indices_nonzero(pc.fill_null(broken, False)).to_pylist():
            faults.setdefault(row, f"the float {array[row].as_py()} is no value of type {kind}")
    return _Column(column, faults=faults)


def _lossy_floats(whole: Any, kind: str) -> dict[int, str]:
    """Rows with floats that may have been whole numbers with more digits: numpy has no NULL beside whole numbers."""
    array = _combined(whole)
    large = pc.and_(pc.is_finite(array), pc.greater_equal(pc.abs(array), float(EXACT_FLOATS)))
    return dict.fromkeys(
        pc.indices_nonzero(pc.fill_null(large, False)).to_pylist(),
        f"a float of 2^53 or more may have lost digits, and its type is {kind}: return whole numbers as such,"
        " for example with dtype Int64",
    )


def _one_by_one(values: Iterable[Any], declared: _Declared) -> _Column:
    texts, faults = _each(values, lambda value: copy_text(value, declared.kind, is_array=declared.is_array))
    result = _Column(pa.array(texts, pa.string()), faults=faults)
    if declared.in_document:
        tokens, more = _each(values, lambda value: _document(value, declared))
        result.document = _as_json(tokens)
        result.faults = more | faults
    return result


def _document(value: Any, declared: _Declared) -> str:
    if declared.is_json and isinstance(value, str):
        return value  # a text is JSON already, as it is for the table
    return document_text(value, declared.kind)


def _each(values: Iterable[Any], turn: Callable[[Any], str | None]) -> tuple[list[str | None], dict[int, str]]:
    texts: list[str | None] = []
    faults: dict[int, str] = {}
    for row, value in enumerate(values):
        try:
            texts.append(turn(value))
        except (MisfitError, ValueError, OverflowError, RecursionError) as error:
            texts.append(None)
            faults[row] = f"{type(value).__name__} {shown(value)}: {error}"
    return texts, faults


def _as_json(tokens: Any) -> pa.Array:
    storage = tokens if isinstance(tokens, pa.Array) else pa.array(tokens, pa.string())
    return pa.ExtensionArray.from_storage(pa.json_(), storage)


def _combined(column: Any) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _rest(table: pa.Table, name: str) -> pa.ChunkedArray:
    """What a table has of a column that only another one has: its document's form is JSON of its values."""
    if not name.startswith(DOCUMENT):
        return pa.chunked_array([pa.nulls(table.num_rows)])
    return pa.chunked_array([_as_json(json_of(table.column(name.removeprefix(DOCUMENT))))])


def _joined(parts: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    kinds = {part.type for part in parts if not pa.types.is_null(part.type)}
    if not kinds:
        return pa.chunked_array([chunk for part in parts for chunk in part.chunks], pa.null())
    if len(kinds) == 1:
        kind = kinds.pop()
        return pa.chunked_array([chunk for part in parts for chunk in _of_kind(part, kind).chunks], kind)
    texts = [_texts(part) for part in parts]
    return pa.chunked_array(texts, pa.string())


def _of_kind(part: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    return part if part.type == kind else pa.chunked_array([pa.nulls(len(part), kind)], kind)


def _texts(part: pa.ChunkedArray) -> pa.Array:
    whole = _combined(part)
    if isinstance(whole.type, pa.BaseExtensionType):
        return whole.storage
    if pa.types.is_floating(whole.type):
        return _fit_floats(whole, "").column
    if _is_usual(whole.type):
        return text_of(whole)
    if _is_list_of_usual(whole.type):
        return array_literals(whole)
    return pc.if_else(whole.is_valid(), json_of(whole), pa.scalar(None, pa.string()))
