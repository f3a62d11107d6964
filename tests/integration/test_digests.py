"""Two values that a reader can tell apart have two digests, whatever PostgreSQL's hash functions make of them."""

import itertools

import pytest

from sync_pipeline.digest import digest_of

# values of a type, none equal to another
APART = {
    "real": ["NULL", "'0'", "'1'", "'NaN'", "'Infinity'"],
    "double precision": ["NULL", "'0'", "'NaN'", "'Infinity'", "'-Infinity'"],
    "numeric": ["NULL", "'0'", "'NaN'", "'Infinity'", "'-Infinity'", "'1'"],
    "numeric(24,10)": ["NULL", "'0'", "'NaN'"],
    "jsonb": ["NULL", "'{}'", "'[]'", "'null'", "'0'", "'\"\"'", "'[[]]'", "'[{}]'", "'[null]'"],
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
    "interval": ["NULL", "'0'", "'1 day'"],
    "bit(3)": ["NULL", "'000'", "'001'"],
    "text[]": ["NULL", "'{}'", "'{NULL}'", "'{\"\"}'", "'{a}'", "'{A}'"],
    "double precision[]": ["NULL", "'{}'", "'{NULL}'", "'{0}'"],
    "numeric[]": ["NULL", "'{}'", "'{NULL}'", "'{0}'", "'{NaN}'"],
    "jsonb[]": ["NULL", "'{}'", "'{NULL}'", "'{\"{}\"}'", "'{\"[]\"}'"],
    "integer[]": ["NULL", "'{}'", "'{NULL}'", "'{0}'"],
}
# two ways to write one value
SAME = {
    "numeric": ("'1.0'", "'1.00'"),
    "jsonb": ('\'{"a": 1, "b": 2}\'', '\'{"b": 2, "a": 1}\''),
    "double precision": ("'0'", "'-0'"),
}


@pytest.fixture(scope="module")
def world(fresh_world):
    return fresh_world


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


def test_columns_do_not_stand_in_for_each_other(world):
    """What one column loses another does not hide."""
    digest = digest_of({"a": "numeric", "b": "numeric", "c": "jsonb"})
    rows = "(0, NULL, '{}'), (NULL, 0, '{}'), (NULL, NULL, '{}'), (NULL, 0, NULL), (0, 0, '[]')"
    query = f"SELECT {digest} FROM (VALUES (0::numeric, 0::numeric, NULL::jsonb), {rows}) q (a, b, c)"
    found = [digest for (digest,) in world.legacy(query)]
    assert len(set(found)) == len(found) == 6
