"""Two values that a reader can tell apart have two digests, whatever PostgreSQL's hash functions make of them."""

import itertools

import pytest

from sync_pipeline.db.digest import digest_expression, digest_of, digest_version, former_expressions, former_version
from sync_pipeline.db.equality import comparable
from sync_pipeline.db.keys import Key
from sync_pipeline.ledger.ledger import Ledger, migrate
from sync_pipeline.settings import Settings
from sync_pipeline.stores.stores import Stores

# values of a type, none equal to another
APART = {
    "real": ["NULL", "'0'", "'-0'", "'1'", "'NaN'", "'Infinity'"],
    "double precision": ["NULL", "'0'", "'-0'", "'NaN'", "'Infinity'", "'-Infinity'"],
    "numeric": ["NULL", "'0'", "'0.0'", "'NaN'", "'Infinity'", "'-Infinity'", "'1'", "'1.0'", "'1.00'"],
    "numeric(24,10)": ["NULL", "'0'", "'NaN'"],
    "jsonb": [
        "NULL",
        "'{\"a\": 1}'",
        "'{\"a\": 1.0}'",
        "'{}'",
        "'[]'",
        "'null'",
        "'0'",
        "'\"\"'",
        "'[[]]'",
        "'[{}]'",
        "'[null]'",
    ],
    "json": ["NULL", "'{}'", "'[]'", "'null'", "'{\"a\": {}}'"],
    "integer": ["NULL", "'0'", "'1'"],
    "bigint": ["NULL", "'0'", "'-1'"],
    "boolean": ["NULL", "'f'", "'t'"],
    "text": ["NULL", "''", "' '", "'a'", "'A'", "'NULL'"],
    "character varying(10)": ["NULL", "''", "'a'", "'A'"],
    "bytea": ["NULL", "''", "'\\x00'"],
    "uuid": ["NULL", "'00000000-0000-0000-0000-000000000000'"],
    "date": ["NULL", "'2000-01-01'", "'infinity'", "'-infinity'"],
    "timestamp with time zone": ["NULL", "'2000-01-01 00:00Z'", "'infinity'"],
    "interval": ["NULL", "'0'", "'1 day'", "'24:00'", "'30 days'", "'1 mon'", "'-1 mon'", "'720:00'"],
    "bit(3)": ["NULL", "'000'", "'001'"],
    "text[]": ["NULL", "'{}'", "'{NULL}'", "'{\"\"}'", "'{a}'", "'{A}'"],
    "double precision[]": ["NULL", "'{}'", "'{NULL}'", "'{0}'"],
    "numeric[]": ["NULL", "'{}'", "'{NULL}'", "'{0}'", "'{NaN}'"],
    "jsonb[]": ["NULL", "'{}'", "'{NULL}'", "'{\"{}\"}'", "'{\"[]\"}'"],
    "integer[]": ["NULL", "'{}'", "'{NULL}'", "'{0}'", "'{1,2,3,4}'", "'{{1,2},{3,4}}'", "'[0:3]={1,2,3,4}'"],
    "interval[]": ["NULL", "'{}'", "'{1 mon}'", "'{30 days}'"],
    "bpchar": ["NULL", "''", "'a'", "'A'"],
    "time with time zone": ["NULL", "'12:00+00'", "'13:00+01'"],
    "timestamp(3) with time zone": ["NULL", "'2000-01-01 00:00Z'", "'-infinity'"],
    "box": ["NULL", "'(0,0),(1,4)'", "'(0,0),(2,2)'"],
    "numrange": ["NULL", "'empty'", "'[1,2)'", "'[1,2]'", "'[1.0,2]'", "'(,)'", "'[0,5]'", "'[5,NaN]'", "'[0,NaN]'"],
    "tstzrange": ["NULL", "'empty'", "'[2000-01-01 00:00Z,)'", "'(2000-01-01 00:00Z,)'", "'(,)'"],
    "money": ["NULL", "'0'", "'1'"],
    "tsvector": ["NULL", "''", "'a'", "'a:1'"],
    "digest_term": ["NULL", "'(,)'", "'(1 mon,1)'", "'(30 days,1)'", "'(1 mon,)'"],
    "digest_term[]": ["NULL", "'{}'", "'{\"(1 mon,1)\"}'", "'{\"(30 days,1)\"}'"],
    "digest_state": ["NULL", "'draft'", "'live'"],
}
# two ways to write one value
SAME = {
    "numeric(10,2)": ("'1.0'", "'1.00'"),
    "jsonb": ('\'{"a": 1, "b": 2}\'', '\'{"b": 2, "a": 1}\''),
    "double precision": ("'0.1'", "'1e-1'"),
}


@pytest.fixture(scope="module")
def world(fresh_world):
    fresh_world.legacy("CREATE TYPE digest_term AS (length interval, n integer)")
    fresh_world.legacy("CREATE TYPE digest_state AS ENUM ('draft', 'live')")
    return fresh_world


def differ(world, kind, one, other):
    """Whether a comparison of the new side tells two values of a type apart."""
    values = f"FROM (SELECT {one}::{kind} AS a, {other}::{kind} AS b) v"
    return world.legacy(f"SELECT {comparable('a', kind)} IS DISTINCT FROM {comparable('b', kind)} {values}")[0][0]


def digests(world, kind, values):
    rows = " UNION ALL ".join(f"SELECT {n} AS n, {value}::{kind} AS v" for n, value in enumerate(values))
    digest = digest_of({"before": "integer", "v": kind, "after": "text"})
    query = f"SELECT {digest} FROM (SELECT n, 1 AS before, v, 'x' AS after FROM ({rows}) r) q ORDER BY n"
    return [found for (found,) in world.legacy(query)]


