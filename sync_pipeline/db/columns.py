"""Columns between PostgreSQL's COPY, Arrow and JSON: whole columns at a time, nothing per row.

COPY speaks CSV here: every PostgreSQL type has a text form that its own parser takes back, so a type this
module has never heard of still passes through exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as ndjson
from pyarrow import csv

# it takes a second to import, and only adapters need it
if TYPE_CHECKING:
    import pandas as pd

# a column of an adapted table that holds what a document bears in another form than the table
DOCUMENT = "_document:"
# types read as themselves; every other one is read as its text
ARROW_TYPES: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "real": pa.float32(),
    "double precision": pa.float64(),
    "date": pa.date32(),
    "timestamp without time zone": pa.timestamp("us"),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
}
# in a table of legacy rows: the digest of a row, computed by the monolith
DIGEST = "_digest"
# in a table of legacy rows: what of a row has no value in its column's Arrow type, as the server's text, by column
ELSEWISE = "_elsewise"
# texts that no date or instant of Arrow stands for
_NO_INSTANT = r"infinity|BC$|^\d{5,}-"
_NO_NUMBER = r"[a-zA-Z]"
_AS_COPY_WRITES = csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False)
# Arrow's reader takes the text in blocks, and a row may lie in two of them at most
_BLOCK = 1 << 26
_LARGEST_BLOCK = (1 << 31) - 2
_STRADDLES = "straddling object"
# Arrow's reader starts a thread; for so few, parsing one by one is over before that
_FEW_LISTS = 200
_NO_LIST = "an array of several dimensions, or that does not begin at 1"
# what JSON has short words for, and PostgreSQL too
_ESCAPES = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", ord('"'): '\\"', ord("\\"): "\\\\"}
_CONTROLS = 0x20


def arrow_type(pg_type: str) -> pa.DataType:
    """The Arrow type a PostgreSQL type (as format_type writes it) is read into; arrays become lists.

    `numeric` without a scale has no exact Arrow type and stays text.
    """
    if pg_type.endswith("[]"):
        return pa.list_(arrow_type(pg_type[:-2]))
    if pg_type.startswith("numeric(") and pg_type.endswith(")"):
        precision, _, scale = pg_type[len("numeric(") : -1].partition(",")
        if int(precision) <= 38 and 0 <= int(scale or 0) <= int(precision):
            return pa.decimal128(int(precision), int(scale or 0))
    return ARROW_TYPES.get(pg_type, pa.string())


def read_copy(text: bytes | pa.Buffer, schema: pa.Schema) -> pa.Table:
    """COPY's CSV as a table; list columns are expected as JSON arrays. Raises pa.ArrowInvalid."""
    if not text:
        return schema.empty_table()
    try:
        table = _read_csv(text, schema, max(1 << 20, min(len(text) + 1, _BLOCK)))
    except pa.ArrowInvalid as error:
        if _STRADDLES not in str(error) or len(text) >= _LARGEST_BLOCK:
            raise
        table = _read_csv(text, schema, len(text) + 1)
    columns = [
        _lists(table.column(n), field.type) if pa.types.is_list(field.type) else table.column(n)
        for n, field in enumerate(schema)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def read_leniently(text: bytes | pa.Buffer, schema: pa.Schema) -> tuple[pa.Table, pa.Array]:
    """Read COPY's CSV where a value does not fit its column's type: infinity, the year 20000, an array of arrays.

    Returns the table, with NULL for such values, and their texts by column as JSON for each row; NULL where all fit.
    """
    texts = read_copy(text, pa.schema([(name, pa.string()) for name in schema.names]))
    misfits: dict[int, dict[str, str]] = {}
    columns = []
    for field in schema:
        column, others = fit_texts(texts.column(field.name), field.type)
        columns.append(column)
        for row, value in others.items():
            misfits.setdefault(row, {})[field.name] = value
    elsewise = [orjson.dumps(misfits[row]).decode() if row in misfits else None for row in range(texts.num_rows)]
    return pa.Table.from_arrays(columns, schema=schema), pa.array(elsewise, pa.string())


def fit_texts(texts: pa.ChunkedArray | pa.Array, kind: pa.DataType) -> tuple[pa.Array, dict[int, str]]:
    """Read the server's texts as a type; returns those by row that have no value in it, which are NULL then."""
    if pa.types.is_string(kind):
        return _whole(texts), {}
    whole = _whole(texts)
    try:
        return _read_texts(whole, kind), {}
    except pa.ArrowInvalid:
        pass
    suspects = pc.fill_null(pc.match_substring_regex(whole, _suspects(kind)), False)
    try:
        column = _read_texts(pc.if_else(suspects, pa.scalar(None, pa.string()), whole), kind)
        others = pc.indices_nonzero(suspects).to_pylist()
    except pa.ArrowInvalid:
        values = [_read_one(value, kind) for value in whole.to_pylist()]
        column = pa.concat_arrays([value for value, _ in values])
        others = [row for row, (_, fits) in enumerate(values) if not fits]
    return column, {row: _server_text(whole[row].as_py(), kind) for row in others}


def _read_one(text: str | None, kind: pa.DataType) -> tuple[pa.Array, bool]:
    try:
        return _read_texts(pa.array([text], pa.string()), kind), True
    except pa.ArrowInvalid:
        return pa.nulls(1, kind), False


def _read_texts(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    schema = pa.schema([("v", kind)])
    return _whole(read_copy(write_copy(pa.table({"v": texts})), schema).column(0))


def _suspects(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return r'^"'
    return _NO_INSTANT if pa.types.is_temporal(kind) else _NO_NUMBER


def _server_text(text: str, kind: pa.DataType) -> str:
    """The text of a value, of which an array was told as JSON."""
    if not pa.types.is_list(kind):
        return text
    parsed = orjson.loads(text)
    return parsed if isinstance(parsed, str) else str(array_literals(pa.array([parsed], pa.list_(pa.string())))[0])


def _read_csv(text: bytes | pa.Buffer, schema: pa.Schema, block: int) -> pa.Table:
    return csv.read_csv(
        pa.BufferReader(text),
        read_options=csv.ReadOptions(use_threads=False, column_names=schema.names, block_size=block),
        parse_options=_AS_COPY_WRITES,
        convert_options=_conversion(schema),
    )


@lru_cache(maxsize=256)
def _conversion(schema: pa.Schema) -> csv.ConvertOptions:
    return csv.ConvertOptions(
        column_types=pa.schema([_flat(field) for field in schema]),
        null_values=[""],
        true_values=["t"],
        false_values=["f"],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )


def write_copy(table: pa.Table) -> pa.Buffer:
    """A table as the CSV that COPY takes: lists as array literals, structures as JSON.

    Empty chunks are left out, because Arrow's writer puts uninitialised memory before the rows of a table that begins
    with one.
    """
    columns = [_without_empty_chunks(_copy_column(table.column(n))) for n in range(table.num_columns)]
    sink = pa.BufferOutputStream()
    flat = pa.Table.from_arrays(columns, names=[f"c{n}" for n in range(len(columns))])
    csv.write_csv(flat, sink, csv.WriteOptions(include_header=False))
    return sink.getvalue()


def _without_empty_chunks(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    if not isinstance(column, pa.ChunkedArray) or all(map(len, column.chunks)):
        return column
    return pa.chunked_array([chunk for chunk in column.chunks if len(chunk)], column.type)


def write_values(table: pa.Table) -> str:
    """A table as the rows of VALUES, of literals without a type.

    Raises ValueError for a zero byte, which no literal holds, and, as NotImplementedError, for what COPY alone can say.
    """
    parts: list[pa.Array | str] = []
    for column in table.columns:
        parts += [",", *_literals(column)]
    first, *others = _merged(["(", *parts[1:], "),"])
    if not others:
        return str(first * table.num_rows)[:-1]
    octets: bytes = characters(_whole(pc.binary_join_element_wise(first, *others, ""))).to_pybytes()
    if b"\0" in octets:
        raise ValueError("a zero byte")
    return octets[:-1].decode()


def _merged(parts: Sequence[pa.Array | str]) -> list[pa.Array | str]:
    """Constants that follow each other as one: a join costs as much for each as for a column of few rows."""
    merged: list[pa.Array | str] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def frame(table: pa.Table) -> pd.DataFrame:
    """Arrow-backed pandas: integers beside NULLs stay exact."""
    import pandas as pd

    result: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype, use_threads=False)
    return result


def document_columns(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """The columns of these names, in the form that documents bear."""
    there = set(table.column_names)
    return pa.table({name: table.column(DOCUMENT + name if DOCUMENT + name in there else name) for name in names})


def kept(table: pa.Table, mask: pa.Array) -> pa.Table:
    """The rows of a mask; the table itself, not copied, where that is all of them."""
    return table if pc.all(mask, skip_nulls=False).as_py() else table.filter(mask)


def text_of(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column's values as text, NULLs kept."""
    whole = _whole(column)
    if pa.types.is_timestamp(whole.type) and whole.type.tz == "UTC":
        return _whole(pc.binary_join_element_wise(_plain(whole).cast(pa.string()), "Z", ""))
    return whole if pa.types.is_string(whole.type) else _whole(pc.cast(whole, pa.string()))


def _plain(instants: pa.Array) -> pa.Array:
    """In UTC, without saying so: Arrow takes thirty times as long to write an instant that has a zone."""
    return instants.cast(pa.int64()).cast(pa.timestamp(instants.type.unit))


def array_literal(values: pa.ChunkedArray | pa.Array) -> str:
    """All values as one PostgreSQL array literal, to be bound and cast."""
    items = pc.fill_null(_quoted(text_of(values)), "NULL")
    listed: str = characters(_whole(pc.binary_join_element_wise(items, ",", ""))).to_pybytes()[:-1].decode()
    return f"{{{listed}}}"


def characters(text: pa.Array) -> pa.Buffer:
    """The bytes of all texts one after the other, not copied."""
    _, offsets, octets = text.buffers()
    if octets is None:
        return pa.py_buffer(b"")
    ends = memoryview(offsets).cast("i")
    first, end = ends[text.offset], ends[text.offset + len(text)]
    return octets.slice(first, end - first)


def json_of(column: pa.ChunkedArray | pa.Array, *, raw: bool = False) -> pa.Array:
    """Each value as a JSON token; NULL becomes null. `raw` columns hold JSON text already."""
    array = _whole(column)
    if isinstance(array.type, pa.BaseExtensionType):
        array, raw = array.storage, True
    if raw:  # on one line: a line break in JSON is never part of a value
        return _or_null(pc.replace_substring(text_of(array), "\n", " "))
    if pa.types.is_struct(array.type):
        return _json_struct(array)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return _json_list(array)
    return _or_null(_json_scalar(array))


def json_objects(table: pa.Table, raw: frozenset[str] = frozenset()) -> pa.Array:
    """Each row as a JSON object."""
    tokens = [json_of(table.column(name), raw=name in raw) for name in table.column_names]
    return _object(table.column_names, tokens, table.num_rows)


def _flat(field: pa.Field) -> pa.Field:
    return pa.field(field.name, pa.string()) if pa.types.is_list(field.type) else field


def _whole(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # which copies


def _lists(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    if len(column) == 0:
        return pa.array([], kind)
    as_written = kind if _is_written_as_such(kind.value_type) else pa.list_(pa.string())
    parsed = _parse_few if len(column) <= _FEW_LISTS else _parse_coded
    lists = parsed(_whole(column), as_written)
    return lists if as_written == kind else relist(lists, _read_texts(lists.flatten(), kind.value_type))


def _is_written_as_such(kind: pa.DataType) -> bool:
    """Whether elements of this type are told as JSON has them, and not as the server's text."""
    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_string(kind))


def _parse_few(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    lists = [None if text is None else orjson.loads(text) for text in texts.to_pylist()]
    if any(isinstance(value, str) for value in lists):
        raise pa.ArrowInvalid(_NO_LIST)
    return pa.array(lists, kind)


def _parse_coded(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Most rows hold one of few lists, the empty one first of all: each is parsed once."""
    coded = pc.dictionary_encode(pc.fill_null(texts, "null"))
    if pc.any(pc.starts_with(coded.dictionary, '"')).as_py():
        raise pa.ArrowInvalid(_NO_LIST)
    few = len(coded.dictionary) <= _FEW_LISTS and pa.types.is_string(kind.value_type)
    parsed = _parse_few(coded.dictionary, kind) if few else _parse_many(coded.dictionary, kind)
    return parsed.take(coded.indices)


def _parse_many(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    body = characters(pc.binary_join_element_wise('{"v":', texts, "}\n", ""))
    options = ndjson.ParseOptions(explicit_schema=pa.schema([("v", kind)]), newlines_in_values=False)
    read = ndjson.ReadOptions(use_threads=False, block_size=max(1 << 20, body.size + 1))
    return _whole(ndjson.read_json(pa.BufferReader(body), read_options=read, parse_options=options).column(0))


def _copy_column(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    kind = column.type
    if pa.types.is_struct(kind):
        array = _whole(column)
        return pc.if_else(array.is_valid(), json_of(array), pa.scalar(None, pa.string()))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return array_literals(_whole(column))
    if pa.types.is_dictionary(kind):
        return pc.cast(column, kind.value_type)
    return text_of(column) if pa.types.is_timestamp(kind) else column


def array_literals(lists: pa.Array) -> pa.Array:
    """Lists as PostgreSQL's array literals, each a text; NULLs kept."""
    items = _quoted(text_of(lists.flatten()))
    items = pc.fill_null(items, "NULL") if items.null_count else items
    joined = pc.binary_join(relist(lists, items), ",")
    return _whole(pc.binary_join_element_wise("{", joined, "}", ""))


def relist(lists: pa.Array, items: pa.Array) -> pa.Array:
    """The same lists over other items; `flatten` has dropped what offsets of slices and NULLs hide."""
    if pa.types.is_list(lists.type) and not lists.null_count and len(lists) and lists.offsets[0].as_py() == 0:
        return pa.ListArray.from_arrays(lists.offsets, items)
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(pc.cast(lengths, pa.int64()))])
    mask = lists.is_null() if lists.null_count else None
    return pa.ListArray.from_arrays(offsets.cast(pa.int32()), items, mask=mask)


def _literals(column: pa.ChunkedArray) -> list[pa.Array | str]:
    """A column's values as SQL's literals, where a backslash stands for itself: what is to be joined for each row."""
    text = text_of(_copy_column(column))
    if text.null_count == len(text):
        return ["NULL"]
    if _may_hold_quotes(column.type) and b"'" in characters(text).to_pybytes():
        text = pc.replace_substring(text, "'", "''")
    if not text.null_count:
        return ["'", text, "'"]
    return [pc.fill_null(_whole(pc.binary_join_element_wise("'", text, "'", "")), "NULL")]


def _may_hold_quotes(kind: pa.DataType) -> bool:
    return not (pa.types.is_primitive(kind) or pa.types.is_decimal(kind))


def _quoted(text: pa.Array) -> pa.Array:
    """As a string of JSON, or of an array literal, which leaves control characters as they are."""
    return _escaped(text, 0)


def _escaped(text: pa.Array, controls: int) -> pa.Array:
    """In quotes; characters below `controls` are escaped, too."""
    for code in _to_escape(text, controls):
        text = pc.replace_substring(text, chr(code), _ESCAPES.get(code, f"\\u{code:04x}"))
    return _whole(pc.binary_join_element_wise('"', text, '"', ""))


def _to_escape(text: pa.Array, controls: int) -> list[int]:
    """Which characters are there that want an escape; the backslash first, for the escapes of others bring some.

    A look at the bytes for each: most texts hold none.
    """
    octets = np.frombuffer(characters(text), np.uint8)
    quoted = [code for code in (ord("\\"), ord('"')) if (octets == code).any()]
    low = octets < controls
    return quoted + (np.flatnonzero(np.bincount(octets[low])).tolist() if low.any() else [])


def _json_scalar(array: pa.Array) -> pa.Array:
    kind = array.type
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        return text_of(array)
    if pa.types.is_floating(kind):
        # JSON has no word for what is not finite
        return text_of(pc.if_else(pc.is_finite(array), array, pa.scalar(None, kind)))
    if pa.types.is_timestamp(kind):
        zone = "Z" if kind.tz else ""
        if kind.unit == "ns":  # a frame's own unit; rounded, as the table does it
            array = pc.round_temporal(array, unit="microsecond")
        text = _plain(array.cast(pa.timestamp("us", kind.tz))).cast(pa.string())
        text = pc.replace_substring(text, " ", "T", max_replacements=1)
        return _whole(pc.binary_join_element_wise('"', text, f'{zone}"', ""))
    return _json_text(text_of(array))


def _json_text(text: pa.Array) -> pa.Array:
    return _escaped(text, _CONTROLS)


def _or_null(tokens: pa.Array) -> pa.Array:
    return pc.fill_null(tokens, "null") if tokens.null_count else tokens


def _json_struct(array: pa.StructArray) -> pa.Array:
    names = [field.name for field in array.type]
    tokens = [json_of(array.field(n)) for n in range(len(names))]
    objects = _object(names, tokens, len(array))
    return pc.if_else(array.is_valid(), objects, pa.scalar("null")) if array.null_count else objects


def _json_list(array: pa.Array) -> pa.Array:
    joined = pc.binary_join(relist(array, json_of(array.flatten())), ",")
    return _or_null(_whole(pc.binary_join_element_wise("[", joined, "]", "")))


def _object(names: Sequence[str], tokens: Sequence[pa.Array], rows: int) -> pa.Array:
    if not names:
        return pa.array(["{}"] * rows, pa.string())
    parts: list[pa.Array | str] = []
    for n, (name, token) in enumerate(zip(names, tokens, strict=True)):
        parts += [f"{'{' if n == 0 else ','}{orjson.dumps(name).decode()}:", token]
    return _whole(pc.binary_join_element_wise(*parts, "}", ""))
