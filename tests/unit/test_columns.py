"""Columns against the standard library's own JSON, and against values that break naive encoders."""

import datetime as dt
import decimal
import json
import math

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync_pipeline.batch.fitting import fit
from sync_pipeline.db import columns

NANOSECONDS = pa.timestamp("ns", "UTC")
TEXT = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"])))


@given(st.lists(TEXT, max_size=20))
def test_json_text_equals_the_standard_library(values: list[str | None]) -> None:
    assert [json.loads(v) for v in columns.json_of(pa.array(values, pa.string())).to_pylist()] == values


@given(st.lists(st.one_of(st.none(), st.lists(TEXT, max_size=4)), max_size=12))
def test_json_lists_keep_nulls_and_emptiness(values: list[list[str | None] | None]) -> None:
    array = pa.array(values, pa.list_(pa.string()))
    assert [json.loads(v) for v in columns.json_of(array).to_pylist()] == values


@given(st.lists(st.one_of(st.none(), st.lists(TEXT, max_size=4)), min_size=1, max_size=12))
def test_few_lists_are_parsed_as_many_are(values: list[list[str | None] | None]) -> None:
    texts, kind = pa.array([json.dumps(value) for value in values]), pa.list_(pa.string())
    assert columns._parse_few(texts, kind).equals(columns._parse_many(texts, kind))


def table_of(made):
    return fit(made, {}).table


def test_sliced_lists_are_not_shifted() -> None:
    array = pa.array([["a"], None, ["b", "c"], []], pa.list_(pa.string())).slice(1)
    assert [json.loads(v) for v in columns.json_of(array).to_pylist()] == [None, ["b", "c"], []]


@given(st.lists(st.one_of(st.none(), st.fixed_dictionaries({"a": TEXT, "b": st.integers(-(2**62), 2**62)}))))
def test_json_structures(values: list[dict[str, object] | None]) -> None:
    array = pa.array(values, pa.struct([("a", pa.string()), ("b", pa.int64())]))
    assert [json.loads(v) for v in columns.json_of(array).to_pylist()] == values


def test_json_objects_splice_raw_json_and_keep_instants() -> None:
    at = dt.datetime(2020, 2, 3, 4, 5, 6, 789, tzinfo=dt.UTC)
    table = pa.table(
        {
            "j": pa.array(['{"a": [1]}', None]),
            "t": pa.array([at, None], pa.timestamp("us", "UTC")),
            "n": pa.array([decimal.Decimal("1.50"), None], pa.decimal128(5, 2)),
            "f": pa.array([1.5, math.nan]),
            "b": pa.array([True, None]),
        }
    )
    first, second = (json.loads(v) for v in columns.json_objects(table, frozenset({"j"})).to_pylist())
    assert dt.datetime.fromisoformat(first["t"]) == at
    assert first == {"j": {"a": [1]}, "t": first["t"], "n": 1.5, "f": 1.5, "b": True}
    assert set(second.values()) == {None}


def test_instants_before_1970_keep_their_fraction() -> None:
    at = dt.datetime(1955, 2, 3, 4, 5, 6, 789, tzinfo=dt.UTC)
    token = columns.json_of(pa.array([at], pa.timestamp("us", "UTC"))).to_pylist()[0]
    assert dt.datetime.fromisoformat(json.loads(token)) == at


def test_instants_finer_than_a_microsecond_are_rounded_as_the_table_does() -> None:
    """What pandas makes of seconds in a float is no whole number of them."""
    seconds = pd.Series([1234567890.1234567, 2.0, None])
    made = table_of({"at": pd.to_datetime(seconds, unit="s", utc=True).astype(pd.ArrowDtype(NANOSECONDS))})
    tokens = columns.json_of(made.column("at")).to_pylist()
    assert tokens == ['"2009-02-13T23:31:30.123457Z"', '"1970-01-01T00:00:02.000000Z"', "null"]


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_instants_are_written_with_their_zone(unit, zone) -> None:
    """As Arrow writes them, and so, as without a zone, PostgreSQL takes the hour as it stands."""
    instants = pa.array([0, 1234567890, None, -5], pa.int64()).cast(pa.timestamp(unit, zone))
    texts = instants.cast(pa.string())
    assert columns.text_of(instants).equals(texts)
    copied = columns.read_copy(columns.write_copy(pa.table({"at": instants})), pa.schema([("at", pa.string())]))
    assert copied.column("at").to_pylist() == texts.to_pylist()


def test_copy_tells_null_from_empty_and_keeps_lookalikes() -> None:
    schema = pa.schema([("a", pa.string()), ("n", pa.int64()), ("l", pa.list_(pa.string()))])
    text = b'"",,"[""x"",null]"\n,9007199254740993,\nNA,1,[]\n"a\nb",2,"[""null""]"\n"\\N",3,[]\n'
    assert columns.read_copy(text, schema).to_pylist() == [
        {"a": "", "n": None, "l": ["x", None]},
        {"a": None, "n": 9007199254740993, "l": None},
        {"a": "NA", "n": 1, "l": []},
        {"a": "a\nb", "n": 2, "l": ["null"]},
        {"a": "\\N", "n": 3, "l": []},
    ]


