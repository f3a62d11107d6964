"""One entity of two tables with quoted names in two schemas: its key's kind is a constant of each table's way to it."""

import pandas as pd
import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.preflight.preflight import preflight
from sync_pipeline.run.sweep import sweep
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.table import Literal, Table
from tests.installed import SOURCES, made, unmade
from tests.integration.test_sources import catalogue
from tests.world import opened, wait_for

MONOLITH = """
    CREATE SCHEMA legacy;
    CREATE TABLE legacy."People" ("Id" integer PRIMARY KEY, name text);
    CREATE TABLE legacy."Film" ("Id" bigint PRIMARY KEY, title text, "personId" integer,
        "changedAt" timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE TABLE book (id bigint PRIMARY KEY, title text, person_id integer,
        changed_at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE TABLE legacy."links" (id bigint PRIMARY KEY, "fromFilm" bigint, "toBook" bigint);
    CREATE INDEX ON legacy."Film" ("changedAt");
    CREATE INDEX ON book (changed_at);
    GRANT USAGE ON SCHEMA legacy TO sync_reader;
    GRANT SELECT ON ALL TABLES IN SCHEMA legacy, public TO sync_reader;
    INSERT INTO legacy."People" VALUES (1, 'Ada'), (2, 'Ben');
    INSERT INTO legacy."Film" SELECT n, 'film ' || n, 1 + mod(n, 2) FROM generate_series(1, 20) n;
    INSERT INTO book SELECT n, 'book ' || n, 1 + mod(n, 2) FROM generate_series(1, 20) n;
    INSERT INTO legacy."links" VALUES (1, 1, 1), (2, 2, 2);
"""
QUERY = """
    SELECT 'film' AS kind, f."Id" AS id, f.title, p.name,
           ARRAY(SELECT "toBook" FROM legacy."links" l WHERE l."fromFilm" = f."Id" ORDER BY 1)::text AS links
    FROM legacy."Film" f LEFT JOIN legacy."People" p ON p."Id" = f."personId"
    UNION ALL
    SELECT 'book', b.id, b.title, p.name,
           ARRAY(SELECT "fromFilm" FROM legacy."links" l WHERE l."toBook" = b.id ORDER BY 1)::text
    FROM book b LEFT JOIN legacy."People" p ON p."Id" = b.person_id
"""
TABLES = (
    Table('legacy."Film"', key=(Literal("film"), '"Id"'), stamp='"changedAt"'),
    Table("public.book", key=(Literal("book"), "ID"), stamp="changed_at"),
    Table(
        'legacy."People"',
        key=(Literal("film"), 'f."Id"'),
        join='JOIN legacy."Film" f ON f."personId" = legacy."People"."Id"',
    ),
    Table('legacy."People"', key=(Literal("book"), "b.id"), join='JOIN book b ON b.person_id = legacy."People"."Id"'),
    Table('legacy."links"', key=(Literal("film"), '"fromFilm"')),
    Table("legacy.links", key=(Literal("book"), '"toBook"')),
)
WORK = Entity(
    name="work",
    owner="team:tests",
    origin=LegacyQuery(QUERY, key=("kind", "id")),
    tables=TABLES,
    adapt=lambda legacy: pd.DataFrame({name: legacy[name] for name in ("kind", "id", "title", "name", "links")}),
    sinks=(
        RelationalTable(
            "catalog.work",
            key=("kind", "id"),
            columns={"kind": "text", "id": "bigint", "title": "text", "name": "text", "links": "text"},
        ),
    ),
    partitions=KeyRanges(1),
)
NOW = '"changedAt" = clock_timestamp()'
CHANGES = {
    "insert": """INSERT INTO legacy."Film" VALUES (21, 'new', 1); INSERT INTO book VALUES (22, 'new', 2)""",
    "update": f"""UPDATE legacy."Film" SET title = 'edited', {NOW} WHERE "Id" = 3""",
    "update without a stamp": "UPDATE book SET title = 'bulk' WHERE id = 3",
    "delete of one kind": """DELETE FROM legacy."Film" WHERE "Id" = 4""",
    "delete of the other": "DELETE FROM book WHERE id = 5",
    "another key": """UPDATE legacy."Film" SET "Id" = 30 WHERE "Id" = 6""",
    "parent of both kinds": """UPDATE legacy."People" SET name = name || '!' WHERE "Id" = 1""",
    "link of both kinds": """UPDATE legacy."links" SET "fromFilm" = 7, "toBook" = 7 WHERE id = 1""",
    "link removed": """DELETE FROM legacy."links" WHERE id = 2""",
}
STAMPED = {"insert", "update"}


@pytest.fixture(scope="module", params=["watermark", "outbox", "wal"])
def caught(request, fleet):
    """(the world, the entity's context while it is followed, its source), with the sweep off."""
    with opened(fleet, "union", SYNC_SWEEP_SECONDS="1e9", SYNC_MARGIN_SECONDS="0.2") as world:
        world.legacy(MONOLITH)
        entity = Entity(**{**vars(WORK), "capture": SOURCES[request.param]})
        context = EntityContext.open(entity, world.stores)
        before = catalogue(world)
        for statement in made(context):
            world.legacy(statement)
        assert [n.what for n in preflight(world.stores, [entity]) if n.level == "error"] == []
        world.target("UPDATE sync.cursor SET filled_at = now(), swept_at = now()")
        with world.following([context]):
            wait_for(lambda: world.target("SELECT 1 FROM sync.cursor WHERE applied_through IS NOT NULL"))
            keys = [f'["{kind}", "{n}"]' for kind in ("film", "book") for n in range(1, 21)]
            sync_keys(context, context.origin.key.parse(keys), Order())
            yield world, context, request.param
        if request.param != "watermark":
            assert world.target("SELECT 1 FROM sync.cursor WHERE swept_from IS NOT NULL") == []
        for statement in unmade(context):
            world.legacy(statement)
        assert catalogue(world) == before


def apart(world):
    """What the two sides do not agree on."""
    return set(world.legacy(QUERY)) ^ set(world.target("SELECT kind, id, title, name, links FROM catalog.work"))


def settled(world):
    """Everything committed by now has been reported, and what is owed is done."""
    ((since,),) = world.legacy("SELECT clock_timestamp()")
    wait_for(lambda: world.target("SELECT 1 FROM sync.cursor WHERE applied_through > %s", [since]))
    wait_for(lambda: not world.target("SELECT 1 FROM sync.due"))


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_either_kind_arrives(caught, change):
    world, context, source = caught
    world.legacy(CHANGES[change])
    settled(world)
    if source == "watermark" and change not in STAMPED:
        assert apart(world)
        sweep(context)
        settled(world)
    assert apart(world) == set()
