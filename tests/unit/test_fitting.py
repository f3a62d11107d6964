"""Values that adapters return: carried exactly, or refused with a sentence, whatever stands beside them."""

import datetime as dt
import enum
import ipaddress
import math
from decimal import Decimal
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from psycopg2.extras import DateTimeTZRange, NumericRange

from sync_pipeline.batch.fitting import concatenate, fit
from sync_pipeline.db.columns import document_columns, json_of, text_of, write_copy


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


BERLIN = ZoneInfo("Europe/Berlin")
# value, declared type, the text that COPY is given
CARRIED = [
    (dt.timedelta(hours=1, minutes=30), "interval", "01:30:00.000000"),
    (dt.timedelta(hours=-1), "interval", "-01:00:00.000000"),
    (pd.Timedelta("1 day 2 hours"), "interval not null", "1 days 02:00:00.000000"),
    (np.timedelta64(90, "m"), "interval", "01:30:00.000000"),
    (b"\\x41\x00\xff", "bytea", "\\x5c78343100ff"),
    (bytearray(b"a"), "bytea", "\\x61"),
    (memoryview(b"a"), "bytea", "\\x61"),
    ({"colour": "red"}, "jsonb", '{"colour": "red"}'),
    ({"n": Decimal("1.00"), "at": dt.date(2020, 1, 1), "big": 2**80}, "jsonb",
     '{"n": 1.00, "at": "2020-01-01", "big": 1208925819614629174706176}'),
    ([], "jsonb", "[]"),
    ([{"a": None}], "json", '[{"a": null}]'),
    ((1, 2), "integer[]", '{"1","2"}'),
    ([["a", None], ["b,", 'c"']], "text[]", '{{"a",NULL},{"b,","c\\""}}'),
    (np.array([1, 2]), "bigint[]", '{"1","2"}'),
    (np.array([[1.5, 2], [3, 4]]), "numeric[]", '{{"1.5","2"},{"3","4"}}'),
    ([{"a": 1}, "[]"], "jsonb[]", '{"{\\"a\\": 1}","[]"}'),
    ([b"\\"], "bytea[]", '{"\\\\x5c"}'),
    (Decimal("1.00"), "numeric", "1.00"),
    (Decimal("NaN"), "numeric", "NaN"),
    (Decimal("Infinity"), "numeric", "Infinity"),
    (dt.date(9999, 12, 31), "date", "9999-12-31"),
    (dt.datetime(2020, 1, 1), "timestamp", "2020-01-01 00:00:00.000000"),
    (dt.datetime(2020, 1, 1, tzinfo=dt.UTC), "timestamptz", "2020-01-01 00:00:00.000000Z"),
    (dt.datetime(2020, 7, 1, tzinfo=BERLIN), "timestamptz", "2020-07-01 00:00:00.000000+0200"),
    (dt.datetime(1880, 1, 1, tzinfo=BERLIN), "timestamptz", "1879-12-31 23:06:32.000000Z"),
    (dt.time(12, 30, 0, 1), "time", "12:30:00.000001"),
    (dt.time(12, 30, tzinfo=dt.UTC), "timetz", "12:30:00+00:00"),
    (UUID(int=1), "uuid", "00000000-0000-0000-0000-000000000001"),
    (Colour.RED, "text", "red"),
    (Level.HIGH, "integer", "3"),
    (ipaddress.ip_network("10.0.0.0/8"), "cidr", "10.0.0.0/8"),
    (NumericRange(1, None, "[)"), "numrange", '["1",)'),
    (DateTimeTZRange(empty=True), "tstzrange", "empty"),
    (pd.Interval(1, 5, closed="left"), "int4range", '["1","5")'),
    (np.int64(5), "bigint", "5"),
    (np.float32(0.1), "numeric", "0.1"),
    (np.bool_(True), "boolean", "true"),
    (1.0, "bigint", "1"),
    (1.0, "text", "1"),
    (-0.0, "numeric", "-0"),
    (2**63, "numeric", "9223372036854775808"),
    (True, "jsonb", "true"),
    (pa.MonthDayNano([1, 2, 3000]), "interval", "1 mons 2 days 3 microseconds"),
    *((missing, kind, None) for missing in (None, pd.NA, pd.NaT, float("nan"), np.datetime64("NaT"))
      for kind in ("bigint", "interval", "jsonb", "text[]", "timestamptz")),
]  # fmt: skip
REFUSED = [
    (b"a", "text", "bytes b'a': bytes have no form for type text"),
    (dt.timedelta(1), "bigint", "a duration has no form for type bigint"),
    (pd.Timedelta(1, "ns"), "interval", "an interval has no nanoseconds"),
    ({"a": 1}, "hstore", "a dict has no form for type hstore"),
    ({"a": 1}, "jsonb[]", "a dict has no form for type jsonb"),
    ([1], "vector(3)", "a list has no form for type vector"),
    ({"a": math.inf}, "jsonb", "JSON has no form for inf"),
    ({"a": b""}, "jsonb", "JSON has no form for bytes"),
    ({1: 2}, "jsonb", "a dict whose keys are not texts (int)"),
    ({"a": "\0"}, "jsonb", "a text with a zero byte"),
    ("\ud800", "text", "a text that is no Unicode"),
    ({1, 2}, "integer[]", "set {1, 2}: it has no form for PostgreSQL"),
    (object, "text", "it has no form for PostgreSQL"),
    (1j, "text", "it has no form for PostgreSQL"),
    (1.5, "bigint", "the float 1.5 is no value of type bigint"),
    (2.0**63, "bigint", "the float 9.223372036854776e+18 is no value of type bigint"),
    (-(2.0**63), "bigint", "the float -9.223372036854776e+18 is no value of type bigint"),
    (pd.Interval(1, 2), "text[]", None),
]


