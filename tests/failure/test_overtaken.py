"""Batches that overtake each other, and stores that answer otherwise than hoped: what is owed stays owed."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import psycopg2
import pyarrow as pa
import pytest

from sync_pipeline import pipeline
from sync_pipeline.batch.order import Order
from sync_pipeline.ledger.ledger import WRITE, next_draw, next_revision, raise_revision
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.queue import dead_letters, due
from sync_pipeline.queue.dead_letters import DeadLetterFilter
from sync_pipeline.run import live
from tests.sinks import index_of
from tests.stalled import stalled
from tests.world import wait_for

OWED = "SELECT reason, coalesce(keys, ARRAY[key]) FROM sync.due ORDER BY id"
EDIT = "UPDATE content SET title = %s, updated_at = clock_timestamp(), version = version + 1 WHERE id = %s"


@pytest.fixture(scope="module")
def world(fresh_world):
    fresh_world.load(60, 20)
    for name in fresh_world.contexts:
        fresh_world.all_in(name)
    return fresh_world


@pytest.fixture
def context(world):
    yield world.context("text")
    world.target("UPDATE sync.due SET not_before = now()")
    for _ in range(10):
        live.work(world.context("text"), lambda *_: None)
    assert world.differences() == []


@pytest.fixture
def key(world, context):
    """A public text without files."""
    public = "SELECT id FROM catalog.text WHERE is_public AND cover = '{}' AND files = '{}' ORDER BY id LIMIT 1"
    return world.target(public)[0][0]


def sync(context, key, **order):
    return sync_keys(context, context.origin.key.parse([str(key)]), Order(**order))


def owe_document(context, key):
    with context.stores.target() as cursor:
        due.owe(cursor, "text", "documents", [str(key)], 0)


@pytest.mark.parametrize("order", [{"documents": True}, {"force": True}])
def test_what_a_later_look_left_alone_is_owed_again(world, context, key, order):
    """The later batch finds the row unchanged and sends no document; the one that wants to send it comes too late."""
    with stalled(context, key, Order(**order)):
        sync(context, key, acknowledge=True)
    assert world.target(OWED) == [("overtaken" if "force" in order else "documents", [str(key)])]


@pytest.fixture
def outrun(world, context, key, monkeypatch):
    """A batch draws its revision, and another one draws the next, reads, and waits; an edit comes; the first one reads
    and writes what the second one has not seen, and then the second one goes on.
    """

    def play(title, order, edit=EDIT):
        with ExitStack() as waiting, monkeypatch.context() as patch:

            def point(name):
                if name == "read.before":
                    patch.setattr(pipeline, "crash_point", lambda _: None)
                    waiting.enter_context(stalled(context, key, order))
                    world.legacy(edit, (title, key))

            world.legacy(EDIT, ("before", key))
            patch.setattr(pipeline, "crash_point", point)
            sync(context, key)

    return play


SHOWN = "SELECT header FROM catalog.text WHERE id = %s"


@pytest.mark.hazard(149)
@pytest.mark.parametrize("order", [{}, {"acknowledge": True}, {"force": True}])
def test_a_later_batch_that_has_read_earlier_takes_no_row_back(world, context, key, outrun, order):
    outrun("newer", Order(**order))
    assert world.target(SHOWN, (key,)) == [("newer",)]
    assert world.document("GET", f"text/_doc/{key}")["_source"]["header"] == "newer"
    assert world.target(OWED) == [("overtaken", [str(key)])]


@pytest.mark.hazard(149)
def test_nor_does_one_that_has_seen_the_row_bring_it_back(world, context, key, outrun):
    outrun("gone", Order(), edit="UPDATE content SET title = %s, deleted_at = now() WHERE id = %s")
    assert world.target(SHOWN, (key,)) == []
    assert world.target(OWED) == [("overtaken", [str(key)])]


@pytest.mark.hazard(149)
def test_one_that_has_read_the_same_writes_it(world, context, key, outrun):
    outrun("before", Order(force=True), edit="UPDATE authors SET name = name WHERE %s <> '' AND id = %s")
    assert world.target(OWED) == []


@pytest.mark.hazard(149)
def test_one_that_waits_for_the_other_leaves_its_row(world, context, key):
    """The other one has not committed yet when this one comes to the row."""
    lower, draw = next_revision(context.stores), next_draw(context.stores)
    values = {"id": [key], "n": [0], "action": [WRITE], "_digest": [7], "held": [3]}
    plan, found = pa.table({name: pa.array(each, pa.int64()) for name, each in values.items()}), []

    def apply():
        with context.stores.target() as cursor:
            found.extend(context.ledger.apply(cursor, plan, draw, context.bits.all))
            cursor.execute("ROLLBACK; BEGIN")

    with closing(psycopg2.connect(world.target_url)) as other:
        other.cursor().execute("UPDATE sync.ledger_text SET seen = %s, digest = 1 WHERE id = %s", (lower, key))
        batch = threading.Thread(target=apply)
        batch.start()
        waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        wait_for(lambda: world.target(waits))
        other.commit()
        batch.join()
    applied, outrun = found
    assert (applied.num_rows, outrun.to_pylist()) == (0, [0])
    sync(context, key)


@pytest.mark.hazard(149)
def test_without_its_guard_a_row_goes_back(world, context, key, outrun, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("SYNC_TEST_GUARDS_OFF", "149")
        outrun("newer", Order())
    assert world.target(SHOWN, (key,)) == [("before",)]
    sync(context, key)


def test_a_document_that_names_a_rewritten_file_takes_its_row_along(world, context):
    query = "SELECT key, source_key FROM sync.media_ref WHERE entity = 'text' AND source_key = ANY"
    query += "(SELECT unnest(array_agg(source_key)) FROM sync.media) AND key::bigint IN"
    query += " (SELECT id FROM catalog.text WHERE is_public AND cover <> '{}') ORDER BY 1 LIMIT 1"
    key, source = world.target(query)[0]
    before = world.target("SELECT cover || files FROM catalog.text WHERE id = %s", (key,))
    world.client.put_object(Bucket=world.legacy_bucket, Key=source, Body=b"other bytes", ContentType="image/png")
    owe_document(context, key)
    assert live.work(context, lambda *_: None)
    assert world.target("SELECT cover || files FROM catalog.text WHERE id = %s", (key,)) != before
    world.legacy("UPDATE media_files SET mime = 'image/png' WHERE bucket_key = %s", (source,))
    sync(context, key)


@pytest.mark.hazard(23)
def test_a_document_with_a_foreign_version_is_written_again(world, context, key):
    above = next_revision(context.stores) + 5_000
    document = world.document("GET", f"text/_doc/{key}")["_source"]
    world.document("PUT", f"text/_doc/{key}?version={above}&version_type=external", {**document, "header": "foreign"})
    world.legacy(EDIT, ("ours", key))
    sync(context, key)
    assert world.target(OWED) == [("overtaken", [str(key)])]
    assert live.work(context, lambda *_: None)
    found = world.document("GET", f"text/_doc/{key}")
    assert found["_source"]["header"] == "ours"
    assert found["_version"] > above


def test_a_document_that_somebody_deleted_is_written_again(world, context, key):
    world.document("DELETE", f"text/_doc/{key}")
    owe_document(context, key)
    assert live.work(context, lambda *_: None)
    assert world.target(OWED) == [("overtaken", [str(key)])]


@pytest.mark.hazard(23)
def test_no_number_is_drawn_twice_while_the_sequence_leaps(world, context):
    """Many at a time, since there are but microseconds in which a leap can go wrong."""
    drawing = threading.Event()
    drawing.set()

    def draw(_):
        return world.target("SELECT nextval('sync.revision') FROM generate_series(1, 300000)")

    def leap(_):
        while drawing.is_set():
            raise_revision(context.stores, next_revision(context.stores))

    with ThreadPoolExecutor(6) as pool:
        leaps = pool.map(leap, range(3))
        drawn = [number for numbers in pool.map(draw, range(3)) for number in numbers]
        drawing.clear()
        list(leaps)
    assert len(set(drawn)) == len(drawn)


@pytest.mark.hazard(25)
def test_a_missing_alias_parks_no_row(world, context, key):
    """As while a cluster starts: it is not the document's fault."""
    actions = {"index": "text-000001", "alias": "text"}
    world.document("POST", "_aliases", {"actions": [{"remove": actions}]})
    try:
        world.legacy(EDIT, ("meanwhile", key))
        assert sync(context, key).documents_owed == 1
    finally:
        world.document("POST", "_aliases", {"actions": [{"add": actions}]})
    assert world.target("SELECT reason, error FROM sync.due") == [("documents", "UnreachableError")]


