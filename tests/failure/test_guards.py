"""Each answer to a hazard, switched off, is missed: what it held is lost, and the oracle or reconciliation says so.

The same scenes with all guards on end well. No editors, no chance: each scene plays its hazard step by step.
"""

import urllib.error
from contextlib import closing, contextmanager, suppress
from dataclasses import replace

import psycopg2
import pytest

from sync_pipeline.batch.delivery import send
from sync_pipeline.batch.order import Order
from sync_pipeline.errors import BrakeError
from sync_pipeline.ledger.cursor import Lease
from sync_pipeline.model.faults import GUARDS
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.queue import due
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run import live
from sync_pipeline.run.capture import resumed
from sync_pipeline.run.sweep import sweep
from sync_pipeline.settings import Bucket
from sync_pipeline.stores.stores import Stores
from tests.stalled import stalled
from tests.world import opened, wait_for

PART = 5 * 1024 * 1024  # the least S3 takes
EDIT = "UPDATE content SET title = %s, updated_at = clock_timestamp(), version = version + 1 WHERE id = %s"
FILE = "INSERT INTO media_files (content_id, kind, bucket_key) VALUES (%s, 'source', %s)"
PROBE = "text/_doc/0?version_type=external_gte&version="


@pytest.fixture(scope="module")
def world(fleet):
    # without a margin, what it would hide shows
    settings = {"SYNC_MARGIN_SECONDS": "0", "SYNC_MULTIPART_BYTES": str(PART), "SYNC_RECHECK_SECONDS": "0"}
    with opened(fleet, "guards", SYNC_BRAKE_ROWS="5", **settings) as world:
        world.load(60, 0)
        for name in world.contexts:
            world.all_in(name)
        yield world


@pytest.fixture
def context(world):
    """Texts; whatever a scene has lost is mended at its end, with all guards on."""
    context = world.context("text")
    yield context
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SYNC_TEST_GUARDS_OFF", raising=False)
        world.target("DELETE FROM sync.due")
        keys = [str(key) for (key,) in world.legacy("SELECT id FROM content WHERE kind = 'text'")]
        sync_keys(context, context.origin.key.parse(keys), Order(force=True))
        assert world.differences() == []


@pytest.fixture
def key(world, context):
    """A public text."""
    return world.target("SELECT id FROM catalog.text WHERE is_public ORDER BY id LIMIT 1")[0][0]


@contextmanager
def polling(context):
    """A function that polls once."""
    lease = Lease.take(context.stores, "text", "test")
    source = resumed(context)
    try:
        yield lambda context=context: live.poll(context, lease, source, lambda *_: None, keep_idle=True)
    finally:
        lease.give_back(context.stores)


def late_commit(world, context, key):
    """Hazard 1: stamped before two polls, and committed after them."""
    late = psycopg2.connect(world.monolith.admin_url)
    with polling(context) as poll:
        poll()
        late.cursor().execute(EDIT.replace("clock_timestamp", "now"), ("late", key))
        poll()
        poll()
        late.commit()
        poll()
    late.close()


def slow_writer(world, context, key):
    """Hazard 17: a batch reads a row, another writes it anew, and the first one goes on."""
    world.legacy(EDIT, ("older", key))
    with stalled(context, key, Order()):
        world.legacy(EDIT, ("newer", key))
        sync_keys(context, context.origin.key.parse([str(key)]), Order())


def cut_off(world, context, key):
    """Hazard 19: a poll ends between the read and the rows' commit; the next one starts from what was kept."""

    class Cut(BaseException):
        pass

    def cut(*_):
        raise Cut

    world.legacy(EDIT, ("cut off", key))
    with polling(context) as poll, pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(context.ledger), "apply", cut)
        with pytest.raises(Cut):
            poll()
    with polling(context) as poll:
        poll()


def and_back(world, context, key):
    """Hazard 45: a batch reads B and stalls; the row is A again, as the new side has it, and that is acknowledged."""
    ((title, stamp, version),) = world.legacy("SELECT title, updated_at, version FROM content WHERE id = %s", (key,))
    world.legacy(EDIT, ("B", key))
    with stalled(context, key, Order(acknowledge=True)):
        back = "UPDATE content SET title = %s, updated_at = %s, version = %s WHERE id = %s"
        world.legacy(back, (title, stamp, version, key))
        sync_keys(context, context.origin.key.parse([str(key)]), Order(acknowledge=True))


def large_file(world, context, key):
    """Hazard 28: a file in one piece there is in parts here, with the same bytes and another ETag."""
    world.client.put_object(Bucket=world.legacy_bucket, Key="large.mp4", Body=b"x" * (PART + 1))
    world.legacy(FILE, (key, "large.mp4"))
    sync_keys(context, context.origin.key.parse([str(key)]), Order())


def late_request(world, context, key):
    """Hazard 24: a document is under way; its row goes, the document too, then its tombstone, and now it arrives."""
    world.legacy(EDIT, ("under way", key))
    under_way = []
    sync_keys(context, context.origin.key.parse([str(key)]), Order(hand_over=under_way.append))
    world.legacy("UPDATE content SET deleted_at = now(), updated_at = now() WHERE id = %s", (key,))
    sync_keys(context, context.origin.key.parse([str(key)]), Order())
    forget_tombstones(world)
    assert send(context, under_way[0]) == (1, 0)
    work(world, context)


