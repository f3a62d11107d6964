"""Preflight on real servers: each fault is planted, named, and gone when its remedy is followed."""

import dataclasses
import datetime as dt

import pandas as pd
import psycopg2
import pytest

from sync_pipeline.db.keys import Key
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.errors import DeclarationError
from sync_pipeline.model.notices import worst
from sync_pipeline.partitions import KeyRanges, Monthly
from sync_pipeline.preflight.clocks import apart
from sync_pipeline.preflight.preflight import preflight
from sync_pipeline.settings import Bucket
from sync_pipeline.sinks.media import MediaBucket
from sync_pipeline.sinks.search import SearchIndex, declaration
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources import stamped_rows, watermark
from sync_pipeline.sources.source import Subject
from sync_pipeline.sources.table import Table
from sync_pipeline.stores.stores import Stores

TABLE = RelationalTable(
    "shop.piece", key=("id",), columns={"id": "bigint", "title": "varchar(200)", "price": "numeric(10,2)"}
)
INDEX = SearchIndex("pieces", fields={"id": {"type": "long"}, "title": {"type": "text"}})
QUERY = "SELECT c.id, c.title, c.price, c.created_at FROM content c LEFT JOIN authors a ON a.id = c.author_id"


def adapt(legacy: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"id": legacy["id"], "title": legacy["title"], "price": legacy["price"]})


PIECE = Entity(
    name="piece",
    owner="team:tests",
    origin=LegacyQuery(QUERY, key=("id",)),
    tables=(Table("content", key=("id",), stamp="updated_at"),),
    adapt=adapt,
    sinks=(TABLE, INDEX),
    partitions=KeyRanges(4),
)


def faults(world, entity=PIECE, stores=None):
    """(level, what) of all that is not ok."""
    found = preflight(stores or world.stores, [entity])
    return [(notice.level, notice.what) for notice in found if notice.level != "ok"]


def remedies(world, entity=PIECE):
    return [notice.remedy for notice in preflight(world.stores, [entity]) if notice.level != "ok"]


def only(found, level, *words):
    assert len(found) == 1, found
    assert found[0][0] == level, found
    for word in words:
        assert word in found[0][1], found


def other(world, **settings):
    return Stores(dataclasses.replace(world.stores.settings, **settings))


def test_a_whole_deployment_is_ok_and_stays_untouched(world):
    found = preflight(world.stores, [PIECE])
    assert worst(found) == "ok", found
    assert {n.about for n in found} >= {"legacy database", "target database", "search", "clocks", "entity piece"}
    assert world.target("SELECT nspname FROM pg_namespace WHERE nspname IN ('sync', 'shop')") == []
    assert world.document("GET", "_cat/indices?format=json") == []
    assert "Contents" not in world.client.list_objects_v2(Bucket=world.target_bucket)


# the plant, its undoing, the level, words of the notice
LEGACY_FAULTS = {
    "table not readable": (
        "REVOKE SELECT ON content FROM sync_reader",
        "GRANT SELECT ON content TO sync_reader",
        "error",
        ["sync_reader may not read content"],
    ),
    "joined table not readable": (
        "REVOKE SELECT ON authors FROM sync_reader",
        "GRANT SELECT ON authors TO sync_reader",
        "error",
        ["permission denied for table authors"],
    ),
    "other roles' transactions hidden": (
        "REVOKE pg_read_all_stats FROM sync_reader",
        "GRANT pg_read_all_stats TO sync_reader",
        "warning",
        ["does not see when other roles' transactions began"],
    ),
    "a role that may write": (
        "GRANT UPDATE (title), INSERT ON content TO sync_reader",
        "REVOKE INSERT, UPDATE ON content FROM sync_reader",
        "warning",
        ["may write to content"],
    ),
    "a role that may create": (
        "GRANT CREATE ON SCHEMA public TO sync_reader",
        "REVOKE CREATE ON SCHEMA public FROM sync_reader",
        "warning",
        ["may create objects in public"],
    ),
    "sessions that hide": (
        "ALTER ROLE monolith SET track_activities = off",
        "ALTER ROLE monolith RESET track_activities",
        "warning",
        ["track_activities is off"],
    ),
    "no index on the cursor": (
        "DROP INDEX content_updated_at",
        "CREATE INDEX content_updated_at ON content (updated_at, id)",
        "error",
        ["content.updated_at has no index"],
    ),
    "an index that does not lead with the cursor": (
        "DROP INDEX content_updated_at; CREATE INDEX content_updated_at ON content (id, updated_at)",
        "DROP INDEX content_updated_at; CREATE INDEX content_updated_at ON content (updated_at, id)",
        "error",
        ["content.updated_at has no index"],
    ),
    "an index on some rows only": (
        "DROP INDEX content_updated_at; CREATE INDEX content_updated_at ON content (updated_at) WHERE id > 5",
        "DROP INDEX content_updated_at; CREATE INDEX content_updated_at ON content (updated_at, id)",
        "error",
        ["content.updated_at has no index"],
    ),
    "a cursor without time zone": (
        "ALTER TABLE content ALTER updated_at TYPE timestamp",
        "ALTER TABLE content ALTER updated_at TYPE timestamptz",
        "error",
        ["timestamp without time zone: nobody can say which instant it means"],
    ),
    "a column of the query gone": (
        "ALTER TABLE content RENAME price TO cost",
        "ALTER TABLE content RENAME cost TO price",
        "error",
        ["the legacy query fails", "price"],
    ),
}