@pytest.mark.hazard(43)
def test_integers_beside_nulls_stay_exact_in_pandas() -> None:
    frame = columns.frame(pa.table({"n": pa.array([9007199254740993, None])}))
    assert int(frame["n"][0]) == 9007199254740993  # a float that has lost the last digit would equal it as it is


def test_array_literals_escape() -> None:
    values = pa.array([["a,b", 'q"', "back\\slash", None, ""], None, []], pa.list_(pa.string()))
    assert columns.write_copy(pa.table({"v": values})) == b'"{""a,b"",""q\\"""",""back\\\\slash"",NULL,""""}"\n\n"{}"\n'


@pytest.mark.parametrize(
    ("pg", "arrow"),
    [
        ("numeric", pa.string()),
        ("numeric(10,2)", pa.decimal128(10, 2)),
        ("numeric(10)", pa.decimal128(10, 0)),
        ("numeric(60,2)", pa.string()),
        ("bigint[]", pa.list_(pa.int64())),
        ("jsonb", pa.string()),
        ("uuid", pa.string()),
    ],
)
def test_types(pg: str, arrow: pa.DataType) -> None:
    assert columns.arrow_type(pg) == arrow


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["a", None, 'b"\n', "cc", ""]),
        pa.array([[], None, ["x", None], ['"'], ["y", "z"]], pa.list_(pa.string())),
        pa.array([[], [], [1], [2, 3], None], pa.list_(pa.int64())),
        pa.array([{"a": "x", "b": [1]}, None, {"a": None, "b": []}, {"a": "y", "b": None}, {"a": '"', "b": [2, 3]}]),
        pa.array([1, None, -5, 1_700_000_000_000_000, 0], pa.timestamp("us", "UTC")),
        pa.array([True, None, False, True, False]),
        pa.array(["b", None, "a", "b", "c"]).dictionary_encode(),
    ],
    ids=lambda values: str(values.type),
)
@pytest.mark.parametrize(("first", "length"), [(0, 5), (0, 3), (1, 3), (2, 3), (4, 1), (5, 0)])
def test_a_part_of_a_column_is_written_as_if_it_were_all(values, first, length) -> None:
    """A column's only chunk is taken as it lies, which may be within a longer one."""
    part = pa.chunked_array([values.slice(first, length)])
    copied = pa.chunked_array([pa.array(part.to_pylist(), values.type)], values.type)
    for write in (columns.text_of, columns.json_of, columns.array_literal):
        if write is columns.json_of or not pa.types.is_nested(values.type):
            assert write(part) == write(copied)
    one, other = (columns.write_copy(pa.table({"a": column})) for column in (part, copied))
    assert one.to_pybytes() == other.to_pybytes()


CELL = st.tuples(st.one_of(st.none(), st.integers(-(2**60), 2**60)), TEXT, st.one_of(st.none(), st.lists(TEXT)))
KINDS = pa.schema(
    [("n", pa.int64()), ("t", pa.string()), ("l", pa.list_(pa.string())), ("s", pa.struct([("a", pa.string())]))]
)