def forget_tombstones(world):
    """As `index.gc_deletes` does in time: those of before are gone when a younger one no longer refuses."""

    def is_taken():
        world.document("POST", "text/_refresh")
        with suppress(urllib.error.HTTPError):
            return world.document("PUT", f"{PROBE}1", {})

    world.document("PUT", "text/_settings", {"index.gc_deletes": "0s"})
    world.document("PUT", f"{PROBE}2", {})
    world.document("DELETE", f"{PROBE}3")
    wait_for(is_taken)
    world.document("DELETE", f"{PROBE}3")
    world.document("PUT", "text/_settings", {"index.gc_deletes": None})


def refused_items(world, context, key):
    """Hazard 25: the answer is a success, and says of the document in it that the index takes no writes."""
    world.legacy(EDIT, ("refused for now", key))
    world.document("PUT", "text/_settings", {"index.blocks.write": True})
    try:
        sync_keys(context, context.origin.key.parse([str(key)]), Order())
    finally:
        world.document("PUT", "text/_settings", {"index.blocks.write": None})
    work(world, context)


def overwritten(world, context, key):
    """Hazard 30: a file is another one when its copy begins than it was when it was looked at."""
    put(world, "overwritten.jpg", b"before")
    world.legacy(FILE, (key, "overwritten.jpg"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sync_pipeline.sinks.media.place.crash_point", lambda _: put(world, "overwritten.jpg", b"after!"))
        sync_keys(context, context.origin.key.parse([str(key)]), Order())


def emptied(world, context, key):
    """Hazard 32: a sweep finds no rows, since the monolith was emptied by mistake; then what it owes is done.

    A policy would no longer do: hazard 1041.
    """
    world.legacy("UPDATE content SET deleted_at = '-infinity' WHERE kind = 'text' AND deleted_at IS NULL")
    try:
        with suppress(BrakeError):
            sweep(context)
        work(world, context)
    finally:
        world.legacy("UPDATE content SET deleted_at = NULL WHERE deleted_at = '-infinity'")


def put(world, name, content):
    world.client.put_object(Bucket=world.legacy_bucket, Key=name, Body=content)


def work(world, context):
    """Do what is owed, without waiting for its time."""
    world.hurry()
    while live.work(context, lambda *_: None):
        pass


# played elsewhere: by a log, by entities that refer to each other, by a drain, by rows that are parts, by what hides
# rows or sessions; 36 below
ELSEWHERE = {6, 8, 22, 36, 42, 50, *(guard for guard in GUARDS if guard > 52)}
SCENES = {
    1: late_commit,
    17: slow_writer,
    19: cut_off,
    24: late_request,
    25: refused_items,
    28: large_file,
    30: overwritten,
    32: emptied,
    45: and_back,
}
PLAYED = [pytest.param(hazard, marks=pytest.mark.hazard(hazard)) for hazard in SCENES]


def wrong(world, context):
    """What the oracle finds, and what reconciliation does."""
    return [*world.differences(), *reconcile(context).findings]


def test_every_guard_has_its_scene():
    assert SCENES.keys() == GUARDS - ELSEWHERE


@pytest.mark.parametrize("hazard", PLAYED)
def test_with_its_guard_a_hazard_does_no_harm(world, context, key, hazard):
    SCENES[hazard](world, context, key)
    assert wrong(world, context) == []


@pytest.mark.parametrize("hazard", PLAYED)
def test_without_its_guard_a_hazard_is_seen(world, context, key, hazard, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", str(hazard))
    SCENES[hazard](world, context, key)
    found = wrong(world, context)
    assert found
    assert hazard == 32 or {difference.key for difference in found} <= {str(key), *copies(world, key)}


@pytest.mark.hazard(45)
def test_what_a_parent_has_changed_and_changed_back_is_acknowledged_too(world, context, key):
    """One rename of a parent is read by a worker that stalls; the next one is undone before it is applied."""
    ((title, stamp, version),) = world.legacy("SELECT title, updated_at, version FROM content WHERE id = %s", (key,))
    world.legacy(EDIT, ("B", key))
    with stalled(context, key, Order(cause="due: fanout")):
        back = "UPDATE content SET title = %s, updated_at = %s, version = %s WHERE id = %s"
        world.legacy(back, (title, stamp, version, key))
        with world.stores.target() as cursor:
            due.owe(cursor, "text", "fanout", [str(key)], 0)
        work(world, context)
    assert wrong(world, context) == []


def verdict_without_a_look(context):
    """Hazard 36: the verdict on files while their bucket cannot be listed."""
    bucket = Bucket(context.stores.settings.target_bucket.endpoint, "nowhere")
    with closing(Stores(replace(context.stores.settings, target_bucket=bucket))) as elsewhere:
        return reconcile(replace(context, stores=elsewhere)).status


@pytest.mark.hazard(36)
def test_what_could_not_be_looked_at_is_unknown(context):
    assert verdict_without_a_look(context) == "unknown"


@pytest.mark.hazard(36)
def test_without_its_guard_it_is_called_clean(context, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "36")
    assert verdict_without_a_look(context) == "clean"


def copies(world, key):
    """Objects that the row names."""
    return {target for (target,) in world.target("SELECT target_key FROM sync.media_ref WHERE key = %s", [str(key)])}
