"""Shapes of tables on either side: each works from history to a clean verdict, or `check` refuses it by name."""

import re
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.errors import DeclarationError
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.preflight.preflight import preflight
from sync_pipeline.preflight.relations import check_capture
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run.backfill import backfill_all
from sync_pipeline.run.sweep import sweep
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.sweep_only import SweepOnly
from sync_pipeline.sources.table import Table
from sync_pipeline.sources.watermark import Watermark

HOWTO = Path(__file__).parents[2] / "docs" / "howto" / "source.md"
LONG = "a" * 63
LONG_UMLAUTS = "ä" * 31 + "x"  # 63 bytes
PLAIN = "id bigint PRIMARY KEY, title text, updated_at timestamptz NOT NULL DEFAULT now()"
COLUMNS = {"id": "bigint", "title": "text"}

PLAIN_TABLE = RelationalTable("shapes.plain", ("id",), COLUMNS)


@dataclass(frozen=True)
class Shape:
    """How a table is made in the monolith, read, and written to."""

    legacy: str
    query: str
    tables: tuple[Table, ...]
    change: str  # of the row 1
    table: RelationalTable = PLAIN_TABLE
    target: str = ""
    key: tuple[str, ...] = ("id",)
    column: str = "title"  # of the new table
    changed: str = "1"  # the key of the row that changes, as text
    caught: str = ""  # what check says of a table


def named(name: str) -> str:
    return (
        f"CREATE TABLE {name} ({PLAIN}); CREATE INDEX ON {name} (updated_at);"
        f" INSERT INTO {name} VALUES (1, 'a'), (2, 'b')"
    )


def source(make: str, name: str, change: str = "", caught: str = "", **more) -> Shape:
    return Shape(
        make,
        f"SELECT id, title FROM {name}",
        (Table(name, key=("id",), stamp="updated_at"),),
        change or f"UPDATE {name} SET title = 'new', updated_at = now() WHERE id = 1",
        caught=caught,
        **more,
    )


def stored(make: str, name: str, columns: dict[str, str] | None = None, **more) -> Shape:
    columns = columns or COLUMNS
    return Shape(
        named("plain"),
        more.pop("query", "SELECT id, title FROM plain"),
        (Table("plain", key=("id",), stamp="updated_at"),),
        "UPDATE plain SET title = 'new', updated_at = now() WHERE id = 1",
        RelationalTable(name, ("id",), columns),
        make,
        **more,
    )


