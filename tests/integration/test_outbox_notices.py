"""An outbox must not take two-phase commits from the monolith: PostgreSQL prepares no transaction that has notified."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg2
import pytest

from sync_pipeline.db.keys import Key
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.preflight.preflight import preflight
from sync_pipeline.run.capture import open_cursor, subject_of
from sync_pipeline.sources import outbox, outbox_tables
from sync_pipeline.sources.outbox import Outbox, channel
from sync_pipeline.sources.source import Subject
from sync_pipeline.stores.stores import Stores
from tests.installed import catalogue, flat, made, unmade
from tests.notes import MADE, NOTE
from tests.world import opened, wait_for

WRITE = "INSERT INTO note VALUES (%s, %s)"
EVENT = "INSERT INTO outbox (aggregate_type, aggregate_id, event_type) VALUES ('note', '1', 'by hand')"
LONG = 1e6


@pytest.fixture(scope="module")
def world(fleet):
    with opened(fleet, "outbox_notices", SYNC_SWEEP_SECONDS="1e9", SYNC_POLL_SECONDS="0.05") as world:
        world.legacy(f"{MADE}; GRANT SELECT ON note TO sync_reader")
        yield world


@pytest.fixture
def noted(world):
    """A function that installs the triggers, and gives the entity; they leave nothing behind."""
    before = catalogue(world)

    def by(notify=False):
        context = EntityContext.open(NOTE, world.stores)
        for statement in made(context, notify):
            world.legacy(statement)
        open_cursor(context)
        world.target("UPDATE sync.cursor SET filled_at = now(), swept_at = now()")
        return context

    yield by
    for statement in unmade(EntityContext.open(NOTE, world.stores)):
        world.legacy(statement)
    assert catalogue(world) == before
    world.legacy("TRUNCATE note")
    world.target("TRUNCATE catalog.note, sync.ledger_note, sync.due")


@pytest.fixture
def source(noted):
    with closing(NOTE.capture.open(subject_of(noted()), None)) as source:
        yield source


def prepared(world, key):
    """An edit of the monolith's that is prepared."""
    late = psycopg2.connect(world.monolith.admin_url)
    try:
        late.tpc_begin(f"two-phase {key}")
        late.cursor().execute(WRITE, (key, "prepared"))
        late.tpc_prepare()
    except psycopg2.Error:
        late.close()
        raise
    return late


def said(world):
    return [(n.level, n.what, n.remedy) for n in preflight(world.stores, [NOTE]) if n.about == "entity note"][1:]


def test_what_is_prepared_goes_through_and_arrives_once_it_is_committed(world, noted):
    context = noted()
    assert ("ok", "outbox is polled: no trigger notifies", "") in said(world)
    with world.following([context]), closing(prepared(world, 1)) as late:
        world.legacy(WRITE, (2, "beside it"))
        wait_for(lambda: world.target("SELECT 1 FROM catalog.note WHERE id = 2"))
        assert not world.target("SELECT 1 FROM catalog.note WHERE id = 1")
        late.tpc_commit()
        wait_for(lambda: world.target("SELECT title FROM catalog.note WHERE id = 1") == [("prepared",)])


def test_notices_on_a_server_that_prepares_are_a_choice_and_told_of(world, noted):
    noted(notify=True)
    with pytest.raises(psycopg2.errors.FeatureNotSupported):
        prepared(world, 1)
    ((level, what, remedy),) = [notice for notice in said(world) if notice[0] != "ok"]
    assert (level, remedy) == ("warning", "sync-pipeline outbox install note")
    assert what == "triggers of note notify: PREPARE TRANSACTION fails for whoever changes these tables"
    noted()  # as the remedy says
    prepared(world, 1).tpc_rollback()
    assert {level for level, _, _ in said(world)} == {"ok"}


@pytest.fixture
def elsewhere(world):
    """The same monolith on a server that allows no prepared transactions: the new side's."""
    stores = Stores(dataclasses.replace(world.stores.settings, legacy_db=world.stores.settings.target_db))
    stores.servers.accepts_all = True  # this ledger has recorded the monolith's own
    world.target(MADE)
    yield Subject("note", Key(("id",), ("bigint",)), NOTE.tables, stores)
    stores.close()
    world.target("DROP TABLE note, outbox CASCADE")


def test_triggers_notify_where_it_was_asked_for_and_nowhere_else(world, elsewhere):
    with closing(psycopg2.connect(world.target_url)) as ear:
        ear.autocommit = True
        ear.cursor().execute(f"LISTEN {channel('outbox')}")

        def heard(key):
            """Notices of a write; one that comes after it, by hand, ends the wait."""
            ear.notifies.clear()
            world.target(WRITE, (key, "written"))
            world.target(f"NOTIFY {channel('outbox')}, 'by hand'")
            wait_for(lambda: ear.cursor().execute("SELECT 1") or [n for n in ear.notifies if n.payload == "by hand"])
            return [n for n in ear.notifies if n.payload != "by hand"]

        for key, notify in enumerate([False, True, False]):  # each installation changes what the one before it made
            for statement in flat(outbox_tables.install(elsewhere, Outbox(), notify)):
                world.target(statement)
            with elsewhere.stores.legacy() as cursor:
                assert outbox_tables.notifying(cursor, elsewhere, Outbox()) == (["note"] if notify else [], [])
            assert bool(heard(key)) == notify


def waited(source, seconds, notify=bool):
    """Wait, and notify meanwhile."""
    halt = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(source.wait, halt, seconds)
        try:
            wait_for(lambda: waiting.done() or notify())
        finally:
            halt.set()


def test_polls_are_as_close_as_set_until_notices_come(world, source, monkeypatch):
    def notify():
        world.legacy(f"NOTIFY {channel('outbox')}")

    monkeypatch.setattr(outbox, "_LISTENED_SECONDS", LONG)
    waited(source, 0.01)
    waited(source, LONG, notify)
    monkeypatch.setattr(outbox, "_LISTENED_SECONDS", 0.01)
    waited(source, 0.01)
    assert source._announced  # nothing came, so there was nothing to notify of
    world.legacy(EVENT)
    assert len(list(source.pull(10))) == 1  # and now there was
    monkeypatch.setattr(outbox, "_LISTENED_SECONDS", LONG)
    waited(source, 0.01)
    waited(source, LONG, notify)
    world.legacy(EVENT)
    assert len(list(source.pull(10))) == 1
    assert source._announced
