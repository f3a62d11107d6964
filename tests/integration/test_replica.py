"""Rows read from a replica: nothing is lost and nothing stale is written, however far it lags; the sweep is off."""

import re
import threading
import time
from contextlib import closing
from dataclasses import replace

import psycopg2
import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import SettingError, UnreachableError
from sync_pipeline.operate.fence import put_fence
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.preflight.preflight import preflight
from sync_pipeline.run.background import in_background
from sync_pipeline.run.capture import open_cursor
from sync_pipeline.stores import replica as waiting
from sync_pipeline.stores.stores import Stores
from tests.caught._tables import TABLES
from tests.installed import SOURCES, made, unmade
from tests.newsroom import edited, follow, leave_out_the_sweep, settle, was_swept
from tests.replica import Replica
from tests.world import opened, wait_for

EDIT = "UPDATE content SET title = %s, updated_at = clock_timestamp(), version = version + 1 WHERE id = %s"
HEADER = "SELECT header FROM catalog.text WHERE id = %s"


@pytest.fixture(scope="module")
def replica(fleet, tmp_path_factory):
    server = Replica(tmp_path_factory.mktemp("replica"), fleet.legacy)
    server.start()
    try:
        server.wait_healthy()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def world(fleet, replica):
    settings = {"SYNC_SWEEP_SECONDS": "1e9", "SYNC_MARGIN_SECONDS": "0.2", "SYNC_REPLICA_SECONDS": "1"}
    url = replica.url("replicated", "sync_reader")
    with opened(fleet, "replicated", SYNC_LEGACY_REPLICA_DB=url, **settings) as world:
        world.load(400, 10)
        for name in world.contexts:
            world.all_in(name)
        leave_out_the_sweep(world)
        yield world


@pytest.fixture(params=["watermark", "outbox", "wal"])
def context(request, world):
    """Texts, caught in each way."""
    context = EntityContext.open(
        replace(world.context("text").entity, capture=SOURCES[request.param], tables=TABLES), world.stores
    )
    for statement in made(context):
        world.legacy(statement)
    world.target("UPDATE sync.cursor SET state = NULL WHERE entity = 'text'")
    open_cursor(context)
    yield context
    for statement in unmade(context):
        world.legacy(statement)


@pytest.fixture
def key(world):
    return world.legacy("SELECT min(id) FROM content WHERE kind = 'text' AND deleted_at IS NULL")[0][0]


def settled(world):
    ((since,),) = world.legacy("SELECT clock_timestamp()")
    wait_for(lambda: world.target("SELECT 1 FROM sync.cursor WHERE entity = 'text' AND applied_through > %s", [since]))


@pytest.mark.hazard(6)
def test_what_a_paused_replica_does_not_show_is_neither_lost_nor_written_stale(world, replica, context, key, caplog):
    with world.following([context]):
        world.legacy(EDIT, ("shown", key))
        wait_for(lambda: world.target(HEADER, [key]) == [("shown",)])
        replica.pause()
        try:
            world.legacy(EDIT, ("not shown yet", key))
            wait_for(lambda: "bytes behind the primary" in str([vars(record) for record in caplog.records]))
            assert world.target(HEADER, [key]) == [("shown",)]
        finally:
            replica.resume()
        wait_for(lambda: world.target(HEADER, [key]) == [("not shown yet",)])
        settled(world)
    assert not was_swept(world)
    assert world.differences() == []


@pytest.mark.hazard(6)
def test_without_the_wait_it_is_lost(world, replica, key, monkeypatch):
    """The test above would show it."""
    monkeypatch.setattr("sync_pipeline.stores.stores.await_replay", lambda *_: None)
    context = world.context("text")
    world.legacy(EDIT, ("before", key))
    wait_for(lambda: shown(world.stores, key) == "before")
    sync_keys(context, context.origin.key.parse([str(key)]), Order())
    replica.pause()
    try:
        world.legacy(EDIT, ("missed", key))
        sync_keys(context, context.origin.key.parse([str(key)]), Order(acknowledge=True))
    finally:
        replica.resume()
    assert world.target(HEADER, [key]) == [("before",)]
    monkeypatch.undo()
    sync_keys(context, context.origin.key.parse([str(key)]), Order())
    assert world.target(HEADER, [key]) == [("missed",)]


