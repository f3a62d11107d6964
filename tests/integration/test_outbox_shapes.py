"""An outbox on tables of every shape: what is written in any way tells its key, and no write fails or waits."""

import dataclasses
from contextlib import closing

import pandas as pd
import psycopg2
import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.errors import SettingError
from sync_pipeline.operate.status import status_of
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.preflight.preflight import preflight
from sync_pipeline.run.capture import open_cursor, subject_of
from sync_pipeline.run.sweep import sweep
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources import outbox_tables, outbox_watch
from sync_pipeline.sources.ddl import apply_steps
from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.table import Table
from tests.claims import (
    MEMBER_DELETED,
    MEMBER_EMPTIED,
    MEMBER_STAMPED,
    MEMBER_UNSTAMPED,
    NO,
    PARTITION_ATTACHED,
    PARTITION_DETACHED,
    YES,
    claim,
)
from tests.installed import SOURCES, catalogue
from tests.world import opened, wait_for

# posts: a partitioned table, one of its partitions cut further; media: a table with heirs, one of them an heir's heir
MONOLITH = """
    CREATE TABLE writer (id bigint PRIMARY KEY, name text);
    CREATE TABLE posts (id bigint, day date, title text, writer_id bigint REFERENCES writer ON DELETE CASCADE
        ON UPDATE CASCADE, updated_at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (id, day))
        PARTITION BY RANGE (day);
    CREATE TABLE posts_2024 PARTITION OF posts FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
    CREATE TABLE posts_2025 PARTITION OF posts FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')
        PARTITION BY RANGE (id);
    CREATE TABLE posts_2025_low PARTITION OF posts_2025 FOR VALUES FROM (0) TO (100);
    CREATE TABLE "Posts 2025 high" (day date, id bigint, extra text, title text, writer_id bigint,
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp());
    ALTER TABLE "Posts 2025 high" DROP COLUMN extra;
    ALTER TABLE "Posts 2025 high" ALTER id SET NOT NULL, ALTER day SET NOT NULL;
    ALTER TABLE posts_2025 ATTACH PARTITION "Posts 2025 high" FOR VALUES FROM (100) TO (1000);
    CREATE INDEX ON posts (updated_at);
    CREATE TABLE media (id bigint PRIMARY KEY, title text, updated_at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE INDEX ON media (updated_at);
    CREATE TABLE media_song (seconds int, PRIMARY KEY (id)) INHERITS (media);
    CREATE TABLE media_opera (acts int, PRIMARY KEY (id)) INHERITS (media_song);
    GRANT SELECT ON ALL TABLES IN SCHEMA public TO sync_reader;
"""
ROWS = """
    INSERT INTO writer VALUES (1, 'one'), (2, 'two');
    INSERT INTO posts (id, day, title, writer_id) VALUES (1, '2024-05-01', 'a', 1), (2, '2024-05-01', 'b', 1),
        (3, '2025-05-01', 'c', 2), (4, '2025-05-01', 'd', 1), (103, '2025-05-01', 'e', 1), (104, '2025-05-01', 'f', 2);
    INSERT INTO media (id, title) VALUES (1, 'plain'), (2, 'plain');
    INSERT INTO media_song (id, title) VALUES (10, 'song'), (11, 'song');
    INSERT INTO media_opera (id, title) VALUES (20, 'opera'), (21, 'opera');
    UPDATE posts SET updated_at = '2024-01-01';
"""
EMPTY = "TRUNCATE posts, media, writer CASCADE"


def entity(name, query, table, capture, columns):
    return Entity(
        name=name,
        owner="team:tests",
        origin=LegacyQuery(query, key=table.key),
        tables=(table,),
        adapt=lambda legacy: pd.DataFrame({column: legacy[column] for column in columns}),
        sinks=(RelationalTable(f"shapes.{name}", key=table.key, columns=columns),),
        partitions=KeyRanges(1),
        capture=capture,
    )


POST = entity(
    "post",
    "SELECT id, day, title FROM posts",
    Table("posts", key=("id", "day"), stamp="updated_at"),
    Outbox(),
    {"id": "bigint", "day": "date", "title": "text"},
)
PIECE = entity(
    "piece",
    "SELECT id, title FROM media",
    Table("media", key=("id",), stamp="updated_at"),
    Outbox(),
    {"id": "bigint", "title": "text"},
)


@pytest.fixture(scope="module")
def world(fleet):
    with opened(fleet, "outbox_shapes", SYNC_SWEEP_SECONDS="1e9", SYNC_MARGIN_SECONDS="0.2") as world:
        world.legacy(MONOLITH)
        yield world


