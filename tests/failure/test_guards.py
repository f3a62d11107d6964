"""Each answer to a hazard, switched off, is missed: what it held is lost, and the oracle or reconciliation says so.

The same scenes with all guards on end well. No editors, no chance: each scene plays its hazard step by step.
"""

from contextlib import contextmanager

import psycopg2
import pytest

from sync_pipeline import live
from sync_pipeline.batch.order import Order
from sync_pipeline.capture import resumed
from sync_pipeline.faults import GUARDS
from sync_pipeline.ledger.cursor import Lease
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.reconcile.reconcile import reconcile
from tests.stalled import stalled
from tests.world import opened

PART = 5 * 1024 * 1024  # the least S3 takes
EDIT = "UPDATE content SET title = %s, updated_at = clock_timestamp(), version = version + 1 WHERE id = %s"


@pytest.fixture(scope="module")
def world(fleet):
    # without a margin, what it would hide shows
    settings = {"SYNC_MARGIN_SECONDS": "0", "SYNC_MULTIPART_BYTES": str(PART), "SYNC_RECHECK_SECONDS": "0"}
    with opened(fleet, "guards", **settings) as world:
        world.load(60, 0)
        for name in world.lanes:
            world.all_in(name)
        yield world


@pytest.fixture
def lane(world):
    """Texts; whatever a scene has lost is mended at its end, with all guards on."""
    lane = world.lane("text")
    yield lane
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SYNC_TEST_GUARDS_OFF", raising=False)
        world.target("DELETE FROM sync.due")
        keys = [str(key) for (key,) in world.legacy("SELECT id FROM content WHERE kind = 'text'")]
        sync_keys(lane, lane.origin.key.parse(keys), Order(force=True))
        assert world.differences() == []


@pytest.fixture
def key(world, lane):
    """A public text."""
    return world.target("SELECT id FROM catalog.text WHERE is_public ORDER BY id LIMIT 1")[0][0]


@contextmanager
def polling(lane):
    """A function that polls once."""
    lease = Lease.take(lane.stores, "text", "test")
    source = resumed(lane)
    try:
        yield lambda lane=lane: live.poll(lane, lease, source, lambda *_: None, keep_idle=True)
    finally:
        lease.give_back(lane.stores)


def late_commit(world, lane, key):
    """Hazard 1: stamped before two polls, and committed after them."""
    late = psycopg2.connect(world.monolith.admin_url)
    with polling(lane) as poll:
        poll()
        late.cursor().execute(EDIT.replace("clock_timestamp", "now"), ("late", key))
        poll()
        poll()
        late.commit()
        poll()
    late.close()


def slow_writer(world, lane, key):
    """Hazard 17: a batch reads a row, another writes it anew, and the first one goes on."""
    world.legacy(EDIT, ("older", key))
    with stalled(lane, key, Order()):
        world.legacy(EDIT, ("newer", key))
        sync_keys(lane, lane.origin.key.parse([str(key)]), Order())


def cut_off(world, lane, key):
    """Hazard 19: a poll ends between the read and the rows' commit; the next one starts from what was kept."""

    class Cut(BaseException):
        pass

    def cut(*_):
        raise Cut

    world.legacy(EDIT, ("cut off", key))
    with polling(lane) as poll, pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(lane.ledger), "apply", cut)
        with pytest.raises(Cut):
            poll()
    with polling(lane) as poll:
        poll()


def and_back(world, lane, key):
    """Hazard 45: a batch reads B and stalls; the row is A again, as the new side has it, and that is acknowledged."""
    ((title, stamp, version),) = world.legacy("SELECT title, updated_at, version FROM content WHERE id = %s", (key,))
    world.legacy(EDIT, ("B", key))
    with stalled(lane, key, Order(acknowledge=True)):
        back = "UPDATE content SET title = %s, updated_at = %s, version = %s WHERE id = %s"
        world.legacy(back, (title, stamp, version, key))
        sync_keys(lane, lane.origin.key.parse([str(key)]), Order(acknowledge=True))


def large_file(world, lane, key):
    """Hazard 28: a file in one piece there is in parts here, with the same bytes and another ETag."""
    world.client.put_object(Bucket=world.legacy_bucket, Key="large.mp4", Body=b"x" * (PART + 1))
    insert = "INSERT INTO media_files (content_id, kind, bucket_key) VALUES (%s, 'source', 'large.mp4')"
    world.legacy(insert, (key,))
    sync_keys(lane, lane.origin.key.parse([str(key)]), Order())


# played elsewhere, by entities that refer to each other, and by one whose rows are parts
REFERENCES, PARTS = 22, 50
SCENES = {1: late_commit, 17: slow_writer, 19: cut_off, 28: large_file, 45: and_back}


def wrong(world, lane):
    """What the oracle finds, and what reconciliation does."""
    return [*world.differences(), *reconcile(lane).findings]


def test_every_guard_has_its_scene():
    assert SCENES.keys() == GUARDS - {REFERENCES, PARTS}


@pytest.mark.parametrize("hazard", sorted(SCENES))
def test_with_its_guard_a_hazard_does_no_harm(world, lane, key, hazard):
    SCENES[hazard](world, lane, key)
    assert wrong(world, lane) == []


@pytest.mark.parametrize("hazard", sorted(SCENES))
def test_without_its_guard_a_hazard_is_seen(world, lane, key, hazard, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", str(hazard))
    SCENES[hazard](world, lane, key)
    found = wrong(world, lane)
    assert found
    assert {difference.key for difference in found} <= {str(key), *copies(world, key)}


def copies(world, key):
    """Objects that the row names."""
    return {target for (target,) in world.target("SELECT target_key FROM sync.media_ref WHERE key = %s", [str(key)])}