@pytest.mark.hazard(46)
@pytest.mark.parametrize("fault", LEGACY_FAULTS)
def test_a_fault_of_the_monolith_is_named(world, fault):
    plant, undo, level, words = LEGACY_FAULTS[fault]
    world.legacy(plant)
    try:
        found = faults(world)
    finally:
        world.legacy(undo)
    assert not any("\n" in what for _, what in found)
    named = [what for found_level, what in found if found_level == level]
    assert any(all(word in what for word in words) for what in named), found
    assert worst(preflight(world.stores, [PIECE])) == "ok"


@pytest.mark.parametrize("plant", ["REVOKE SELECT ON content FROM sync_reader", "DROP INDEX content_updated_at"])
def test_the_sql_of_a_remedy_mends_it(world, plant):
    world.legacy(plant)
    for remedy in dict.fromkeys(filter(None, remedies(world))):
        world.legacy(remedy)
    assert worst(preflight(world.stores, [PIECE])) == "ok"


def test_a_zone_makes_a_cursor_without_one_readable(world):
    world.legacy("ALTER TABLE content ALTER updated_at TYPE timestamp")
    zoned = dataclasses.replace(
        PIECE, tables=(Table("content", key=("id",), stamp="updated_at", zone="Europe/Berlin"),)
    )
    try:
        assert faults(world, zoned) == []
    finally:
        world.legacy("ALTER TABLE content ALTER updated_at TYPE timestamptz")
    only(faults(world, zoned), "error", "has a time zone of its own")


@pytest.mark.hazard(3)
def test_a_transaction_long_prepared_is_named(world):
    session = psycopg2.connect(world.monolith.admin_url)
    session.tpc_begin(session.xid(1, "forgotten", "branch"))
    session.cursor().execute("INSERT INTO authors (name) VALUES ('x')")
    session.tpc_prepare()
    try:
        only(faults(world, stores=other(world, window_alert_seconds=0.0)), "warning", "has been prepared for")
    finally:
        session.tpc_rollback()
        session.close()