def install(world, entity, **options):
    context = EntityContext.open(entity, world.stores)
    apply_steps(
        world.monolith.admin_url, outbox_tables.install(subject_of(context), entity.capture, **options), lambda _: None
    )
    return context


def uninstall(world, entity, **options):
    context = EntityContext.open(entity, world.stores)
    steps = outbox_tables.uninstall(subject_of(context), entity.capture, **options)
    apply_steps(world.monolith.admin_url, steps, lambda _: None)


@pytest.fixture
def installed(world):
    """A function that installs an entity's triggers; in the end the catalogue is as before."""
    world.legacy(f"{EMPTY}; {ROWS}")
    before, made = catalogue(world), []

    def by(entity, **options):
        made.append(entity)
        return install(world, entity, **options)

    yield by
    for each in made:
        uninstall(world, each)
    assert catalogue(world) == before


def events(world, table="outbox"):
    """Aggregate ids of all events, with how often each was told."""
    return world.legacy(f"SELECT aggregate_id, count(*) FROM {table} GROUP BY 1 ORDER BY 1")


def ids(world, statement, table="outbox"):
    """The first numbers of the keys that events of a statement tell; each must be told once."""
    world.legacy(f"DELETE FROM {table}")
    world.legacy(statement)
    found = events(world, table)
    assert all(count == 1 for key, count in found if key != "*"), found
    return {key if not key.startswith("[") else key.split('"')[1] for key, _ in found}


WRITES = {
    "insert through the root": ("INSERT INTO posts VALUES (7, '2024-01-02', 'x')", {"7"}),
    "insert into a leaf": ("INSERT INTO posts_2024 VALUES (7, '2024-01-02', 'x')", {"7"}),
    "insert into a leaf of other columns": (
        "INSERT INTO \"Posts 2025 high\" (id, day) VALUES (107, '2025-01-02')",
        {"107"},
    ),
    "insert into what is between": ("INSERT INTO posts_2025 VALUES (7, '2025-01-02', 'x')", {"7"}),
    "update through the root": ("UPDATE posts SET title = 'y'", {"1", "2", "3", "4", "103", "104"}),
    "update of a leaf": ("UPDATE posts_2025_low SET title = 'y'", {"3", "4"}),
    "update of what is between": ("UPDATE posts_2025 SET title = 'y'", {"3", "4", "103", "104"}),
    "delete through the root": ("DELETE FROM posts WHERE id IN (1, 103)", {"1", "103"}),
    "delete from a leaf": ('DELETE FROM "Posts 2025 high" WHERE id = 103', {"103"}),
    "a row that moves to another leaf": ("UPDATE posts SET id = 200 WHERE id = 3", {"3", "200"}),
    "a row that moves through what is between": ("UPDATE posts_2025 SET id = 201 WHERE id = 4", {"4", "201"}),
    "on conflict through the root": (
        "INSERT INTO posts VALUES (1, '2024-05-01', 'new'), (8, '2024-05-01', 'new')"
        " ON CONFLICT (id, day) DO UPDATE SET title = excluded.title",
        {"1", "8"},
    ),
    "on conflict in a leaf": (
        "INSERT INTO posts_2024 VALUES (1, '2024-05-01', 'new'), (8, '2024-05-01', 'new')"
        " ON CONFLICT (id, day) DO UPDATE SET title = excluded.title",
        {"1", "8"},
    ),
    "merge through the root": (
        "MERGE INTO posts p USING (VALUES (1, date '2024-05-01'), (2, '2024-05-01'), (9, '2024-05-01')) v (id, day)"
        " ON (p.id, p.day) = (v.id, v.day) WHEN MATCHED AND p.id = 1 THEN UPDATE SET title = 'merged'"
        " WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id, day) VALUES (v.id, v.day)",
        {"1", "2", "9"},
    ),
    "merge into a leaf": (
        "MERGE INTO posts_2024 p USING (VALUES (1, date '2024-05-01'), (2, '2024-05-01'), (9, '2024-05-01'))"
        " v (id, day) ON (p.id, p.day) = (v.id, v.day) WHEN MATCHED AND p.id = 1 THEN UPDATE SET title = 'merged'"
        " WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id, day) VALUES (v.id, v.day)",
        {"1", "2", "9"},
    ),
    "a cascade of a foreign key": ("DELETE FROM writer WHERE id = 1", {"1", "2", "4", "103"}),
    "an update that cascades": ("UPDATE writer SET id = 5 WHERE id = 2", {"3", "104"}),
    "a leaf emptied": ("TRUNCATE posts_2024", {"*"}),
    "the root emptied": ("TRUNCATE posts", {"*"}),
    "nothing": ("UPDATE posts_2024 SET title = 'y' WHERE id = 77", set()),
}
HEIRS = {
    "insert into the parent": ("INSERT INTO media VALUES (7, 'x')", {"7"}),
    "insert into an heir": ("INSERT INTO media_song (id) VALUES (7)", {"7"}),
    "insert into an heir's heir": ("INSERT INTO media_opera (id) VALUES (7)", {"7"}),
    "update through the parent": ("UPDATE media SET title = 'y'", {"1", "2", "10", "11", "20", "21"}),
    "update of the parent only": ("UPDATE ONLY media SET title = 'y'", {"1", "2"}),
    "update of an heir and its heir": ("UPDATE media_song SET seconds = 1", {"10", "11", "20", "21"}),
    "delete through the parent": ("DELETE FROM media WHERE id IN (2, 11, 20)", {"2", "11", "20"}),
    "delete from an heir": ("DELETE FROM media_opera WHERE id = 20", {"20"}),
    "an heir's other key": ("UPDATE media_song SET id = 12 WHERE id = 11", {"11", "12"}),
    "an heir emptied": ("TRUNCATE media_opera", {"*"}),
    "the parent emptied": ("TRUNCATE media", {"*"}),
}


