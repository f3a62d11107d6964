"""A transaction of the monolith that locks an event of the outbox holds up this event alone."""

from contextlib import closing

import psycopg2
import pytest

from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import UnreachableError
from sync_pipeline.run.capture import open_cursor, subject_of
from sync_pipeline.sources import outbox
from tests.installed import made
from tests.notes import MADE, NOTE
from tests.world import opened, wait_for

PENDING = "SELECT aggregate_id FROM outbox WHERE processed_at IS NULL ORDER BY id"
SETTINGS = {"SYNC_SWEEP_SECONDS": "1e9", "SYNC_POLL_SECONDS": "0.05", "SYNC_LOCK_TIMEOUT_SECONDS": "0.3"}


@pytest.fixture(scope="module")
def world(fleet):
    with opened(fleet, "outbox_locks", **SETTINGS) as world:
        world.legacy(f"{MADE}; GRANT SELECT ON note TO sync_reader")
        for statement in made(EntityContext.open(NOTE, world.stores)):
            world.legacy(statement)
        yield world


@pytest.fixture
def context(world):
    context = EntityContext.open(NOTE, world.stores)
    open_cursor(context)
    world.target("UPDATE sync.cursor SET filled_at = now(), swept_at = now()")
    yield context
    world.legacy("TRUNCATE note, outbox")
    world.target("TRUNCATE catalog.note, sync.ledger_note, sync.due")


@pytest.fixture
def source(context):
    with closing(NOTE.capture.open(subject_of(context), None)) as source:
        yield source


@pytest.fixture
def locked(world):
    """Event of note 1, locked by a transaction of the monolith's."""
    world.legacy("INSERT INTO note VALUES (1, 'one')")
    with closing(psycopg2.connect(world.monolith.admin_url)) as holder:
        holder.cursor().execute("SELECT FROM outbox WHERE aggregate_id = '1' FOR UPDATE")
        yield holder


def polled(source):
    """Roots of one poll, acknowledged as the live delta does it."""
    keys = []
    for page in source.pull(10):
        keys += page.keys.column("id").to_pylist()
        source.acknowledge_page(page)
    source.acknowledge()
    return sorted(keys)


@pytest.mark.hazard(120)
def test_other_events_go_on_while_one_is_locked(world, context, locked):
    with world.following([context]):
        for key in range(2, 6):
            world.legacy("INSERT INTO note VALUES (%s, 'another')", (key,))
            wait_for(lambda key=key: world.target("SELECT 1 FROM catalog.note WHERE id = %s", (key,)))
        wait_for(lambda: world.legacy(PENDING) == [("1",)])
        assert world.target("SELECT title FROM catalog.note WHERE id = 1") == [("one",)]
        locked.rollback()
        wait_for(lambda: world.legacy(PENDING) == [])


@pytest.mark.hazard(120)
def test_without_its_guard_one_locked_event_holds_up_the_entity(source, locked, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "120")
    with pytest.raises(UnreachableError, match="SYNC_LOCK_TIMEOUT_SECONDS"):
        polled(source)


def test_a_locked_event_is_given_once_and_acknowledged_when_it_is_free(world, source, locked, caplog):
    assert polled(source) == [1]
    assert "outbox events locked" in caplog.text
    world.legacy("INSERT INTO note VALUES (2, 'two')")
    assert polled(source) == [2]
    assert world.legacy(PENDING) == [("1",)]
    locked.rollback()
    assert polled(source) == []
    assert world.legacy(PENDING) == []
    assert source.position().blind is None  # nobody else has acknowledged it


def test_an_event_that_is_removed_by_the_transaction_that_locked_it_is_noticed(world, source, locked):
    assert polled(source) == [1]
    locked.cursor().execute("DELETE FROM outbox WHERE aggregate_id = '1'")
    locked.commit()
    assert polled(source) == []
    assert "another reader" in source.position().blind


def test_a_locked_event_that_names_nothing_holds_up_none(world, source, locked):
    locked.rollback()
    world.legacy("INSERT INTO outbox (aggregate_type, aggregate_id, event_type) VALUES ('note', 'wrong', 'by hand')")
    locked.cursor().execute("SELECT FROM outbox WHERE aggregate_id = 'wrong' FOR UPDATE")
    assert polled(source) == [1]
    locked.rollback()
    polled(source)
    assert world.legacy("SELECT attempts FROM outbox WHERE aggregate_id = 'wrong'") == [(1,)]


def test_a_locked_event_that_is_old_stays_while_others_are_removed(world, source, locked, monkeypatch):
    locked.rollback()
    world.legacy("INSERT INTO note VALUES (2, 'two')")
    assert polled(source) == [1, 2]
    world.legacy("UPDATE outbox SET processed_at = now() - interval '2 days'")
    locked.cursor().execute("SELECT FROM outbox WHERE aggregate_id = '1' FOR UPDATE")
    monkeypatch.setattr(outbox, "_CLEAN_SECONDS", 0.0)
    source._clean_at = 0.0
    polled(source)
    assert world.legacy("SELECT aggregate_id FROM outbox") == [("1",)]