TARGET_FAULTS = {
    "may not make the ledger": (
        "CREATE SCHEMA sync",
        "DROP SCHEMA sync",
        ["sync_writer may not make tables in schema sync"],
    ),
    "a column missing": (
        "CREATE SCHEMA shop; CREATE TABLE shop.piece (id bigint PRIMARY KEY, title varchar(200))",
        "DROP SCHEMA shop CASCADE",
        ["shop.piece has no column price"],
    ),
    "a column of another type": (
        "CREATE SCHEMA shop; CREATE TABLE shop.piece (id bigint PRIMARY KEY, title varchar(99), price numeric(10,2))",
        "DROP SCHEMA shop CASCADE",
        ["shop.piece.title is character varying(99), declared is character varying(200)"],
    ),
    "no key": (
        "CREATE SCHEMA shop; CREATE TABLE shop.piece (id bigint, title varchar(200), price numeric(10,2))",
        "DROP SCHEMA shop CASCADE",
        ["shop.piece has no unique index on its key (id)"],
    ),
    "a key that is unique with an expression only": (
        "CREATE SCHEMA shop; CREATE TABLE shop.piece (id bigint NOT NULL, title varchar(200), price numeric(10,2));"
        " CREATE UNIQUE INDEX ON shop.piece (id, lower(title))",
        "DROP SCHEMA shop CASCADE",
        ["shop.piece has no unique index on its key (id)"],
    ),
    "a key that is looked at when a transaction ends": (
        "CREATE SCHEMA shop; CREATE TABLE shop.piece (id bigint PRIMARY KEY DEFERRABLE, title varchar(200),"
        " price numeric(10,2))",
        "DROP SCHEMA shop CASCADE",
        ["shop.piece has no unique index on its key (id)"],
    ),
    "a column that must be given": (
        "CREATE SCHEMA shop; CREATE TABLE shop.piece (id bigint PRIMARY KEY, title varchar(200), price numeric(10,2),"
        " house text NOT NULL)",
        "DROP SCHEMA shop CASCADE",
        ["shop.piece.house must be given a value"],
    ),
    "a column that takes no NULL": (
        "CREATE SCHEMA shop;"
        " CREATE TABLE shop.piece (id bigint PRIMARY KEY, title varchar(200) NOT NULL, price numeric(10,2))",
        "DROP SCHEMA shop CASCADE",
        ["shop.piece.title takes no NULL"],
    ),
}


@pytest.mark.parametrize("fault", TARGET_FAULTS)
def test_a_fault_of_the_new_side_is_named(world, fault):
    plant, undo, words = TARGET_FAULTS[fault]
    world.target(plant)
    if "shop" in plant:
        world.target("GRANT ALL ON SCHEMA shop TO sync_writer; GRANT ALL ON shop.piece TO sync_writer")
    try:
        only(faults(world), "error", *words)
    finally:
        world.target(undo)


def test_a_table_that_is_not_ours_to_write_is_named(world):
    world.target("CREATE SCHEMA shop")
    world.target("CREATE TABLE shop.piece (id bigint PRIMARY KEY, title varchar(200), price numeric(10,2))")
    world.target("GRANT ALL ON SCHEMA shop TO sync_writer; GRANT SELECT, INSERT ON shop.piece TO sync_writer")
    try:
        only(faults(world), "error", "sync_writer lacks UPDATE, DELETE on shop.piece")
        world.target("; ".join(remedies(world)))
        assert faults(world) == []
    finally:
        world.target("DROP SCHEMA shop CASCADE")


def test_a_table_that_cannot_be_made_is_named(world):
    table = dataclasses.replace(TABLE, columns={**TABLE.columns, "price": "money_of_ours"})
    only(faults(world, dataclasses.replace(PIECE, sinks=(table, INDEX))), "error", "money_of_ours")


def test_a_role_that_may_make_nothing_is_named(world, fleet):
    name = world.target_url.rpartition("/")[2].partition("?")[0]
    world.target(f"ALTER DATABASE {name} OWNER TO CURRENT_USER")
    try:
        found = faults(world)
        assert [what for _, what in found if "may not make schema sync" in what], found
        assert [what for _, what in found if "may not make schema shop" in what], found
        world.target(f"REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC")
        only(faults(world), "error", "temporary tables")
    finally:
        world.target(f"GRANT TEMPORARY ON DATABASE {name} TO PUBLIC")
        world.target(f"ALTER DATABASE {name} OWNER TO sync_writer")


def test_schemas_of_our_own_are_enough(world):
    name = world.target_url.rpartition("/")[2].partition("?")[0]
    world.target(f"ALTER DATABASE {name} OWNER TO CURRENT_USER")
    try:
        world.target("; ".join(remedies(world)))
        assert faults(world) == []
        assert EntityContext.open(PIECE, world.stores).ledger.basis > 0
        assert world.target("SELECT count(*) FROM shop.piece") == [(0,)]
    finally:
        world.target("DROP SCHEMA IF EXISTS sync, shop CASCADE")
        world.target(f"ALTER DATABASE {name} OWNER TO sync_writer")
    world.document("DELETE", "pieces-000001")