@pytest.mark.hazard(25)
def test_a_document_that_the_index_refuses_is_parked_until_a_replay(world, context, key):
    refused = {"updated_at": {"type": "date", "format": "epoch_second"}}  # all else is mapped as declared
    mapping = {"properties": {**index_of(context.entity).fields, **refused}}
    world.document("PUT", "text-refuses", {"mappings": {"dynamic": False, **mapping}})
    swap = [{"remove": {"index": "text-000001", "alias": "text"}}, {"add": {"index": "text-refuses", "alias": "text"}}]
    world.document("POST", "_aliases", {"actions": swap})
    try:
        world.legacy(EDIT, ("refused", key))
        sync(context, key)
        assert world.target("SELECT reason, step FROM sync.due") == [("rejected", "document")]
    finally:
        back = [{"add": {"index": "text-000001", "alias": "text"}}, {"remove_index": {"index": "text-refuses"}}]
        world.document("POST", "_aliases", {"actions": back})
    dead_letters.replay(context, DeadLetterFilter("text"))


def test_a_document_that_the_cluster_puts_off_stays_as_old_as_it_is(world, context, key):
    """Each try leaves a record of its own: it waits longer each time, and is overdue one day."""
    owed = "SELECT first_at, attempts FROM sync.due WHERE reason = 'documents'"
    world.document("PUT", "text/_settings", {"index.blocks.write": True})
    try:
        sync(context, key, force=True)
        ((first, attempts),) = world.target(owed)
        for tried in range(2, 4):
            world.hurry()
            assert live.work(context, lambda *_: None)
            assert world.target(owed) == [(first, attempts - 1 + tried)]
    finally:
        world.document("PUT", "text/_settings", {"index.blocks.write": None})
    world.hurry()
    assert live.work(context, lambda *_: None)
    assert world.target(owed) == []
