"""A row that breaks an expectation is counted and named by key, whatever types its columns have."""

import pytest

from checks.expect import Between, Holds, Known, NotNull, OneOf, Rows
from checks.suite import LEGACY as LEGACY_SIDE
from checks.suite import Side

# Great Expectations' own, at its import
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
ODDS = """
    CREATE TABLE odds (id numeric PRIMARY KEY, title text, released date, valid tstzrange, blob bytea,
        ratio double precision, took interval, price numeric, at timestamptz, parts int4multirange, days date[],
        tax numeric, ends time, doc jsonb, names text[], big numeric DEFAULT 10.0 / 3);
    GRANT SELECT ON odds TO sync_reader;
    INSERT INTO odds SELECT n, 'odd ' || n, '2001-01-01', tstzrange('2001-01-01', '2002-01-01'), '\\x00ff', n,
        n * interval '1 hour', n, '2020-01-01', '{[1,2)}', '{2020-01-01}' FROM generate_series(1, 20) n;
    UPDATE odds SET released = '0044-03-15 BC' WHERE id = 1;
    UPDATE odds SET released = '20000-01-01', days = '{20000-01-01}' WHERE id = 2;
    UPDATE odds SET valid = 'empty' WHERE id = 3;
    UPDATE odds SET ratio = 'NaN', price = 'NaN' WHERE id = 4;
    UPDATE odds SET ratio = 'Infinity', took = interval '-178000000 years' WHERE id = 5;
    UPDATE odds SET at = '-infinity' WHERE id = 6;
    UPDATE odds SET id = 9007199254740993, tax = 12345678901234567890.120, ends = '24:00', doc = '{"a": 1.10}',
        names = '{a,NULL,"b c"}' WHERE id = 7;
"""
# an expectation, how many rows break it, and what is shown of the first
BROKEN = [
    (Holds("blob is empty", "octet_length(blob) < 1", show=("blob",)), 20, "blob \\x00ff"),
    (Holds("range is not empty", "NOT isempty(valid)", show=("valid", "parts")), 1, "id 3, valid empty, parts {[1,2)}"),
    (Between("released", at_least="1850-01-01", at_most="2100-01-01"), 2, "released 20000-01-01"),
    (Between("price", at_least=0, at_most=40), 1, "id 4, price NaN"),
    (Holds("ratio is finite", "ratio < 'Infinity'", show=("ratio", "took")), 2,
     "id 5, ratio Infinity, took -178000000 years"),
    (Holds("ratio is a number", "ratio <> 'NaN'", show=("ratio", "price")), 1, "id 4, ratio NaN, price NaN"),
    (Holds("at is finite", "isfinite(at)", show=("at",)), 1, "id 6, at -infinity"),
    (Holds("days are near", "days < '{2100-01-01}'", show=("days",)), 1, "id 2, days {20000-01-01}"),
    (Holds("no tax", "tax IS NULL", show=("tax",)), 1, "id 9007199254740993, tax 12345678901234567890.120"),
    (Between("tax", at_most=10), 1, "id 9007199254740993, tax 12345678901234567890.120"),
    (Holds("ends before midnight", "ends < '24:00'", show=("ends",)), 1, "ends 24:00:00"),
    (Holds("no document", "doc IS NULL", show=("doc",)), 1, 'doc {"a": 1.10}'),
    (OneOf("doc", ("null",)), 1, 'doc {"a": 1.10}'),
    (Holds("no names", "names IS NULL", show=("names",)), 1, 'names {a,NULL,"b c"}'),
]  # fmt: skip
MET = (
    Known("the mean is small", "ExpectColumnMeanToBeBetween", {"column": "big", "min_value": 3, "max_value": 4}),
    Known("the sum is small", "ExpectColumnSumToBeBetween", {"column": "big", "min_value": 60, "max_value": 70}),
    Known("the highest is low", "ExpectColumnMaxToBeBetween", {"column": "big", "min_value": 3.3, "max_value": 4}),
)


@pytest.fixture(scope="module")
def report(fresh_world, tmp_path_factory):
    from checks import validation

    fresh_world.legacy(ODDS)
    expectations = (NotNull("title"), *(expectation for expectation, *_ in BROKEN), *MET)
    side = Side("odd", LEGACY_SIDE, "odds", Rows("SELECT * FROM odds", ("id",)), expectations)
    folder = tmp_path_factory.mktemp("docs")
    return validation.Validator(fresh_world.stores.settings, folder, "run").validate(side)


@pytest.mark.hazard(129)
@pytest.mark.parametrize("number", range(len(BROKEN)), ids=[each.statement for each, *_ in BROKEN])
def test_a_row_of_rare_values_is_counted_and_shown_as_the_server_writes_it(report, number):
    _, unexpected, shown = BROKEN[number]
    found = report.results[number + 1]
    assert (found.fault, found.met, found.unexpected) == ("", False, unexpected)
    assert shown in found.samples


def test_other_expectations_of_the_side_are_met(report):
    assert [each.fault for each in report.results if each.met] == [""] * 4
    assert all(each.met for each in (report.results[0], *report.results[-len(MET) :]))