def fitted(values, kind, fields=(), dtype=object):
    return fit({"v": pd.Series(values, dtype=dtype)}, {"v": kind} if kind else {}, fields)


def texts(result):
    return [None if value is None else str(value) for value in text_of(pa.array(result.columns["v"])).to_pylist()]


def named(value):
    """A name that is the same in each process: some values print their address."""
    return f"{type(value).__name__} {bytes(value)!r}" if isinstance(value, memoryview) else str(value)


@pytest.mark.parametrize(("value", "kind", "text"), CARRIED, ids=named)
def test_a_value_is_carried_beside_any_other(value, kind, text):
    for neighbours in ([], [None], ["x"], [1.5, None], [True, None], [[1]], [{"other": 1}]):
        result = fitted([value, *neighbours], kind.split(" not ")[0])
        assert 0 not in result.faults
        column = result.columns["v"].slice(0, 1)
        written = bytes(write_copy(pa.table({"v": column, "n": [0]}))).decode()
        in_quotes = "" if text is None else '"' + text.replace('"', '""') + '"'
        assert written in {f"{in_quotes},0\n", f"{text or ''},0\n"}


@pytest.mark.parametrize(("value", "kind", "sentence"), REFUSED, ids=named)
def test_what_has_no_form_is_refused_alone_and_by_name(value, kind, sentence):
    result = fitted([None, value, None], kind)
    assert list(result.faults) == ([1] if sentence else [])
    if sentence:
        assert sentence in result.faults[1]
        assert result.faults[1].startswith("column v: ")


@pytest.mark.parametrize("dtype", ["float64", "Float64", "float32", object])
def test_whole_numbers_that_became_floats_beside_a_null_are_whole_numbers(dtype):
    for kind in ("bigint", "numeric", "text"):
        assert texts(fitted([1, None, 2**20], kind, dtype=dtype)) == ["1", None, "1048576"]


def test_a_whole_number_that_a_float_cannot_hold_is_no_fault_of_other_rows():
    result = fitted([2**53 + 1, None, 7], "bigint", dtype="float64")
    assert list(result.faults) == [0]
    assert "may have lost digits" in result.faults[0]
    assert texts(fitted([2**53 + 1], "bigint", dtype="int64")) == [str(2**53 + 1)]


def test_documents_bear_what_the_table_takes_in_another_form():
    made = {
        "doc": pd.Series([{"a": 1}, None]),
        "list": pd.Series([[1, None], ["x"]]),
        "blob": pd.Series([b"a", None]),
        "at": pd.Series([dt.datetime(2020, 1, 1, tzinfo=dt.UTC), None], dtype=object),
        "only": pd.Series([{"b": Decimal("1.10")}, [1]]),
    }
    kinds = {"doc": "jsonb", "list": "text[]", "blob": "bytea", "at": "timestamptz"}
    result = fit(made, kinds, made)
    assert not result.faults
    bodies = [json_of(column).to_pylist() for column in document_columns(result.table, list(made)).columns]
    assert bodies == [
        ['{"a": 1}', "null"],
        ["[1, null]", '["x"]'],
        ['"\\\\x61"', "null"],
        ['"2020-01-01T00:00:00.000000Z"', "null"],
        ['{"b": 1.10}', "[1]"],
    ]


def test_arrow_columns_are_fitted_by_their_declared_type():
    made = {
        "list": pd.Series(pd.array([["a"], []], dtype=pd.ArrowDtype(pa.list_(pa.string())))),
        "struct": pd.Series(pd.array([{"a": 1}, None], dtype=pd.ArrowDtype(pa.struct([("a", pa.int64())])))),
        "blob": pd.Series(pd.array([b"\\x41", b"\xff"], dtype=pd.ArrowDtype(pa.binary()))),
        "took": pd.Series(pd.to_timedelta(["1 day", None])),
        "nan": pd.Series(pd.array([[math.nan], [1.0]], dtype=pd.ArrowDtype(pa.list_(pa.float64())))),
    }
    result = fit(made, {"list": "jsonb", "struct": "jsonb", "blob": "bytea", "took": "interval", "nan": "float8[]"})
    assert result.columns["list"].to_pylist() == ['["a"]', "[]"]
    assert result.columns["struct"].to_pylist() == ['{"a":1}', None]
    assert result.columns["blob"].to_pylist() == ["\\x5c783431", "\\xff"]
    assert result.columns["took"].to_pylist() == ["1 days 00:00:00.000000", None]
    assert "{nan}" in bytes(write_copy(pa.table({"v": result.columns["nan"]}))).decode().replace('"', "")


def test_pieces_of_different_types_are_joined_without_another_type_of_both():
    one, other = pa.table({"v": pa.array([2**53 + 1])}), pa.table({"v": pa.array([1.5])})
    assert concatenate([one, other]).column("v").to_pylist() == [str(2**53 + 1), "1.5"]
    nothing = pa.table({"v": pa.nulls(1)})
    assert concatenate([nothing, one]).column("v").to_pylist() == [None, 2**53 + 1]
    lists = pa.table({"v": pa.array([[math.nan, None]])})
    assert concatenate([lists, pa.table({"v": pa.array(["{{1}}"])})]).column("v").to_pylist() == [
        '{"nan",NULL}',
        "{{1}}",
    ]
