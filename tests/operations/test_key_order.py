"""Text keys without an index in the order of their pages are named with the statement that makes it."""

from dataclasses import replace

import pandas as pd
import pytest

from sync_pipeline.db import plans
from sync_pipeline.entities.origin import Origin
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.preflight import key_order
from sync_pipeline.preflight.key_order import check_key_order
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.table import Table

ROWS = 3_000
MONOLITH = """
    CREATE TABLE tale (slug text PRIMARY KEY, shelf integer NOT NULL, "Title" varchar(40), UNIQUE (shelf, slug));
    CREATE TABLE shelf (id integer PRIMARY KEY, name text);
    CREATE VIEW told AS SELECT slug AS name, shelf, "Title" AS title FROM tale WHERE shelf >= 0;
    CREATE TABLE cut (slug text PRIMARY KEY) PARTITION BY HASH (slug);
    CREATE TABLE cut_0 PARTITION OF cut FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE cut_1 PARTITION OF cut FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    INSERT INTO tale SELECT md5(n::text), n %% 7, 'title ' || n FROM generate_series(1, 3000) n;
    INSERT INTO cut SELECT slug FROM tale;
    INSERT INTO shelf SELECT n, 'shelf ' || n FROM generate_series(0, 6) n;
    GRANT SELECT ON tale, shelf, told, cut TO sync_reader;
    ANALYZE;
"""
TALE = Entity(
    name="tale",
    owner="team:tests",
    origin=LegacyQuery("SELECT slug FROM tale", key=("slug",)),
    tables=(Table("tale", key=("slug",)),),
    adapt=lambda legacy: pd.DataFrame({"slug": legacy["slug"]}),
    sinks=(RelationalTable("catalog.tale", key=("slug",), columns={"slug": "text"}),),
    partitions=KeyRanges(1),
)
# a query with its key, and the statement that gives it an index
QUERIES = {
    "one column": (
        LegacyQuery("SELECT slug FROM tale", key=("slug",)),
        'CREATE INDEX CONCURRENTLY ON public.tale (slug COLLATE "C");',
    ),
    "two columns": (
        LegacyQuery("SELECT shelf, slug FROM tale", key=("shelf", "slug")),
        'CREATE INDEX CONCURRENTLY ON public.tale (shelf, slug COLLATE "C");',
    ),
    "a view": (
        LegacyQuery("SELECT name, title FROM told", key=("name",)),
        'CREATE INDEX CONCURRENTLY ON public.tale (slug COLLATE "C");',
    ),
    "a joined table": (
        LegacyQuery("SELECT t.slug, s.name FROM tale t LEFT JOIN shelf s ON s.id = t.shelf", key=("slug",)),
        'CREATE INDEX CONCURRENTLY ON public.tale (slug COLLATE "C");',
    ),
    "another name": (
        LegacyQuery('SELECT "Title" AS name FROM tale', key=("name",)),
        'CREATE INDEX CONCURRENTLY ON public.tale ("Title" COLLATE "C");',
    ),
}


@pytest.fixture(scope="module", autouse=True)
def tales(world):
    world.legacy(MONOLITH)
    yield
    world.legacy("DROP VIEW told; DROP TABLE tale, shelf, cut")


@pytest.fixture(autouse=True)
def limits(monkeypatch):
    """Scaled down."""
    monkeypatch.setattr(key_order, "WARNING_ROWS", 100)
    monkeypatch.setattr(key_order, "ERROR_ROWS", 1_000)
    monkeypatch.setattr(plans, "GROUP_ROWS", 100)


def opened(world, query):
    sink = RelationalTable("catalog.tale", key=query.key, columns=dict.fromkeys(query.key, "text"))
    tables = (Table("tale", key=query.key),)
    return Origin.open(replace(TALE, origin=query, sinks=(sink,), tables=tables), world.stores)


def notices(world, query):
    with world.stores.legacy() as cursor:
        return list(check_key_order(cursor, "entity tale", opened(world, query)))


@pytest.mark.hazard(90)
@pytest.mark.parametrize("case", QUERIES)
def test_a_missing_index_is_named_with_its_statement_and_is_enough(world, case):
    query, statement = QUERIES[case]
    (found,) = notices(world, query)
    assert (found.level, found.remedy) == ("error", statement)
    world.legacy(statement)
    try:
        assert [notice.level for notice in notices(world, query)] == ["ok"]
    finally:
        world.legacy('DROP INDEX IF EXISTS "tale_slug_idx", "tale_shelf_slug_idx", "tale_Title_idx"')


@pytest.mark.hazard(90)
def test_few_rows_are_a_warning_and_very_few_are_nothing(world, monkeypatch):
    query, _ = QUERIES["one column"]
    monkeypatch.setattr(key_order, "ERROR_ROWS", 2 * ROWS)
    assert [notice.level for notice in notices(world, query)] == ["warning"]
    monkeypatch.setattr(key_order, "WARNING_ROWS", 2 * ROWS)
    assert notices(world, query) == []


@pytest.mark.hazard(90)
def test_an_index_on_the_first_columns_is_enough_where_few_rows_are_alike_in_them(world, monkeypatch):
    monkeypatch.setattr(plans, "GROUP_ROWS", 1_000)
    assert [notice.level for notice in notices(world, QUERIES["two columns"][0])] == ["ok"]


@pytest.mark.hazard(90)
def test_numbers_need_no_index_of_their_own(world):
    world.legacy("ALTER TABLE tale ADD id bigint GENERATED ALWAYS AS IDENTITY UNIQUE")
    assert [n.level for n in notices(world, LegacyQuery("SELECT id, slug FROM tale", key=("id",)))] == ["ok"]


@pytest.mark.hazard(90)
def test_what_no_statement_can_be_given_for_is_said(world):
    (of_parts,) = notices(world, LegacyQuery("SELECT slug FROM cut", key=("slug",)))
    assert "on each partition" in of_parts.remedy
    (made,) = notices(world, LegacyQuery("SELECT upper(slug) AS slug FROM tale", key=("slug",)))
    assert "what the query selects as slug" in made.remedy


def test_cuts_are_of_one_size(world):
    origin = opened(world, LegacyQuery("SELECT slug FROM tale", key=("slug",)))
    cuts = [key for (key,) in origin.cuts(4)]
    rows = sorted(slug for (slug,) in world.legacy("SELECT slug FROM tale"))
    assert [rows.index(key) + 1 for key in cuts] == [750, 1_500, 2_250]