BASE = named("base")
WORKS = {
    "a view": Shape(
        f"{BASE}; CREATE VIEW seen AS SELECT * FROM base",
        "SELECT id, title FROM seen",
        (Table("base", key=("id",), stamp="updated_at"),),
        "UPDATE base SET title = 'new', updated_at = now() WHERE id = 1",
        caught="base: by updated_at",
    ),
    "a materialized view": Shape(
        f"{BASE}; CREATE MATERIALIZED VIEW shelf AS SELECT * FROM base",
        "SELECT id, title FROM shelf",
        (Table("shelf", key=("id",)),),
        "UPDATE base SET title = 'new' WHERE id = 1; REFRESH MATERIALIZED VIEW shelf",
        caught="shelf: by the sweep only",
    ),
    "a table without a primary key": source(
        "CREATE TABLE heap (id bigint, title text, updated_at timestamptz NOT NULL DEFAULT now());"
        " CREATE INDEX ON heap (updated_at); INSERT INTO heap VALUES (1, 'a'), (2, 'b')",
        "heap",
        caught="heap: by updated_at",
    ),
    "identity and generated columns": source(
        "CREATE TABLE made (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, part text,"
        " title text GENERATED ALWAYS AS (upper(part)) STORED, updated_at timestamptz NOT NULL DEFAULT now());"
        " CREATE INDEX ON made (updated_at); INSERT INTO made (part) VALUES ('a'), ('b')",
        "made",
        "UPDATE made SET part = 'new', updated_at = now() WHERE id = 1",
    ),
    "a quoted name": source(named('"My ""Table"""'), '"My ""Table"""'),
    "a name in another schema": source(
        'CREATE SCHEMA "Old Side"; GRANT USAGE ON SCHEMA "Old Side" TO sync_reader;' + named('"Old Side"."Film"'),
        '"Old Side"."Film"',
    ),
    "a name with percent signs": source(named('"50% off %s"'), '"50% off %s"'),
    "a name in capitals that are no ASCII": source(named("Übersicht"), "Übersicht"),
    "a name of 63 bytes": source(named(LONG), LONG),
    "a name of 63 bytes that are no ASCII": source(named(LONG_UMLAUTS), LONG_UMLAUTS),
    "columns of odd names": Shape(
        'CREATE TABLE odd ("Id x" bigint PRIMARY KEY, "Tîtle ""x" text, Änderung timestamptz DEFAULT now());'
        "CREATE INDEX ON odd (Änderung); INSERT INTO odd VALUES (1, 'a'), (2, 'b')",
        'SELECT "Id x", "Tîtle ""x" FROM odd',
        (Table("odd", key=('"Id x"',), stamp="Änderung"),),
        """UPDATE odd SET "Tîtle ""x" = 'new', Änderung = now() WHERE "Id x" = 1""",
        RelationalTable("shapes.odd", ("Id x",), {"Id x": "bigint", 'Tîtle "x': "text"}),
        key=("Id x",),
        column='Tîtle "x',
    ),
    "columns whose names hold commas": Shape(
        'CREATE TABLE listed ("a, b" text COLLATE "C", "c, d" bigint, "t, u" text, moved timestamptz DEFAULT now(),'
        ' PRIMARY KEY ("a, b", "c, d"));'
        "CREATE INDEX ON listed (moved); INSERT INTO listed VALUES ('x, y', 1, 'a'), ('z', 2, 'b')",
        'SELECT "a, b", "c, d", "t, u" FROM listed',
        (Table("listed", key=('"a, b"', '"c, d"'), stamp="moved"),),
        """UPDATE listed SET "t, u" = 'new', moved = now() WHERE "c, d" = 1""",
        RelationalTable("shapes.listed", ("a, b", "c, d"), {"a, b": "text", "c, d": "bigint", "t, u": "text"}),
        key=("a, b", "c, d"),
        column="t, u",
        changed='["x, y","1"]',
    ),
    "names that the engine uses": Shape(
        "CREATE TABLE applied (id bigint PRIMARY KEY, seen text, written text, digest text,"
        " updated_at timestamptz DEFAULT now());"
        " CREATE INDEX ON applied (updated_at); INSERT INTO applied VALUES (1, 's', 'a', 'x'), (2, 't', 'b', 'y')",
        "SELECT id, seen, written, digest FROM applied",
        (Table("applied", key=("id",), stamp="updated_at"),),
        "UPDATE applied SET written = 'new', updated_at = now() WHERE id = 1",
        RelationalTable(
            "shapes.applied", ("id",), {"id": "bigint", "seen": "text", "written": "text", "digest": "text"}
        ),
        column="written",
    ),
    "names of SQL": Shape(
        'CREATE TABLE "order" ("user" bigint PRIMARY KEY, "select" text, updated_at timestamptz DEFAULT now());'
        """ CREATE INDEX ON "order" (updated_at); INSERT INTO "order" VALUES (1, 'a'), (2, 'b')""",
        'SELECT "user", "select" FROM "order"',
        (Table('"order"', key=('"user"',), stamp="updated_at"),),
        """UPDATE "order" SET "select" = 'new', updated_at = now() WHERE "user" = 1""",
        RelationalTable("shapes.order", ("user",), {"user": "bigint", "select": "text"}),
        key=("user",),
        column="select",
    ),
    "a new table of odd names": stored(
        "",
        "Neue Säulen.50% ab",
        {"id": "bigint", "title": "text"},
    ),
    "a new table of 56 bytes": stored("", f"shapes.{LONG[:56]}"),
    "an identity BY DEFAULT on the new side": stored(
        "CREATE TABLE shapes.ident (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, title text)", "shapes.ident"
    ),
    "a generated column of its own on the new side": stored(
        "CREATE TABLE shapes.more (id bigint PRIMARY KEY, title text,"
        " loud text GENERATED ALWAYS AS (upper(title)) STORED, made timestamptz DEFAULT now())",
        "shapes.more",
    ),
    "unique, exclusion and check constraints": stored(
        "CREATE TABLE shapes.bound (id bigint PRIMARY KEY, title text UNIQUE CHECK (title <> ''),"
        " EXCLUDE USING btree (title WITH =))",
        "shapes.bound",
    ),
    "constraints looked at when a transaction ends": stored(
        "CREATE TABLE shapes.later (id bigint PRIMARY KEY, title text UNIQUE DEFERRABLE INITIALLY DEFERRED)",
        "shapes.later",
    ),
    "triggers on the new table": stored(
        "CREATE TABLE shapes.fired (id bigint PRIMARY KEY, title text); CREATE TABLE shapes.log (id bigint);"
        "CREATE FUNCTION shapes.note() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN INSERT INTO shapes.log VALUES (NEW.id); RETURN NEW; END';"
        "CREATE TRIGGER note BEFORE INSERT OR UPDATE ON shapes.fired FOR EACH ROW EXECUTE FUNCTION shapes.note()",
        "shapes.fired",
    ),
    "a partitioned new table": stored(
        "CREATE TABLE shapes.cut (id bigint PRIMARY KEY, title text) PARTITION BY RANGE (id);"
        "CREATE TABLE shapes.cut_1 PARTITION OF shapes.cut DEFAULT",
        "shapes.cut",
    ),
}


