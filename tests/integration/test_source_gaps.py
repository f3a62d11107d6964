"""What a source cannot tell any more, or never could, is found by a sweep that it asks for; bad events stop nobody."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import psycopg2
import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import UnreachableError
from sync_pipeline.operate.status import status_of
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.run.capture import open_cursor, subject_of
from sync_pipeline.sources import wal
from sync_pipeline.sources.outbox import TRIES, Outbox
from sync_pipeline.sources.wal import Wal
from tests.caught._tables import TABLES
from tests.installed import made, unmade
from tests.world import opened, wait_for

SLOT = "SELECT slot_name FROM pg_replication_slots WHERE slot_name = 'sync_text'"
HEADER = "SELECT header FROM catalog.text WHERE id = %s"


@pytest.fixture(scope="module")
def world(fleet):
    settings = {"SYNC_SWEEP_SECONDS": "1e9", "SYNC_MARGIN_SECONDS": "0.2", "SYNC_BRAKE_ROWS": "1000000"}
    with opened(fleet, "gaps", **settings) as world:
        world.load(60, 0)
        yield world


@pytest.fixture
def caught(world):
    """A function that gives texts another source, all of them in."""
    contexts = []

    def by(capture):
        entity = replace(world.context("text").entity, capture=capture, tables=TABLES)
        context = EntityContext.open(entity, world.stores)
        for statement in made(context):
            world.legacy(statement)
        contexts.append(context)
        world.target("UPDATE sync.cursor SET state = NULL, source = NULL, gap_at = NULL")
        open_cursor(context)
        keys = [str(key) for (key,) in world.legacy("SELECT id FROM content WHERE kind = 'text'")]
        sync_keys(context, context.origin.key.parse(keys), Order())
        world.target(
            "UPDATE sync.cursor SET filled_at = now(), swept_at = now(), swept_from = now(), sweep_wanted = NULL"
        )
        return context

    yield by
    for context in contexts:
        for statement in unmade(context):
            world.legacy(statement)


@pytest.fixture
def logged(caught):
    return caught(Wal())


@pytest.fixture
def noted(caught):
    return caught(Outbox())


def a_text(world):
    return world.legacy("SELECT min(id) FROM content WHERE kind = 'text' AND deleted_at IS NULL")[0][0]


def test_a_slot_that_is_being_made_is_waited_for(world, caught, monkeypatch):
    monkeypatch.setattr(wal, "_MADE_SECONDS", 0.2)
    context = caught(Wal())
    world.legacy("SELECT pg_drop_replication_slot('sync_text')")
    begun = []
    with closing(psycopg2.connect(world.monolith.admin_url)) as writer, ThreadPoolExecutor() as pool:
        writer.cursor().execute("UPDATE content SET title = title WHERE id = %s", [a_text(world)])
        first = pool.submit(lambda: begun.append(Wal().open(subject_of(context), None).begin()))
        wait_for(lambda: world.legacy(SLOT))
        with pytest.raises(UnreachableError, match="slot sync_text is being made by another session"):
            Wal().open(subject_of(context), None).begin()
        writer.commit()
        first.result(30)
    assert Wal().open(subject_of(context), None).begin() == begun[0]


def gap(world, context):
    return any("began anew" in alert for alert in status_of(world.stores, context.entity)["alerts"])


@pytest.mark.hazard(11)
def test_a_slot_that_was_dropped_is_made_anew_and_what_it_held_is_swept(world, logged):
    key = a_text(world)
    world.legacy("UPDATE content SET title = 'in the lost slot' WHERE id = %s", [key])
    world.legacy("SELECT pg_drop_replication_slot('sync_text')")
    with world.following([logged]):
        wait_for(lambda: world.legacy(SLOT) and world.target(HEADER, [key]) == [("in the lost slot",)])
        wait_for(lambda: not gap(world, logged))
        world.legacy("UPDATE content SET title = 'in the new one' WHERE id = %s", [key])
        wait_for(lambda: world.target(HEADER, [key]) == [("in the new one",)])


@pytest.mark.hazard(11)
def test_a_slot_that_somebody_moved_on_is_noticed(world, logged):
    key = a_text(world)
    world.legacy("UPDATE content SET title = 'passed over' WHERE id = %s", [key])
    world.legacy("SELECT pg_replication_slot_advance('sync_text', pg_current_wal_lsn())")
    with world.following([logged]):
        wait_for(lambda: world.target(HEADER, [key]) == [("passed over",)])


@pytest.mark.hazard(14)
@pytest.mark.parametrize("source", ["logged", "noted"])
def test_a_table_that_was_emptied_is_swept(world, source, request):
    context = request.getfixturevalue(source)
    with world.following([context]):
        world.legacy("TRUNCATE content_tags")
        wait_for(lambda: world.target("SELECT gap_at FROM sync.cursor WHERE entity = 'text'") != [(None,)])
        wait_for(lambda: not gap(world, context))
        wait_for(lambda: world.target("SELECT 1 FROM catalog.text WHERE tags <> '{}'") == [])
    world.legacy("INSERT INTO content_tags SELECT id, 'again' FROM content WHERE kind = 'text'")


def test_an_event_that_names_nothing_is_told_so_and_stops_no_other(world, noted):
    key = a_text(world)
    world.legacy(
        "INSERT INTO outbox (aggregate_type, aggregate_id, event_type) VALUES ('text', 'no number', 'by hand')"
    )
    world.legacy("UPDATE content SET title = 'beside a bad event' WHERE id = %s", [key])
    failed = "SELECT attempts, last_error, processed_at FROM outbox WHERE aggregate_id = 'no number'"
    with world.following([noted]):
        wait_for(lambda: world.target(HEADER, [key]) == [("beside a bad event",)])
        wait_for(lambda: world.legacy(failed)[0][0] == TRIES)
    ((_, said, processed),) = world.legacy(failed)
    assert "not a key of type bigint" in said
    assert processed is None
    assert world.legacy("SELECT count(*) FROM outbox WHERE processed_at IS NULL") == [(1,)]