@pytest.mark.hazard(63)
def test_each_write_to_a_partitioned_table_tells_its_keys_once(world, installed):
    installed(POST)
    for how, (statement, keys) in WRITES.items():
        world.legacy(f"{EMPTY}; {ROWS}")
        assert ids(world, statement) == keys, how


@pytest.mark.hazard(63)
def test_each_write_to_a_table_with_heirs_tells_its_keys_once(world, installed):
    installed(PIECE)
    for how, (statement, keys) in HEIRS.items():
        world.legacy(f"{EMPTY}; {ROWS}")
        assert ids(world, statement) == keys, how


@pytest.mark.hazard(63)
@pytest.mark.parametrize(
    ("entity", "how"), [(POST, "update of a leaf"), (POST, "delete from a leaf"), (PIECE, "delete from an heir")]
)
def test_without_its_guard_a_statement_that_names_a_leaf_tells_nothing(world, installed, monkeypatch, entity, how):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "63")
    installed(entity)
    statement, keys = {**WRITES, **HEIRS}[how]
    assert keys
    assert ids(world, statement) == set()


def test_copy_tells_its_keys_wherever_it_goes(world, installed, tmp_path):
    installed(POST)
    for table, key in (("posts", 31), ("posts_2025_low", 32), ('"Posts 2025 high"', 132)):
        world.legacy("DELETE FROM outbox")
        with (
            closing(psycopg2.connect(world.monolith.admin_url)) as connection,
            connection,
            connection.cursor() as cursor,
        ):
            file = tmp_path / "rows"
            file.write_text(f"{key}\t2025-03-01\n")
            with file.open() as rows:
                cursor.copy_expert(f"COPY {table} (id, day) FROM STDIN", rows)
        assert [key for key, _ in events(world)] == [f'["{key}","2025-03-01"]']


@pytest.mark.hazard(63)
def test_an_entity_over_one_partition_hears_of_writes_through_the_root(world, installed):
    """Statements on the root may change its rows; those of other partitions are told in vain, and do no harm."""
    table = Table("posts_2024", key=("id", "day"))
    installed(dataclasses.replace(POST, tables=(table,), origin=LegacyQuery("SELECT * FROM posts_2024", key=table.key)))
    assert ids(world, "UPDATE posts SET title = 'y' WHERE id = 1") == {"1"}
    assert ids(world, "UPDATE posts_2024 SET title = 'y' WHERE id = 1") == {"1"}


# by a word: the kind, as the table of claims has it, and the change
CHANGES = {
    "leaf": (MEMBER_UNSTAMPED, "UPDATE posts_2025_low SET title = 'new' WHERE id = 3"),
    "stamped leaf": (MEMBER_STAMPED, "UPDATE posts_2025_low SET title = 'newer', updated_at = now() WHERE id = 3"),
    "leaf's row gone": (MEMBER_DELETED, "DELETE FROM posts_2024 WHERE id = 1"),
    "leaf emptied": (MEMBER_EMPTIED, 'TRUNCATE "Posts 2025 high"'),
    "attached": (
        PARTITION_ATTACHED,
        "CREATE TABLE posts_2023 (LIKE posts);"
        " INSERT INTO posts_2023 VALUES (50, '2023-01-01', 'x', NULL, '2023-01-02');"
        " ALTER TABLE posts ATTACH PARTITION posts_2023 FOR VALUES FROM ('2023-01-01') TO ('2024-01-01')",
    ),
    "detached": (PARTITION_DETACHED, "ALTER TABLE posts DETACH PARTITION posts_2023"),
    "attached again": (
        PARTITION_ATTACHED,
        "ALTER TABLE posts ATTACH PARTITION posts_2023 FOR VALUES FROM ('2023-01-01') TO ('2024-01-01')",
    ),
    "dropped": (PARTITION_DETACHED, "DROP TABLE posts_2023"),
}