def monolith(world, statement):
    """Run a statement whose percent signs are its own."""
    return world.legacy(statement.replace("%", "%%"))


def new_side(world, statement):
    """The same at the new side."""
    return world.target(statement.replace("%", "%%"))


@pytest.fixture(autouse=True)
def schemas(fresh_world):
    monolith(
        fresh_world,
        "DO $$ DECLARE s text; BEGIN FOR s IN SELECT nspname FROM pg_namespace WHERE nspname IN ('public', 'Old Side')"
        " LOOP EXECUTE format('DROP SCHEMA %I CASCADE', s); END LOOP; END $$; CREATE SCHEMA public;"
        " GRANT USAGE ON SCHEMA public TO sync_reader",
    )
    new_side(
        fresh_world,
        'DROP SCHEMA IF EXISTS shapes, "Neue Säulen" CASCADE; CREATE SCHEMA shapes; GRANT ALL ON SCHEMA shapes TO'
        " sync_writer",
    )


def entity_of(shape: Shape, name: str = "shape", capture=None) -> Entity:
    names = dict(zip(shape.table.columns, shape.table.columns, strict=True))
    return Entity(
        name=name,
        owner="team:tests",
        origin=LegacyQuery(shape.query, key=shape.key),
        tables=shape.tables,
        adapt=lambda legacy: {new: legacy[old] for new, old in names.items()},
        sinks=(shape.table,),
        partitions=KeyRanges(2),
        capture=capture or Watermark(),
    )


@contextmanager
def planted(world, shape: Shape):
    monolith(world, shape.legacy)
    monolith(
        world,
        "DO $$ DECLARE s text; BEGIN FOR s IN SELECT nspname FROM pg_namespace WHERE nspname IN ('public', 'Old Side')"
        " LOOP EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO sync_reader', s); END LOOP; END $$",
    )
    if shape.target:
        new_side(world, shape.target)
        new_side(world, "GRANT ALL ON ALL TABLES IN SCHEMA shapes TO sync_writer")
    yield