def shown(stores, key):
    with stores.legacy_rows() as cursor:
        cursor.execute("SELECT title FROM content WHERE id = %s", [key])
        return cursor.fetchone()[0]


def test_a_read_sees_what_was_committed_before_it(world, key):
    """Positions fall on edges of pages, too."""
    for n in range(60):
        world.legacy(EDIT, ("x" * (n * 97 % 900), key))
        assert shown(world.stores, key) == "x" * (n * 97 % 900)


def test_what_no_commit_has_written_out_is_not_waited_for(world, key):
    with closing(psycopg2.connect(world.monolith.admin_url)) as writer:
        for n in range(10):
            writer.cursor().execute(EDIT, (f"not committed {n}", key))
            began = time.monotonic()
            shown(world.stores, key)
            assert time.monotonic() - began < 0.9


def test_a_statement_that_recovery_cancels_is_tried_again(world, replica, key):
    replica.run("ALTER SYSTEM SET max_standby_streaming_delay = 0")
    replica.run("SELECT pg_reload_conf()")
    try:
        with pytest.raises(UnreachableError, match="conflict with recovery"):
            read_while(world, lambda: vacuumed(world, key))
        assert shown(world.stores, key) == "dead, too"
    finally:
        replica.run("ALTER SYSTEM RESET max_standby_streaming_delay")
        replica.run("SELECT pg_reload_conf()")


def vacuumed(world, key):
    for title in ("dead", "dead, too"):
        world.legacy(EDIT, (title, key))
    world.legacy("VACUUM content")


def read_while(world, act):
    """A statement that takes long enough for something else."""
    with world.stores.legacy_rows() as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("SELECT count(*) FROM content")
        with in_background(lambda _: act(), "writer"):
            cursor.execute("SELECT count(*), pg_sleep(20) FROM content")


def test_the_distance_is_told(world, replica, key):
    replica.pause()
    try:
        world.legacy(EDIT, ("far", key))
        with pytest.raises(UnreachableError, match=r"SYNC_LEGACY_REPLICA_DB.* [0-9,]+ bytes behind"):
            shown(world.stores, key)
    finally:
        replica.resume()


def errors(stores, context):
    found = preflight(stores, [context.entity])
    return [notice.what for notice in found if notice.level == "error" and notice.about == "legacy replica"]


def test_preflight_looks_at_the_replica(world, replica, fleet):
    context = world.context("text")
    assert errors(world.stores, context) == []
    for url, words in {
        world.monolith.reader_url: "is no replica",
        replica.url("postgres"): "another database",
    }.items():
        elsewhere = url.replace("postgresql://", "postgresql+psycopg2://")
        with closing(Stores(replace(world.stores.settings, legacy_replica_db=elsewhere))) as stores:
            assert re.search(words, str(errors(stores, context)))
            with pytest.raises((SettingError, UnreachableError)), stores.legacy_rows():
                pass
    replica.pause()
    try:
        assert re.search("paused", str(errors(world.stores, context)))
    finally:
        replica.resume()


def test_editors_lose_nothing(world, replica, tmp_path):
    world.target("UPDATE sync.cursor SET state = NULL, source = NULL")
    for name in world.contexts:
        world.all_in(name)
    with edited(world, seed=23):
        live = follow(tmp_path / "live.log")
        for _ in range(3):
            threading.Event().wait(1.0)
            replica.pause()
            threading.Event().wait(1.5)
            replica.resume()
        live.kill()
    settle(world, tmp_path / "end.log")
    assert not was_swept(world)
    assert world.differences() == []


def test_the_wait_is_told_where_a_page_begins():
    assert [waiting.written_end(at) for at in (8192 + 24, 8192 + 40, 8192 + 25, 8192)] == [8192, 8192, 8217, 8192]


def test_a_fence_is_refused_at_a_replica(world):
    """Who has transactions open at the primary does not show there."""
    there = replace(world.stores.settings, legacy_db=world.stores.settings.legacy_replica_db)
    with closing(Stores(there)) as stores, pytest.raises(SettingError, match="is a replica"):
        put_fence(stores)
