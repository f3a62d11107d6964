"""Events that tell versions: from the future they wait, old ones are dropped, both are counted; the sweep is off."""

import threading
from dataclasses import replace

import pandas as pd
import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.origin import Origin
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.errors import DeclarationError
from sync_pipeline.ledger.cursor import Lease
from sync_pipeline.operate.status import status_of
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.preflight.preflight import preflight
from sync_pipeline.run import live
from sync_pipeline.run.capture import open_cursor, resumed
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.table import Table
from tests.world import opened, wait_for

MONOLITH = """
    CREATE TABLE note (id bigint PRIMARY KEY, title text, version integer);
    CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, aggregate_type text, aggregate_id text,
        version bigint, processed_at timestamptz, attempts integer DEFAULT 0, last_error text);
    GRANT SELECT ON note, outbox TO sync_reader;
    GRANT UPDATE (processed_at, attempts, last_error), DELETE ON outbox TO sync_reader;
    INSERT INTO note SELECT n, 'note ' || n, 1 FROM generate_series(1, 40) n;
"""
NOTE = Entity(
    name="note",
    owner="team:tests",
    origin=LegacyQuery("SELECT id, title, version FROM note", key=("id",)),
    tables=(Table("note", key=("id",)),),
    capture=Outbox(version="version"),
    adapt=lambda legacy: pd.DataFrame({"id": legacy["id"], "title": legacy["title"]}),
    sinks=(RelationalTable("catalog.note", key=("id",), columns={"id": "bigint", "title": "text"}),),
    partitions=KeyRanges(1),
)
FUTURE = "SELECT keys FROM sync.due WHERE reason = 'future'"


@pytest.fixture(scope="module")
def world(fleet):
    settings = {"SYNC_SWEEP_SECONDS": "1e9", "SYNC_FUTURE_LIMIT_SECONDS": "1000"}
    with opened(fleet, "versions", **settings) as world:
        world.legacy(MONOLITH)
        yield world


@pytest.fixture
def context(world):
    """All notes in, and nothing pending, counted or waited for."""
    context = EntityContext.open(NOTE, world.stores)
    open_cursor(context)
    world.legacy("DELETE FROM outbox")
    world.target("DELETE FROM sync.version; DELETE FROM sync.due")
    world.target("UPDATE sync.cursor SET events_deferred = 0, events_dropped = 0, events_unmet = 0, unmet_at = NULL")
    keys = [str(n) for n in (*range(1, 41), 99)]
    sync_keys(context, context.origin.key.parse(keys), Order(force=True))
    return context


@pytest.fixture
def poll(context, monkeypatch):
    """A function that polls once, and gives the keys whose rows were read."""
    lease = Lease.take(context.stores, "note", "test")
    source = resumed(context)
    read = []
    by_roots = Origin.by_roots

    def noted(origin, roots):
        read.extend(roots.column("id").to_pylist())
        return by_roots(origin, roots)

    def once():
        read.clear()
        live.poll(context, lease, source, lambda *_: None, keep_idle=True)
        return sorted(read)

    monkeypatch.setattr(Origin, "by_roots", noted)
    yield once
    lease.give_back(context.stores)


def tell(world, key, version):
    """An event of the monolith's own."""
    insert = "INSERT INTO outbox (aggregate_type, aggregate_id, version) VALUES ('note', %s, %s)"
    world.legacy(insert, (str(key), version))


def write(world, key, title, version):
    world.legacy("UPDATE note SET title = %s, version = %s WHERE id = %s", (title, version, key))


def titles(world, *keys):
    return dict(world.target("SELECT id, title FROM catalog.note WHERE id = ANY(%s)", (list(keys),)))


def apart(world):
    return set(world.legacy("SELECT id, title FROM note")) ^ set(world.target("SELECT id, title FROM catalog.note"))


def events(world, context):
    return status_of(world.stores, context.entity)["events"]


def work_off(world, context):
    """Do what is owed, without waiting for its time."""
    world.target("UPDATE sync.due SET not_before = now()")
    while live.work(context, lambda *_: None):
        pass


@pytest.mark.hazard(6)
def test_an_event_from_the_future_waits_for_its_row(world, context, poll):
    tell(world, 1, 2)
    write(world, 1, "neither one nor two", 1)
    tell(world, 2, 1)
    assert poll() == [1]
    assert titles(world, 1) == {1: "note 1"}
    assert world.target(FUTURE) == [(["1"],)]
    work_off(world, context)
    assert titles(world, 1) == {1: "note 1"}
    write(world, 1, "two", 2)
    work_off(world, context)
    assert titles(world, 1) == {1: "two"}
    assert world.target(FUTURE) == []
    assert events(world, context) == {"deferred": 1, "dropped": 1, "unmet": 0}


def test_a_row_from_the_future_is_waited_for(world, context, poll):
    tell(world, 99, 1)
    poll()
    assert world.target(FUTURE) == [(["99"],)]
    world.legacy("INSERT INTO note VALUES (99, 'there', 1)")
    work_off(world, context)
    assert titles(world, 99) == {99: "there"}


def test_an_event_that_is_applied_is_dropped_unread(world, context, poll):
    write(world, 3, "three times", 4)
    tell(world, 3, 4)
    assert poll() == [3]
    for version in (2, 3, 4):
        tell(world, 3, version)
    tell(world, 4, 9)
    write(world, 4, "not dropped", 9)
    assert poll() == [4]
    assert world.legacy("SELECT 1 FROM outbox WHERE processed_at IS NULL") == []
    write(world, 3, "later", 5)
    tell(world, 3, 5)
    assert poll() == [3]
    assert events(world, context) == {"deferred": 0, "dropped": 1, "unmet": 0}
    assert titles(world, 3, 4) == {3: "later", 4: "not dropped"}