def in_quotes(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def array_of(items: list[str | None]) -> str:
    quoted = ["NULL" if i is None else '"' + i.replace("\\", "\\\\").replace('"', '\\"') + '"' for i in items]
    return "{" + ",".join(quoted) + "}"


def written_alone(rows: list[tuple[int | None, str | None, list[str | None] | None]]) -> bytes:
    """COPY's CSV, written value by value without Arrow; the structure is read back instead, for JSON has many forms."""
    lines = [
        ",".join(
            [
                "" if n is None else str(n),
                "" if t is None else in_quotes(t),
                "" if items is None else in_quotes(array_of(items)),
            ]
        )
        for n, t, items in rows
    ]
    return "".join(line + "\n" for line in lines).encode()


def chunked(rows: list[tuple[int | None, str | None, list[str | None] | None]], sliced: bool) -> pa.Table:
    """The rows as one chunk, perhaps a slice of a longer one."""
    around = [(7, "CANARY", ["CANARY"])] if sliced else []
    table = pa.table(
        [
            pa.array(column, kind)
            for column, kind in zip(zip(*[*around, *rows, *around], strict=True), KINDS.types[:3], strict=True)
        ]
        if around or rows
        else [pa.array([], kind) for kind in KINDS.types[:3]],
        names=KINDS.names[:3],
    )
    return table.slice(1, len(rows)) if sliced else table


@pytest.mark.hazard(86)
@given(st.lists(st.tuples(st.lists(CELL, max_size=4), st.booleans()), min_size=1, max_size=6))
def test_nothing_but_rows_is_written_whatever_the_chunks(
    chunks: list[tuple[list[tuple[int, str, list[str]]], bool]],
) -> None:
    table = pa.concat_tables([chunked(rows, sliced) for rows, sliced in chunks])
    assert bytes(columns.write_copy(table)) == written_alone([row for rows, _ in chunks for row in rows])


@pytest.mark.hazard(86)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_nested_and_coded_columns_of_any_chunks_are_written_as_whole_ones(lengths: list[int]) -> None:
    whole = pa.table(
        {
            "s": pa.array([{"a": f"v{n}"} for n in range(20)], KINDS.field("s").type),
            "d": pa.array([f"w{n}" for n in range(20)]).dictionary_encode(),
            "t": pa.array([dt.datetime(2020, 1, 1 + n) for n in range(20)], pa.timestamp("us", "UTC")),
        }
    )
    parts = [whole.slice(3 * n, length) for n, length in enumerate(lengths)]
    together = pa.concat_tables(parts).combine_chunks()
    assert bytes(columns.write_copy(pa.concat_tables(parts))) == bytes(columns.write_copy(together))
    assert columns.json_objects(pa.concat_tables(parts)).to_pylist() == columns.json_objects(together).to_pylist()
    if together.num_rows:
        assert columns.write_values(pa.concat_tables(parts)) == columns.write_values(together)


def test_literals_hold_nulls_quotes_and_backslashes() -> None:
    table = pa.table(
        {
            "a": pa.array([1, None]),
            "b": pa.array(["it's", None]),
            "c": pa.array(["\\", "''"]),
            "d": pa.nulls(2),
            "e": pa.array([["o'k", None], None]),
            "f": pa.array([dt.datetime(2020, 1, 1)] * 2, pa.timestamp("us", "UTC")),
            "g": pa.array(["q'", "r"]).dictionary_encode(),
        }
    )
    instant = "'2020-01-01 00:00:00.000000Z'"
    first = f"""('1','it''s','\\',NULL,'{{"o''k",NULL}}',{instant},'q''')"""
    second = f"""(NULL,NULL,{"'" * 6},NULL,NULL,{instant},'r')"""
    assert columns.write_values(table) == f"{first},{second}"


def test_rows_of_nulls_alone_are_literals_too() -> None:
    table = pa.table({"a": pa.nulls(2), "b": pa.nulls(2, pa.string())})
    assert columns.write_values(table) == "(NULL,NULL),(NULL,NULL)"


def test_no_literal_holds_a_zero_byte() -> None:
    with pytest.raises(ValueError, match="zero byte"):
        columns.write_values(pa.table({"a": pa.array(["a\0b"]), "b": pa.array([1])}))


@pytest.mark.parametrize("rows", [3, 300])
def test_few_and_many_rows_of_lists_are_read_alike(rows: int) -> None:
    schema = pa.schema([("i", pa.list_(pa.int64())), ("t", pa.list_(pa.string())), ("b", pa.list_(pa.bool_()))])
    lines = [f'"[{n},null]","[""x{n}"",null]","[true]"\n' if n % 2 else ",[],\n" for n in range(rows)]
    read = columns.read_copy("".join(lines).encode(), schema)
    assert read.schema == schema
    assert read.to_pylist() == [
        {"i": [n, None], "t": [f"x{n}", None], "b": [True]} if n % 2 else {"i": None, "t": [], "b": None}
        for n in range(rows)
    ]


@pytest.mark.parametrize("rows", [3, 300])
def test_an_array_that_is_no_list_is_refused(rows: int) -> None:
    lines = ["[1]\n"] * (rows - 1) + ['"""[0:1]={1,2}"""\n']
    with pytest.raises(pa.ArrowInvalid, match="several dimensions"):
        columns.read_copy("".join(lines).encode(), pa.schema([("i", pa.list_(pa.int64()))]))


@pytest.mark.parametrize("megabytes", [70, 140])
def test_a_row_that_lies_in_many_blocks_is_read(monkeypatch, megabytes: int) -> None:
    """Scaled down: a block of a megabyte for one of 64."""
    monkeypatch.setattr(columns, "_BLOCK", 1 << 20)
    long = "x" * (megabytes * (1 << 20) // 64)
    schema = pa.schema([("id", pa.int64()), ("t", pa.string())])
    read = columns.read_copy(f"1,a\n7,{long}\n8,b\n".encode(), schema)
    assert read.to_pylist() == [{"id": 1, "t": "a"}, {"id": 7, "t": long}, {"id": 8, "t": "b"}]
    assert bytes(columns.write_copy(read)) == f'1,"a"\n7,"{long}"\n8,"b"\n'.encode()