def errors(world, entity) -> list[str]:
    return [notice.what for notice in preflight(world.stores, [entity]) if notice.level == "error"]


def texts(world, shape: Shape) -> list[str]:
    column = shape.column.replace('"', '""')
    return [text for (text,) in new_side(world, f'SELECT "{column}" FROM {shape.table.quoted} ORDER BY 1')]


def with_table_of_its_own(shape: Shape, name: str) -> Shape:
    """The table belongs to the first entity that writes to it, also once that one is gone."""
    if shape.table.name != PLAIN_TABLE.name:
        return shape
    return replace(shape, table=replace(shape.table, name=f"shapes.{name}"))


@pytest.mark.parametrize("shape", WORKS)
def test_a_shape_works_from_history_to_a_clean_verdict(fresh_world, shape):
    name = f"shape_{list(WORKS).index(shape)}"
    shape = with_table_of_its_own(WORKS[shape], name)
    entity = entity_of(shape, name)
    with planted(fresh_world, shape):
        found = preflight(fresh_world.stores, [entity])
        assert [notice.what for notice in found if notice.level == "error"] == []
        if shape.caught:
            assert any(notice.what.startswith(shape.caught) for notice in found), found
        context = EntityContext.open(entity, fresh_world.stores)
        filled = list(backfill_all(context, entity.partitions.names()))
        assert sum(part.written for part in filled) == 2
        monolith(fresh_world, shape.change)
        sync_keys(context, context.origin.key.parse([shape.changed]), Order())
        assert "NEW" in [text.upper() for text in texts(fresh_world, shape)]
        assert reconcile(context).status == "clean"
        swept = sweep(context)
        assert (swept.changed, swept.gone) == (0, 0)
        assert errors(fresh_world, entity) == []


def test_the_sweep_finds_a_deleted_row_whose_key_columns_have_commas_in_their_names(fresh_world):
    shape = WORKS["columns whose names hold commas"]
    shape = replace(shape, table=replace(shape.table, name="shapes.unlisted"))
    with planted(fresh_world, shape):
        context = EntityContext.open(entity_of(shape, "unlisted"), fresh_world.stores)
        list(backfill_all(context, context.entity.partitions.names()))
        monolith(fresh_world, "DELETE FROM listed WHERE \"a, b\" = 'z'")
        assert sweep(context).gone == 1


REFUSED = {
    "an identity column that is always generated": (
        stored("CREATE TABLE shapes.i (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text)", "shapes.i"),
        "shapes.i.id is GENERATED ALWAYS AS IDENTITY",
    ),
    "a generated column": (
        stored(
            "CREATE TABLE shapes.g (id bigint PRIMARY KEY, title text GENERATED ALWAYS AS ('x') STORED)", "shapes.g"
        ),
        "shapes.g.title is a generated column",
    ),
    "a view to write to": (
        stored("CREATE VIEW shapes.v AS SELECT 1::bigint AS id, 'x'::text AS title", "shapes.v"),
        "is a view",
    ),
    "a materialized view to write to": (
        stored("CREATE MATERIALIZED VIEW shapes.m AS SELECT 1::bigint AS id, 'x'::text AS title", "shapes.m"),
        "is a materialized view",
    ),
    "a key that is deferrable": (
        stored("CREATE TABLE shapes.d (id bigint PRIMARY KEY DEFERRABLE, title text)", "shapes.d"),
        "has no unique index on its key",
    ),
    "a stamp on a materialized view": (
        Shape(
            f"{BASE}; CREATE MATERIALIZED VIEW shelf AS SELECT * FROM base; CREATE INDEX ON shelf (updated_at)",
            "SELECT id, title FROM shelf",
            (Table("shelf", key=("id",), stamp="updated_at"),),
            "",
        ),
        "shelf is a materialized view",
    ),
    "a key that the query gives twice": (
        stored("", "shapes.plain", query="SELECT id, title FROM plain UNION ALL SELECT id, title FROM plain"),
        "the query gives a key (id) more than once",
    ),
    "one column twice": (
        stored("", "shapes.plain", query="SELECT p.*, q.id FROM plain p JOIN plain q USING (updated_at)"),
        "returns more than one column 'id'",
    ),
}