def test_an_alias_taken_by_an_index_is_named(world):
    world.document("PUT", "pieces", {})
    try:
        only(faults(world), "error", "pieces is an index of its own")
    finally:
        world.document("DELETE", "pieces")


def test_an_index_without_its_alias_is_named(world):
    world.document("PUT", "pieces-000001", {})
    try:
        only(faults(world), "error", "pieces-000001 is there without alias pieces")
    finally:
        world.document("DELETE", "pieces-000001")


def test_an_alias_of_two_indices_is_named(world):
    mappings = {"properties": {"id": {"type": "long"}, "title": {"type": "text"}}}
    for index in ("pieces-1", "pieces-2"):
        world.document("PUT", index, {"aliases": {"pieces": {}}, "mappings": mappings})
    try:
        only(faults(world), "error", "alias pieces points to 2 indices: pieces-1, pieces-2")
        world.document("DELETE", "pieces-2")
        assert faults(world) == []
    finally:
        world.document("DELETE", "pieces-1")


@pytest.mark.parametrize(
    ("properties", "words"),
    [({"id": {"type": "long"}}, "has no field title"), ({"id": {"type": "keyword"}, "title": {"type": "text"}}, "id")],
)
def test_a_mapping_other_than_declared_is_named(world, properties, words):
    world.document("PUT", "pieces-1", {"aliases": {"pieces": {}}, "mappings": {"properties": properties}})
    try:
        only(faults(world), "error", words)
    finally:
        world.document("DELETE", "pieces-1")


