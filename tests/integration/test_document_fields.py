"""Fields of documents are compared by the type of their column: forms of one value are one, and no others."""

from types import SimpleNamespace

import pytest

from sync_pipeline.sinks.fields import Fields
from sync_pipeline.sinks.table import RelationalTable

COLUMNS = {
    "id": "bigint",
    "exact": "numeric",
    "several": "numeric[] not null",
    "took": "interval",
    "span": "numrange",
    "at": "timestamptz",
    "title": "text",
    "tags": "text[]",
    "extra": "jsonb",
    "place": "box",
}
TABLE = RelationalTable('catalog.Fi"elds', key=("id",), columns=COLUMNS)
ONE = [
    ("exact", "1.0", "1.00"),
    ("exact", "-0", "0.000"),
    ("exact", "NaN", "NaN"),
    ("exact", None, None),
    ("several", ["1.0", None, "2"], ["1", None, "2.000"]),
    ("several", [], []),
    ("took", "1 day 02:00:00", "P1DT2H"),
    ("span", "[1.0,2.0)", "[1.00,2)"),
    ("at", "2024-05-01T10:00:00.000000Z", "2024-05-01T12:00:00+02:00"),
    ("extra", {"a": [1, 2.0]}, {"a": [1.0, 2]}),
    ("unknown", 1, 1.0),
    ("unknown", 12345678901234567890123, 12345678901234567890123),
]
TWO = [
    ("exact", "1.0", "1.01"),
    ("exact", "1.0", 1.0),
    ("exact", "1.0", "one"),
    ("exact", "1.0", "\0"),
    ("exact", "0", None),
    ("exact", "NaN", "0"),
    ("exact", "12345678901234567890.1", "12345678901234567890.2"),
    ("several", ["1.0", "2"], ["2", "1.0"]),
    ("several", ["1.0"], ["1.0", None]),
    ("took", "1 day", "25:00:00"),
    ("took", "1 day", "24:00:00"),
    ("took", "1 mon", "30 days"),
    ("at", "2024-05-01T10:00:00Z", "2024-05-01T10:00:00.000001Z"),
    ("title", "1.0", "1.00"),
    ("title", "cafe\u0301", "café"),
    ("tags", ["a"], ["A"]),
    ("extra", {"a": "1.0"}, {"a": "1.00"}),
    ("extra", {"a": True}, {"a": 1}),
    ("extra", {"a": None}, {}),
    ("place", "(1,1),(0,0)", "(2,2),(1,1)"),
    ("unknown", "1.0", "1.00"),
    ("unknown", 12345678901234567890123, 12345678901234567890124),
]


@pytest.fixture(scope="module")
def fields(fresh_world):
    with fresh_world.stores.target() as cursor:
        TABLE.ensure(cursor)
    return Fields(SimpleNamespace(stores=fresh_world.stores, table=TABLE.quoted))


@pytest.mark.hazard(34)
@pytest.mark.parametrize(("name", "one", "other"), ONE)
def test_forms_of_one_value_are_one(fields, name, one, other):
    assert fields.differing({name: one}, {name: other}) == []


@pytest.mark.parametrize(("name", "one", "other"), TWO)
def test_other_values_differ(fields, name, one, other):
    assert fields.differing({name: one, "id": 7}, {name: other, "id": 7}) == [name]


def test_a_field_that_only_one_has_differs(fields):
    assert fields.differing({"title": None}, {}) == ["title"]
    assert fields.differing({}, {"title": None}) == ["title"]