def legacy_rows(world):
    return world.legacy("SELECT id, day, title FROM posts ORDER BY id")


def new_rows(world):
    return world.target("SELECT id, day, title FROM shapes.post ORDER BY id")


def reset(world, context):
    """All of an entity's rows in, and no sweep wanted."""
    world.target("TRUNCATE sync.due; UPDATE sync.cursor SET state = NULL, source = NULL, gap_at = NULL")
    open_cursor(context)
    keys = world.legacy("SELECT json_build_array(id::text, day::text)::text FROM posts")
    sync_keys(context, context.origin.key.parse([key for (key,) in keys]), Order())
    assert legacy_rows(world) == new_rows(world)
    world.target("UPDATE sync.cursor SET filled_at = now(), swept_at = now(), swept_from = now(), sweep_wanted = NULL")


def applied(world, entity):
    """Everything committed by now is reported."""
    ((now,),) = world.legacy("SELECT clock_timestamp()")
    reported = "SELECT 1 FROM sync.cursor WHERE entity = %s AND applied_through > %s"
    wait_for(lambda: world.target(reported, [entity, now]))
    wait_for(lambda: not world.target("SELECT 1 FROM sync.due"))


@pytest.mark.hazard(62)
@pytest.mark.hazard(63)
@pytest.mark.parametrize("source", ["watermark", "outbox", "sweep"])
def test_what_is_claimed_of_partitions_is_caught(world, installed, source, monkeypatch):
    monkeypatch.setattr(outbox_watch, "LOOK_SECONDS", 0.0)
    entity = dataclasses.replace(POST, capture=SOURCES[source])
    context = installed(entity) if source == "outbox" else EntityContext.open(entity, world.stores)
    world.target("TRUNCATE shapes.post, sync.ledger_post")
    reset(world, context)
    with world.following([context]):
        for how, (kind, change) in CHANGES.items():
            swept = world.target(SWEPT)
            world.legacy(change)
            if claim(source, kind) == NO:
                if source != "sweep":
                    applied(world, "post")
                    assert legacy_rows(world) != new_rows(world), how
                sweep(context)
            wait_for(lambda: legacy_rows(world) == new_rows(world))
            assert claim(source, kind) != YES or world.target(SWEPT) == swept, how


SWEPT = "SELECT swept_from FROM sync.cursor WHERE entity = 'post'"
NEW = "CREATE TABLE posts_2026 PARTITION OF posts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')"


def said(world, entity):
    return [
        (n.level, n.what, n.remedy) for n in preflight(world.stores, [entity]) if n.about == f"entity {entity.name}"
    ]


@pytest.fixture
def followed(world, installed, monkeypatch):
    monkeypatch.setattr(outbox_watch, "LOOK_SECONDS", 0.0)
    context = installed(POST)
    world.target("TRUNCATE shapes.post, sync.ledger_post")
    reset(world, context)
    yield context
    world.legacy("DROP TABLE IF EXISTS posts_2026")


@pytest.mark.hazard(62)
def test_a_new_partition_is_swept_named_and_covered_by_another_install(world, followed):
    write = "INSERT INTO posts_2026 VALUES (%s, '2026-05-01', 'into a new leaf')"
    with world.following([followed]):
        world.legacy(NEW)
        world.legacy(write, [60])
        alert = "no triggers report all changes of posts_2026"
        wait_for(lambda: any(alert in one for one in status_of(world.stores, POST)["alerts"]))
        ((level, what, remedy),) = [one for one in said(world, POST) if one[0] != "ok"]
        assert (level, remedy) == ("error", "sync-pipeline outbox install post")
        assert what == "no enabled trigger of public.posts_2026 fills public.outbox: changes would be lost"
        world.legacy(write, [61])  # after the sweep that was asked for, perhaps
        install(world, POST)
        wait_for(lambda: legacy_rows(world) == new_rows(world))
        wait_for(lambda: not any(alert in one for one in status_of(world.stores, POST)["alerts"]))
        assert {level for level, _, _ in said(world, POST)} == {"ok"}
        wait_for(lambda: world.target("SELECT 1 FROM sync.cursor WHERE swept_from >= gap_at AND gap_at IS NOT NULL"))
        swept = world.target(SWEPT)
        world.legacy(write, [62])
        wait_for(lambda: legacy_rows(world) == new_rows(world))
        assert world.target(SWEPT) == swept


