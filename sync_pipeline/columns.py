"""Columns between PostgreSQL's COPY, Arrow and JSON: whole columns at a time, nothing per row.

COPY speaks CSV here: every PostgreSQL type has a text form that its own parser takes back, so a type this
module has never heard of still passes through exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as ndjson
from pyarrow import csv

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
# control characters that JSON has short words for, which PostgreSQL uses too
_ESCAPES = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r"}


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
    flat = pa.schema([_flat(field) for field in schema])
    table = csv.read_csv(
        pa.BufferReader(text),
        read_options=csv.ReadOptions(
            use_threads=False, column_names=flat.names, block_size=max(1 << 20, min(len(text) + 1, 1 << 26))
        ),
        parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=csv.ConvertOptions(
            column_types=flat,
            null_values=[""],
            true_values=["t"],
            false_values=["f"],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    columns = [
        _lists(table.column(n), field.type) if pa.types.is_list(field.type) else table.column(n)
        for n, field in enumerate(schema)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def write_copy(table: pa.Table) -> pa.Buffer:
    """A table as the CSV that COPY takes: lists as array literals, structures as JSON."""
    columns = [_copy_column(table.column(n)) for n in range(table.num_columns)]
    sink = pa.BufferOutputStream()
    flat = pa.Table.from_arrays(columns, names=[f"c{n}" for n in range(len(columns))])
    csv.write_csv(flat, sink, csv.WriteOptions(include_header=False))
    return sink.getvalue()


def frame(table: pa.Table) -> pd.DataFrame:
    """Arrow-backed pandas: integers beside NULLs stay exact."""
    result: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype, use_threads=False)
    return result


def text_of(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column's values as text, NULLs kept."""
    return _whole(pc.cast(_whole(column), pa.string()))


def array_literal(values: pa.ChunkedArray | pa.Array) -> str:
    """All values as one PostgreSQL array literal, to be bound and cast."""
    body = _quoted(text_of(values))
    return "{" + ",".join(pc.fill_null(body, "NULL").to_pylist()) + "}"


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
    if raw:
        return pc.fill_null(text_of(array), "null")
    if pa.types.is_struct(array.type):
        return _json_struct(array)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return _json_list(array)
    return pc.fill_null(_json_scalar(array), "null")


def json_objects(table: pa.Table, raw: frozenset[str] = frozenset()) -> pa.Array:
    """Each row as a JSON object."""
    tokens = [json_of(table.column(name), raw=name in raw) for name in table.column_names]
    return _object(table.column_names, tokens, table.num_rows)


def _flat(field: pa.Field) -> pa.Field:
    return pa.field(field.name, pa.string()) if pa.types.is_list(field.type) else field


def _whole(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _lists(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    if len(column) == 0:
        return pa.array([], kind)
    # most rows hold one of few lists, the empty one first of all: each is parsed once
    coded = pc.dictionary_encode(pc.fill_null(_whole(column), "null"))
    lines = pc.binary_join_element_wise('{"v":', coded.dictionary, "}\n", "")
    body = characters(lines)
    options = ndjson.ParseOptions(explicit_schema=pa.schema([("v", kind)]), newlines_in_values=False)
    read = ndjson.ReadOptions(use_threads=False, block_size=max(1 << 20, body.size + 1))
    parsed = ndjson.read_json(pa.BufferReader(body), read_options=read, parse_options=options).column(0)
    return _whole(parsed).take(coded.indices)


def _copy_column(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    kind = column.type
    if pa.types.is_struct(kind):
        array = _whole(column)
        return pc.if_else(array.is_valid(), json_of(array), pa.scalar(None, pa.string()))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _array_literals(_whole(column))
    if pa.types.is_dictionary(kind):
        return pc.cast(column, kind.value_type)
    return column


def _array_literals(lists: pa.Array) -> pa.Array:
    items = pc.fill_null(_quoted(text_of(lists.flatten())), "NULL")
    joined = pc.binary_join(relist(lists, items), ",")
    return _whole(pc.binary_join_element_wise("{", joined, "}", ""))


def relist(lists: pa.Array, items: pa.Array) -> pa.Array:
    """The same lists over other items; `flatten` has dropped what offsets of slices and NULLs hide."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(pc.cast(lengths, pa.int64()))])
    mask = lists.is_null() if lists.null_count else None
    return pa.ListArray.from_arrays(offsets.cast(pa.int32()), items, mask=mask)


def _quoted(text: pa.Array) -> pa.Array:
    octets = np.frombuffer(characters(text), np.uint8)
    escaped = text
    for special in ("\\", '"'):
        if (octets == ord(special)).any():  # a look costs a tenth of a pass, and most columns hold neither
            escaped = pc.replace_substring(escaped, special, f"\\{special}")
    return _whole(pc.binary_join_element_wise('"', escaped, '"', ""))


def _json_scalar(array: pa.Array) -> pa.Array:
    kind = array.type
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        return text_of(array)
    if pa.types.is_floating(kind):
        # JSON has no word for what is not finite
        return text_of(pc.if_else(pc.is_finite(array), array, pa.scalar(None, kind)))
    if pa.types.is_timestamp(kind):
        zone = "Z" if kind.tz else ""
        naive = array.cast(pa.timestamp("us", kind.tz)).cast(pa.int64()).cast(pa.timestamp("us"))
        text = pc.replace_substring(naive.cast(pa.string()), " ", "T", max_replacements=1)
        return _whole(pc.binary_join_element_wise('"', text, f'{zone}"', ""))
    return _json_text(text_of(array))


def _json_text(text: pa.Array) -> pa.Array:
    quoted = _quoted(text)
    for code in _control_codes(quoted):
        quoted = pc.replace_substring(quoted, chr(code), _ESCAPES.get(code, f"\\u{code:04x}"))
    return quoted


def _control_codes(text: pa.Array) -> list[int]:
    """Which control characters occur: one look at the bytes, for most texts have one or none of the 32."""
    octets = np.frombuffer(characters(text), np.uint8)
    return [int(code) for code in np.unique(octets[octets < 0x20])]


def _json_struct(array: pa.StructArray) -> pa.Array:
    names = [field.name for field in array.type]
    tokens = [json_of(array.field(n)) for n in range(len(names))]
    return pc.if_else(array.is_valid(), _object(names, tokens, len(array)), pa.scalar("null"))


def _json_list(array: pa.Array) -> pa.Array:
    joined = pc.binary_join(relist(array, json_of(array.flatten())), ",")
    return pc.fill_null(_whole(pc.binary_join_element_wise("[", joined, "]", "")), "null")


def _object(names: Sequence[str], tokens: Sequence[pa.Array], rows: int) -> pa.Array:
    if not names:
        return pa.array(["{}"] * rows, pa.string())
    heads = _json_text(pa.array(names, pa.string())).to_pylist()
    parts: list[pa.Array | str] = []
    for n, (head, token) in enumerate(zip(heads, tokens, strict=True)):
        parts += [f"{'{' if n == 0 else ','}{head}:", token]
    return _whole(pc.binary_join_element_wise(*parts, "}", ""))