@pytest.mark.hazard(34)
@pytest.mark.parametrize("kind", APART)
def test_values_are_told_apart(world, kind):
    found = digests(world, kind, APART[kind])
    alike = [(a, b) for (a, x), (b, y) in itertools.combinations(zip(APART[kind], found, strict=True), 2) if x == y]
    assert alike == []


@pytest.mark.hazard(34)
@pytest.mark.parametrize("kind", SAME)
def test_one_value_has_one_digest(world, kind):
    assert len(set(digests(world, kind, SAME[kind]))) == 1


@pytest.mark.hazard(116)
@pytest.mark.parametrize("kind", APART)
def test_a_comparison_tells_values_apart(world, kind):
    pairs = itertools.combinations(APART[kind], 2)
    assert [(one, other) for one, other in pairs if not differ(world, kind, one, other)] == []


@pytest.mark.hazard(34)
@pytest.mark.parametrize("kind", SAME)
def test_a_comparison_takes_two_ways_to_write_a_value_for_one(world, kind):
    assert not differ(world, kind, *SAME[kind])


@pytest.mark.hazard(116)
def test_an_enum_keeps_its_digest_after_a_dump_and_restore(world):
    before = digests(world, "digest_state", ["'draft'"])
    world.legacy("DROP TYPE digest_state; CREATE TYPE digest_state AS ENUM ('draft', 'live')")
    assert digests(world, "digest_state", ["'draft'"]) == before


def test_a_version_changes_with_the_expression_and_only_with_it():
    def version(**types):
        return digest_version({"id": "bigint", **types}, 18)

    assert version(v="text") == version(v="character varying(10)")
    assert version(v="text") != version(v="integer")
    assert version(v="text") != version(w="text")
    assert version(v="text") != digest_version({"id": "bigint", "v": "text"}, 17)


def test_a_ledger_keeps_its_digests_where_the_expression_has_stayed_the_same():
    def former(kind):
        return former_version({"id": "bigint", "v": kind}, 18)

    kept = ["text", "numeric(10,2)", "jsonb", "jsonb[]", "real[]", "timestamp with time zone", "bit(3)"]
    assert {former(kind).split("/")[0] for kind in kept} == {"2"}
    assert {former(kind).split("/")[0] for kind in ["interval", "integer[]", "text[]", "digest_state"]} == {"3"}
    assert [former(kind) for kind in ["numeric", "real", "double precision"]] == [None] * 3


def test_former_expressions_are_those_of_algorithms_2_and_3(world):
    """Each runs on the monolith; of the columns that both hashed as now, the parts are those of now."""
    types = {"id": "bigint", "n": "numeric", "r": "real", "tags": "text[]", "doc": "jsonb"}
    found, now = former_expressions(types, 18), digest_expression(types).parts
    assert [version.split("/")[:2] for version in found] == [["2", "18"], ["3", "18"]]
    differing = [{name for name in types if former.parts[name] != now[name]} for former in found.values()]
    assert differing == [{"n", "r", "tags"}, {"n", "r"}]
    columns = ", ".join(f"NULL::{kind} AS {name}" for name, kind in types.items())
    for former in found.values():
        assert world.legacy(f"SELECT {former.sql} FROM (SELECT {columns}) q")
    # a composite of NULLs had the digest of NULL, so such rows are compared one by one
    assert [version[0] for version in former_expressions(types | {"term": "digest_term"}, 18)] == ["3"]


@pytest.mark.parametrize("kind", APART)
def test_each_part_tells_null_from_all_values(world, kind):
    """So a column that is NULL, while a digest of this part is as before, was NULL before."""
    others = [value for value in APART[kind] if value != "NULL"]
    for part in {*(former.parts["v"] for former in former_expressions({"v": kind}, 18).values())}:
        rows = ", ".join(f"({value}::{kind})" for value in ("NULL", *others))
        query = f"SELECT hash_record_extended(ROW({part}), 0) FROM (VALUES {rows}) q (v)"
        null, *found = [digest for (digest,) in world.legacy(query)]
        assert null not in found


@pytest.mark.hazard(128)
def test_a_ledger_of_a_former_version_is_the_same_ledger(world):
    with Stores(Settings.from_env()).target() as cursor:
        migrate(Stores(Settings.from_env()))
        key = Key(("id",), ("bigint",))
        before = Ledger.open(cursor, "kept", key, 1, "3/18/abc")
        renamed = Ledger.open(cursor, "kept", key, 1, "0123/18", "3/18/abc")
        again = Ledger.open(cursor, "kept", key, 1, "0123/18", "3/18/abc")
        other = Ledger.open(cursor, "kept", key, 1, "4567/18", None)
    assert before.basis == renamed.basis == again.basis != other.basis


def test_columns_do_not_stand_in_for_each_other(world):
    """What one column loses another does not hide."""
    digest = digest_of({"a": "numeric", "b": "numeric", "c": "jsonb"})
    rows = "(0, NULL, '{}'), (NULL, 0, '{}'), (NULL, NULL, '{}'), (NULL, 0, NULL), (0, 0, '[]')"
    query = f"SELECT {digest} FROM (VALUES (0::numeric, 0::numeric, NULL::jsonb), {rows}) q (a, b, c)"
    found = [digest for (digest,) in world.legacy(query)]
    assert len(set(found)) == len(found) == 6