REFUSED = {
    "a type that is none": (
        {"fields": {"id": {"type": "long"}, "title": {"type": "strng"}}},
        ["field 'title'", "strng"],
    ),
    "an analyzer that nobody declares": (
        {"fields": {"id": {"type": "long"}, "title": {"type": "text", "analyzer": "nope"}}},
        ["field 'title'", "analyzer [nope] has not been configured"],
    ),
    "a setting that is none": ({"settings": {"nonsense": 1}}, ["settings", "nonsense"]),
    "a name no index can bear": ({"alias": "Pieces"}, ["Pieces-000001", "lowercase"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_index_that_cannot_be_made_is_named_before_it_is_tried_and_then(world, case):
    changed, words = REFUSED[case]
    index = dataclasses.replace(INDEX, **changed)
    entity = dataclasses.replace(PIECE, sinks=(TABLE, index))
    if case != "a name no index can bear":
        only(faults(world, entity), "error", "index pieces-000001 could not be made", *words)
        assert remedies(world, entity) == ["mend the SearchIndex of entity piece"]
    with pytest.raises(DeclarationError) as told:
        EntityContext.open(entity, world.stores)
    assert str(told.value).startswith(f"entity piece: index {index.first_index} cannot be made: ")
    assert str(told.value).endswith(": mend the entity's SearchIndex")
    assert all(word in str(told.value) for word in words)
    assert world.document("GET", "_cat/indices?format=json") == []
    world.target("DROP SCHEMA sync, shop CASCADE")


def test_whoever_may_not_ask_beforehand_is_told_by_the_cluster(world, monkeypatch):
    monkeypatch.setattr(declaration, "_refusal", lambda *_: "")
    index = dataclasses.replace(INDEX, fields={"id": {"type": "strng"}})
    with pytest.raises(DeclarationError, match=r"The mapper type \[strng\] declared on field \[id\] does not exist"):
        index.ensure(world.stores.search)


def test_a_declared_index_is_found_as_declared(world):
    context_index = dataclasses.replace(INDEX, fields={**INDEX.fields, "attrs": {"type": "object", "enabled": False}})
    context_index.ensure(world.stores.search)
    entity = dataclasses.replace(PIECE, sinks=(TABLE, context_index), adapt=lambda f: adapt(f).assign(attrs=f["title"]))
    try:
        assert faults(world, entity) == []
    finally:
        world.document("DELETE", "pieces-000001")


def test_a_missing_bucket_is_named(world):
    endpoint = world.stores.settings.target_bucket.endpoint
    only(faults(world, stores=other(world, target_bucket=Bucket(endpoint, "nowhere"))), "error", "no bucket nowhere")
    only(faults(world, stores=other(world, legacy_bucket=Bucket(endpoint, "nowhere"))), "error", "no bucket nowhere")


def test_keys_that_are_refused_are_named(world, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    found = faults(world, stores=other(world))
    assert len(found) == 2
    assert all("refuses s3:ListBucket" in what for _, what in found)


def test_stores_that_do_not_answer_are_named_once_each_and_hide_nothing(world):
    nowhere = "http://127.0.0.1:1"
    stores = other(
        world,
        legacy_db="postgresql+psycopg2://x@127.0.0.1:1/x",
        search_url=nowhere,
        target_bucket=Bucket(nowhere, "x"),
    )
    found = preflight(stores, [PIECE])
    named = sorted(n.about for n in found if n.level == "error")
    assert named == ["legacy database", "search", "target bucket"]
    assert {n.about for n in found if n.level == "ok"} == {"target database", "legacy bucket"}


DECLARATIONS = {
    "the table wants a column that adapt does not return": (
        {"sinks": (dataclasses.replace(TABLE, columns={**TABLE.columns, "body": "text"}), INDEX)},
        "adapt returns no column 'body'",
    ),
    "the index wants a field that adapt does not return": (
        {"sinks": (TABLE, dataclasses.replace(INDEX, fields={**INDEX.fields, "body": {"type": "text"}}))},
        "adapt returns no column 'body'",
    ),
    "media wants a column that adapt does not return": (
        {"sinks": (TABLE, INDEX, MediaBucket(columns=("cover",), prefix="piece"))},
        "adapt returns no column 'cover'",
    ),
    "adapt fails without rows": ({"adapt": lambda frame: frame[["nothing"]]}, "adapt fails on an empty frame"),
    "the partitions' column": ({"partitions": Monthly("born_at", start="2020-01")}, "no column 'born_at'"),
    "the key's column": ({"origin": LegacyQuery("SELECT id AS piece FROM content", key=("id",))}, "no key column 'id'"),
    "a source's key": (
        {"tables": (Table("media_files", key=("piece_id",), stamp="updated_at"),)},
        "Table('media_files') fails",
    ),
    "a source's table": ({"tables": (Table("pieces", key=("id",), stamp="updated_at"),)}, "no table pieces"),
    "a source's column": ({"tables": (Table("content", key=("id",), stamp="moved_at"),)}, "no column moved_at"),
}


@pytest.mark.parametrize("fault", DECLARATIONS)
def test_a_declaration_that_cannot_be_is_named(world, fault):
    change, words = DECLARATIONS[fault]
    found = faults(world, dataclasses.replace(PIECE, **change))
    assert [what for level, what in found if level == "error" and words in what], found


def test_clocks_far_apart_are_named():
    assert apart({"this machine": 0.0, "legacy database": 1.5}, 2.0).level == "ok"
    notice = apart({"this machine": 0.0, "legacy database": -3.0, "target database": 4.0}, 2.0)
    assert notice.level == "warning"
    assert "target database is 7.0 s ahead of legacy database" in notice.what


@pytest.mark.hazard(46)
def test_a_poll_of_a_zoned_cursor_uses_the_plain_index(world, monkeypatch):
    """Otherwise preflight would call an index usable that is not."""
    plans = []

    def explained(cursor, query, schema, *_):
        cursor.execute(f"EXPLAIN {query}")
        plans.append("\n".join(line for (line,) in cursor.fetchall()))
        return schema.empty_table()

    world.legacy("ALTER TABLE content ALTER updated_at TYPE timestamp")
    try:
        world.legacy(
            "INSERT INTO content (kind, updated_at) SELECT 'text', now() - n * interval '1 hour'"
            " FROM generate_series(1, 5000) n"
        )
        world.legacy("ANALYZE content")
        monkeypatch.setattr(stamped_rows, "copy_out", explained)
        zoned = Table("content", key=("id",), stamp="updated_at", zone="UTC")
        subject = Subject("text", Key(("id",), ("bigint",)), (zoned,), world.stores)
        assert list(watermark.stamped_since(subject, dt.datetime.now(dt.UTC), 100)) == []
        assert "content_updated_at" in plans[0], plans
    finally:
        world.legacy("TRUNCATE content CASCADE")
        world.legacy("ALTER TABLE content ALTER updated_at TYPE timestamptz")