@pytest.mark.parametrize("shape", REFUSED)
def test_a_shape_is_refused_by_name(fresh_world, shape):
    shape, words = REFUSED[shape]
    with planted(fresh_world, shape):
        found = errors(fresh_world, entity_of(shape))
    assert any(words in what for what in found), found


def test_the_docs_list_every_shape_with_its_answer():
    section = HOWTO.read_text(encoding="utf-8").split("## Shapes of tables")[1].split("\n## ")[0]
    lines = [line.strip("|").split("|") for line in re.findall(r"^\|.*\|$", section, re.MULTILINE)][2:]
    answers = {shape.strip(): answer.strip().partition(",")[0] for shape, _, answer in lines}
    assert answers == dict.fromkeys(WORKS, "works") | dict.fromkeys(REFUSED, "refused")


@pytest.mark.parametrize("name", ["shapes." + "a" * 57, "shapes." + "ä" * 29, ".x", "shapes."])
def test_a_name_that_postgresql_would_cut_is_refused_by_the_declaration(name):
    with pytest.raises(DeclarationError, match=r"1 to (63|56) bytes"):
        RelationalTable(name, ("id",), COLUMNS)


@pytest.mark.parametrize(
    ("capture", "stamp", "caught"),
    [
        (SweepOnly(), "", "distant: by the sweep only"),
        (Watermark(), "", "distant: by the sweep only (its Table has no stamp)"),
        (
            Watermark(),
            "updated_at",
            "distant: by updated_at; rows that are deleted are found by the sweep, and so is what commits late on its"
            " own server",
        ),
    ],
)
def test_a_foreign_table_is_told_with_what_its_stamps_miss(fresh_world, capture, stamp, caught):
    """The tests' servers have no wrapper, so that the table itself cannot be read."""
    monolith(
        fresh_world,
        "DROP FOREIGN DATA WRAPPER IF EXISTS nowhere CASCADE; CREATE FOREIGN DATA WRAPPER nowhere;"
        "CREATE SERVER away FOREIGN DATA WRAPPER nowhere; CREATE FOREIGN TABLE distant (id bigint, title text,"
        " updated_at timestamptz) SERVER away; GRANT SELECT ON distant TO sync_reader",
    )
    shape = Shape("", "SELECT id, title FROM distant", (Table("distant", key=("id",), stamp=stamp),), "")
    with fresh_world.stores.legacy() as cursor:
        found = list(check_capture(cursor, "entity", entity_of(shape, "foreign_shape", capture)))
    assert [notice.what for notice in found] == [caught]


def test_a_declared_view_stands_for_the_tables_below_it(fresh_world):
    monolith(
        fresh_world,
        f"{BASE}; CREATE TABLE tags (base_id bigint, tag text); CREATE VIEW seen AS SELECT b.*, t.tag FROM base b"
        " LEFT JOIN tags t ON t.base_id = b.id; GRANT SELECT ON seen TO sync_reader",
    )
    query = "SELECT id, title FROM seen"
    by_view = Shape("", query, (Table("seen", key=("id",), stamp="updated_at"),), "")
    by_table = Shape("", query, (Table("base", key=("id",), stamp="updated_at"),), "")
    told = "by updated_at; rows that are deleted are found by the sweep"
    for shape, expected in (
        (by_view, [f"base: through seen, {told}", f"tags: through seen, {told}"]),
        (by_table, [f"base: {told}", "tags: by the sweep only (no Table of the entity names it)"]),
    ):
        with fresh_world.stores.legacy() as cursor:
            found = list(check_capture(cursor, "entity", entity_of(shape)))
        assert [notice.what for notice in found] == expected