def test_a_row_made_again_counts_from_one(world, context, poll):
    write(world, 5, "before", 7)
    tell(world, 5, 7)
    poll()
    world.legacy("DELETE FROM note WHERE id = 5")
    tell(world, 5, None)
    poll()
    assert titles(world, 5) == {}
    world.legacy("INSERT INTO note VALUES (5, 'again', 1)")
    tell(world, 5, 1)
    poll()
    assert titles(world, 5) == {5: "again"}


def test_a_delete_ends_the_wait(world, context, poll):
    tell(world, 6, 2)
    poll()
    world.legacy("DELETE FROM note WHERE id = 6")
    tell(world, 6, None)
    poll()
    assert titles(world, 6) == {}
    work_off(world, context)
    assert world.target(FUTURE) == []
    assert events(world, context)["unmet"] == 0


def test_an_event_without_a_version_is_applied_whatever_was(world, context, poll):
    write(world, 7, "by a child", 1)
    tell(world, 7, 1)
    tell(world, 7, None)
    poll()
    write(world, 7, "by a child again", 1)
    tell(world, 7, None)
    poll()
    assert titles(world, 7) == {7: "by a child again"}


def test_an_event_without_a_version_takes_nothing_from_one_of_the_future(world, context, poll):
    """Of a child that was committed, while the root's own change, told beforehand, was not."""
    for key, tellings in ((31, [(2, None)]), (32, [(None, 2)]), (33, [(2,), (None,)])):
        for telling in tellings:
            for version in telling:
                tell(world, key, version)
            write(world, key, "by a child", 1)
            poll()
        write(world, key, "two", 2)
        work_off(world, context)
        assert titles(world, key) == {key: "two"}
    assert world.target(FUTURE) == []


def test_an_old_version_takes_nothing_from_an_event_without_one(world, context, poll):
    write(world, 34, "four", 4)
    tell(world, 34, 4)
    poll()
    write(world, 34, "by a child", 4)
    tell(world, 34, None)
    tell(world, 34, 4)
    poll()
    assert titles(world, 34) == {34: "by a child"}


def test_a_row_that_was_changed_and_deleted_is_not_waited_for(world, context, poll):
    tell(world, 35, 2)
    world.legacy("DELETE FROM note WHERE id = 35")
    tell(world, 35, None)
    poll()
    assert titles(world, 35) == {}
    assert world.target(FUTURE) == []


def test_a_row_that_was_deleted_and_is_to_be_made_again_is(world, context, poll):
    world.legacy("DELETE FROM note WHERE id = 36")
    tell(world, 36, None)
    tell(world, 36, 1)
    poll()
    world.legacy("INSERT INTO note VALUES (36, 'again', 1)")
    work_off(world, context)
    assert titles(world, 36) == {36: "again"}


def test_what_never_shows_is_taken_as_it_stands_and_said(world, context, poll):
    tell(world, 8, 2)
    write(world, 8, "as it stands", 1)
    poll()
    world.target("UPDATE sync.due SET first_at = now() - interval '1 hour'")
    work_off(world, context)
    assert titles(world, 8) == {8: "as it stands"}
    assert events(world, context)["unmet"] == 1
    assert any("did not show" in alert for alert in status_of(world.stores, context.entity)["alerts"])


def test_a_failed_try_of_the_monolith_does_no_harm(world, context, poll):
    """Its event went to another database; the transaction was rolled back, and tried again."""
    tell(world, 9, 2)
    poll()
    write(world, 9, "second try", 2)
    tell(world, 9, 2)
    poll()
    work_off(world, context)
    assert titles(world, 9) == {9: "second try"}
    assert world.target(FUTURE) == []


def test_eight_writers_whose_events_run_ahead_lose_nothing(world, context):
    stop = threading.Event()

    def editing(first):
        turn = 1
        while not stop.wait(0.02):
            turn += 1
            for key in range(first, first + 2):
                tell(world, key, turn)
                stop.wait(0.03 * (turn % 3))
                write(world, key, f"{key} in turn {turn}", turn)

    editors = [threading.Thread(target=editing, args=(11 + 2 * n,)) for n in range(8)]
    with world.following([context]):
        for editor in editors:
            editor.start()
        stop.wait(4)
        stop.set()
        for editor in editors:
            editor.join()
        wait_for(lambda: world.legacy("SELECT 1 FROM outbox WHERE processed_at IS NULL") == [])
        wait_for(lambda: world.target("SELECT 1 FROM sync.due") == [])
    assert apart(world) == set()
    assert events(world, context)["deferred"] > 0


def test_what_waits_is_applied_when_the_entity_names_no_version_any_more(world, context, poll):
    tell(world, 10, 5)
    poll()
    plain = EntityContext.open(replace(NOTE, capture=Outbox()), world.stores)
    write(world, 10, "without versions", 1)
    work_off(world, plain)
    assert titles(world, 10) == {10: "without versions"}
    assert world.target(FUTURE) == []


def test_a_version_that_the_query_does_not_return_stops_the_entity(world):
    with pytest.raises(DeclarationError, match="no column 'revision'"):
        EntityContext.open(replace(NOTE, capture=Outbox(version="revision")), world.stores)


def test_preflight_names_what_versions_lack(world):
    assert [n.what for n in preflight(world.stores, [NOTE]) if n.level == "error"] == []
    unknown = replace(NOTE, capture=Outbox(version="title"))
    assert any("no whole number" in n.what for n in preflight(world.stores, [unknown]) if n.level == "error")
    world.legacy("ALTER TABLE outbox RENAME version TO other")
    try:
        assert any("no column version" in n.what for n in preflight(world.stores, [NOTE]) if n.level == "error")
    finally:
        world.legacy("ALTER TABLE outbox RENAME other TO version")
