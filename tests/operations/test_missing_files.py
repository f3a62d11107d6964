"""Rows that name a file which is not there: tried again by themselves, with growing pauses, then parked."""

import dataclasses

import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.files import load_entities
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.queue import dead_letters
from sync_pipeline.queue.dead_letters import DeadLetterFilter
from sync_pipeline.run import live
from sync_pipeline.run.sweep import sweep
from sync_pipeline.stores.stores import Stores

RETRIES = 2
OWED = "SELECT error, attempts, extract(epoch FROM not_before - last_at)::float FROM sync.due WHERE reason = 'rejected'"


@pytest.fixture(scope="module")
def context(world):
    world.load(30, 0)
    stores = Stores(dataclasses.replace(world.stores.settings, retry_limit=RETRIES))
    yield EntityContext.open(load_entities("assets.entities")["text"], stores)
    stores.close()


@pytest.fixture
def key(world, context):
    """A row whose file is not there yet."""
    found = world.legacy("SELECT id FROM content WHERE kind = 'text' AND deleted_at IS NULL ORDER BY random() LIMIT 1")
    world.legacy(
        "INSERT INTO media_files (content_id, kind, bucket_key) VALUES (%s, 'cover', 'later.jpg')", (found[0][0],)
    )
    yield str(found[0][0])
    world.legacy("DELETE FROM media_files")
    world.client.delete_object(Bucket=world.legacy_bucket, Key="later.jpg")
    sync(context, str(found[0][0]))
    assert world.target("SELECT * FROM sync.due") == []


def sync(context, key):
    return sync_keys(context, context.origin.key.parse([key]), Order())


def work_once(world, context):
    world.target("UPDATE sync.due SET not_before = now() WHERE not_before < 'infinity'")
    return live.work(context, lambda *_: None)


def test_pauses_grow_and_end(world, context, key):
    assert sync(context, key).parked == 1
    assert world.target(OWED) == [("MediaMissing", 1, pytest.approx(2))]
    assert work_once(world, context)
    assert world.target(OWED) == [("MediaMissing", 2, pytest.approx(4))]
    assert work_once(world, context)
    assert world.target(OWED) == [("MediaMissing", RETRIES + 1, float("inf"))]
    assert not work_once(world, context)


def test_another_fault_of_the_row_is_tried_anew(world, context, key):
    for _ in range(RETRIES + 1):
        sync(context, key)
    assert world.target(OWED)[0][1:] == (RETRIES + 1, float("inf"))
    world.legacy("UPDATE media_files SET bucket_key = 'other.jpg'")
    sync(context, key)
    assert world.target(OWED)[0][1:] == (1, pytest.approx(2))


def test_a_file_that_comes_later_brings_its_row_along(world, context, key):
    sync(context, key)
    world.client.put_object(Bucket=world.legacy_bucket, Key="later.jpg", Body=b"late")
    assert work_once(world, context)
    assert world.target(OWED) == []
    assert len(world.target("SELECT cover FROM catalog.text WHERE id = %s", (key,))[0][0]) == 1


def test_a_row_that_is_again_as_it_was_is_no_longer_parked_once_it_is_swept(world, context, key):
    """Its digest is the one that was written, so no sweep finds it changed."""
    world.legacy("UPDATE media_files SET content_id = (SELECT max(id) FROM content)")
    sync(context, key)
    world.legacy("UPDATE media_files SET content_id = %s", (key,))
    for _ in range(RETRIES + 1):
        sync(context, key)
    world.legacy("DELETE FROM media_files")
    sweep(context)
    live.work(context, lambda *_: None)
    assert world.target(OWED) == []


def test_a_row_that_came_to_nothing_is_no_longer_parked_once_it_is_swept(world, context):
    ((key,),) = world.legacy("INSERT INTO content (kind, title) VALUES ('text', 'never whole') RETURNING id::text")
    world.legacy("INSERT INTO media_files (content_id, kind, bucket_key) VALUES (%s, 'cover', 'never.jpg')", (key,))
    for _ in range(RETRIES + 1):
        sync(context, key)
    world.legacy("DELETE FROM content WHERE id = %s", (key,))
    sweep(context)
    live.work(context, lambda *_: None)
    assert world.target(OWED) == []


def test_a_replay_of_what_still_fails_keeps_it_parked(world, context, key):
    for _ in range(RETRIES + 1):
        sync(context, key)
    assert dead_letters.replay(context, DeadLetterFilter("text")) == [key]
    assert live.work(context, lambda *_: None)
    assert world.target(OWED) == [("MediaMissing", 1, pytest.approx(2))]
