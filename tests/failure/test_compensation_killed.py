"""Killed while rows are put back, and an index filled beside the one that refuses: what is owed brings it about."""

import signal
from dataclasses import replace

import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.model.faults import COMPENSATION_CRASH_POINTS
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.rebuild.rebuild import rebuild_index
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run import live
from sync_pipeline.run.capture import open_cursor
from sync_pipeline.run.sweep import sweep
from tests.command import Command
from tests.refusing._notes import MONOLITH
from tests.sinks import index_of
from tests.world import opened, wait_for

PUT = (
    "INSERT INTO note (id, title, weight) VALUES (%s, %s, %s) ON CONFLICT (id) DO UPDATE"
    " SET title = excluded.title, weight = excluded.weight, updated_at = clock_timestamp()"
)
OWED = "SELECT reason FROM sync.due WHERE entity = 'note' AND reason <> 'rejected'"
# the batch that is refused, up to the note that it was; then the compensation, from its claim on
POINTS = ("documents.after", "close.before", "close.after", "due.after", *COMPENSATION_CRASH_POINTS)


@pytest.fixture(scope="module")
def world(fleet):
    settings = {"SYNC_ENTITIES": "tests.refusing", "SYNC_RECHECK_SECONDS": "0"}
    with opened(fleet, "compensation_killed", **settings) as world:
        world.legacy(MONOLITH)
        open_cursor(world.contexts["note"])
        sweep(world.contexts["note"])
        world.target("UPDATE sync.cursor SET filled_at = now()")
        yield world


def held(world, key, index="note"):
    found = world.document("POST", f"{index}/_mget", {"ids": [str(key)]})["docs"][0]
    rows = world.target("SELECT title FROM catalog.note WHERE id = %s", (key,))
    return (rows[0][0] if rows else None, found["_source"]["title"] if found["found"] else None)


def follow(log, **settings):
    return Command(log, "sync", "note", "--follow", **settings)


@pytest.fixture
def beside(world):
    """An index beside the alias that takes what the one behind it refuses."""
    mapping = {"properties": {"title": {"type": "keyword"}, "weight": {"type": "keyword"}}}
    body = {"mappings": {"dynamic": False, **mapping}, "aliases": {"note-next": {}}}
    world.document("PUT", "note-beside", body)
    world.target(
        "INSERT INTO sync.rebuild (entity, name, former, declared, state)"
        " VALUES ('note', 'note-beside', 'note-000001', '{}', 'filling')"
    )
    yield
    world.target("DELETE FROM sync.rebuild")
    world.document("DELETE", "note-beside")


def test_killed_at_every_step_of_it(world, beside, tmp_path):
    context = world.contexts["note"]
    for key in range(1, len(POINTS) + 1):
        world.legacy(PUT, (key, "first", "1"))
    live_run = follow(tmp_path / "first")
    wait_for(lambda: [held(world, key) for key in range(1, len(POINTS) + 1)] == [("first", "first")] * len(POINTS))
    live_run.interrupt()
    assert live_run.wait() == 0
    for key, point in enumerate(POINTS, 1):
        world.legacy(PUT, (key, "refused", "heavy"))
        killed = follow(tmp_path / point, SYNC_TEST_CRASH_AT=point)
        assert killed.wait() == -signal.SIGKILL, f"{point}: {killed.tail()}"
        world.target("UPDATE sync.due SET claimed_until = NULL")
        world.hurry()
        while live.work(context, lambda *_: None):
            pass
        assert held(world, key) == ("first", "first"), point
        assert held(world, key, "note-next") == ("first", "first"), point
    assert world.target(OWED) == []
    assert world.target("SELECT key FROM sync.before") == []
    assert {finding.kind for finding in reconcile(context).findings} == {"pending"}


def test_a_new_mapping_takes_what_was_put_back(world):
    """Rebuilt with the same mapping, it stays as it was; with one that takes it, it comes through by itself."""
    context = world.contexts["note"]

    def sync(title, weight):
        world.legacy(PUT, (99, title, weight))
        sync_keys(context, context.origin.key.parse(["99"]), Order(acknowledge=True))
        work(context)

    def work(context):
        while live.work(context, lambda *_: None):
            pass

    sync("first", "1")
    sync("refused", "heavy")
    made = rebuild_index(context)
    assert made.findings == []
    assert made.carried_over > 0
    assert held(world, 99) == ("first", "first")
    work(context)
    assert held(world, 99) == ("first", "first")

    index = index_of(context.entity)
    wide = replace(index, fields=index.fields | {"weight": {"type": "keyword"}})
    sinks = tuple(wide if sink is index else sink for sink in context.entity.sinks)
    context = replace(context, entity=replace(context.entity, sinks=sinks))
    assert rebuild_index(context).findings == []
    work(context)
    assert held(world, 99) == ("refused", "refused")
    assert world.target("SELECT key FROM sync.due") == []
    assert reconcile(context).findings == []