@pytest.mark.hazard(62)
def test_what_happened_while_nothing_followed_is_noticed_at_the_start(world, followed):
    world.legacy(f"{NEW}; INSERT INTO posts_2026 VALUES (60, '2026-05-01', 'unseen')")
    with world.following([followed]):
        wait_for(lambda: legacy_rows(world) == new_rows(world))
    world.legacy("ALTER TABLE posts DETACH PARTITION posts_2024")
    try:
        with world.following([followed]):
            wait_for(lambda: legacy_rows(world) == new_rows(world))
    finally:
        world.legacy("ALTER TABLE posts ATTACH PARTITION posts_2024 FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')")


@pytest.mark.hazard(62)
def test_without_its_guard_a_new_partition_goes_unnoticed(world, followed, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "62")
    with world.following([followed]):
        world.legacy(f"{NEW}; INSERT INTO posts_2026 VALUES (60, '2026-05-01', 'unseen')")
        applied(world, "post")
        assert world.target("SELECT gap_at FROM sync.cursor WHERE entity = 'post'") == [(None,)]
        assert legacy_rows(world) != new_rows(world)


FAULTY = {
    "disabled": ("ALTER TABLE ONLY posts_2024 DISABLE TRIGGER USER", "public.posts_2024"),
    "for replicas only": (
        'ALTER TABLE ONLY posts_2024 ENABLE REPLICA TRIGGER "{update}"',
        "public.posts_2024 (no update)",
    ),
    "half done": ('DROP TRIGGER "{insert}" ON "Posts 2025 high"', 'public."Posts 2025 high" (no insert)'),
}


@pytest.mark.hazard(62)
@pytest.mark.parametrize("fault", FAULTY)
def test_triggers_that_do_not_fire_are_named_swept_and_made_anew(world, followed, fault):
    names = world.legacy(
        "SELECT substring(tgname from '[a-z]+$'), tgname FROM pg_trigger"
        " WHERE tgrelid = 'posts'::regclass AND tgname LIKE 'sync%%'"
    )
    statement, what = FAULTY[fault]
    world.legacy(statement.format(**dict(names)))
    assert ("error", f"no enabled trigger of {what} fills public.outbox: changes would be lost") in [
        (level, text) for level, text, _ in said(world, POST)
    ]
    with world.following([followed]):
        wait_for(lambda: world.target("SELECT 1 FROM sync.cursor WHERE gap_at IS NOT NULL AND blind IS NOT NULL"))
        install(world, POST)
        assert {level for level, _, _ in said(world, POST)} == {"ok"}
        wait_for(lambda: world.target("SELECT 1 FROM sync.cursor WHERE blind IS NULL"))


@pytest.mark.hazard(66)
def test_a_write_goes_through_though_the_outbox_was_dropped(world, followed):
    world.legacy("ALTER TABLE outbox RENAME TO hidden")
    try:
        world.legacy("UPDATE posts SET title = 'unreported'")
        what = "there is no table outbox for its events: triggers of public."
        assert any(level == "error" and text.startswith(what) for level, text, _ in said(world, POST))
        with (
            closing(POST.capture.open(subject_of(followed), None)) as source,
            pytest.raises(SettingError, match="there is no table outbox in the monolith: sync-pipeline outbox install"),
        ):
            list(source.pull(10))
        install(world, POST)
        with world.following([followed]):  # another table, so what was told to none is swept
            wait_for(lambda: legacy_rows(world) == new_rows(world))
    finally:
        world.legacy("DROP TABLE IF EXISTS hidden")


def test_a_function_of_another_version_is_named_and_made_anew(world, followed):
    ((name, body),) = world.legacy("SELECT proname, prosrc FROM pg_proc WHERE proname LIKE 'sync_outbox_post%%'")
    world.legacy(
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
        f" AS $sync${body}-- of another version\n$sync$"
    )
    assert ("error", f"public.{name}(), which fills public.outbox, is of another version") in [
        (level, what) for level, what, _ in said(world, POST)
    ]
    install(world, POST)
    assert {level for level, _, _ in said(world, POST)} == {"ok"}
