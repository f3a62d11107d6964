"""The ledger made again from a snapshot and the log since, whatever was under way when the snapshot was taken."""

import dataclasses
import datetime as dt

import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import LogError
from sync_pipeline.explain.history import history
from sync_pipeline.ledger.log_partitions import TABLES
from sync_pipeline.operate import snapshot
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.queue import dead_letters
from sync_pipeline.queue.dead_letters import DeadLetterFilter
from sync_pipeline.run import live
from sync_pipeline.stores.stores import Stores
from tests.parted import MONOLITH, TITLE

SPOIL = "UPDATE content SET attrs = jsonb_build_object('duration', 'no number'), updated_at = now() WHERE id = %s"
EDIT = "UPDATE content SET title = %s, updated_at = now() WHERE id = %s"


@pytest.fixture(scope="module")
def world(fresh_world):
    fresh_world.load(300, 10, 2)
    return fresh_world


@pytest.fixture(scope="module")
def context(world):
    return world.filled("text")


def sync(context, *keys, **order):
    return sync_keys(context, context.origin.key.parse(map(str, keys)), Order(acknowledge=True, **order))


def ledger(world, name):
    return sorted(world.target(f"SELECT * FROM sync.ledger_{name}"))


def made_again(world, context):
    """Whether the ledger is what it was, made from nothing but snapshot and log."""
    name = context.entity.name
    before = ledger(world, name)
    world.target(f"CREATE TABLE sync.aside AS TABLE sync.ledger_{name}")
    world.target(f"TRUNCATE sync.ledger_{name}")
    try:
        assert snapshot.rebuild(context) == len(before)
        assert ledger(world, name) == before
    finally:
        world.target(f"TRUNCATE sync.ledger_{name}")
        world.target(f"INSERT INTO sync.ledger_{name} TABLE sync.aside")
        world.target("DROP TABLE sync.aside")
    return before


def scenes(world, context):
    """All that can become of a key."""
    keys = [str(key) for (key,) in world.legacy("SELECT id FROM content WHERE kind = 'text' AND deleted_at IS NULL")]
    edited, gone, spoiled, discarded, undone, private, forced = keys[:7]
    world.legacy(EDIT, ("anew", edited))
    world.legacy("UPDATE content SET deleted_at = now() WHERE id = %s", (gone,))
    for key in (spoiled, discarded, undone, private, forced):
        world.legacy(SPOIL, (key,))
    world.legacy("UPDATE content SET status = 'draft' WHERE id = %s", (private,))
    sync(context, *keys[:10], 999_999)
    sync(context, *keys[:10])
    dead_letters.discard(context, DeadLetterFilter("text", [discarded, undone]), "me", "a test")
    dead_letters.replay(context, DeadLetterFilter("text", [undone]))
    sync(context, forced, force=True)
    while live.work(context, lambda *_: None):
        pass


def test_the_log_alone_makes_the_ledger_again(world, context):
    scenes(world, context)
    rows = made_again(world, context)
    assert len(rows) > 100
    digests = [row[3] for row in rows]
    assert 0 in digests  # what a replay or a forced try has left in doubt
    assert None in digests


def test_snapshot_and_log_make_it_again_with_a_batch_under_way(world, context, monkeypatch):
    monkeypatch.setattr(snapshot, "_ROWS", 25)
    key = world.target("SELECT min(id) FROM catalog.text")[0][0]
    world.legacy(EDIT, ("under way", key))

    def commit(*_):
        """The batch has locked its keys, a later transaction is over, and the snapshot sees only that one."""
        world.target("SELECT pg_current_xact_id()")
        snapshot.take(context.stores, "text")

    sync(context, key, commit=commit)
    ((parts,),) = world.target("SELECT count(*) FROM sync.snapshot WHERE entity = 'text'")
    assert parts > 2
    world.target("DELETE FROM sync.batch b USING sync.snapshot s WHERE pg_visible_in_snapshot(b.xid, s.seen)")
    made_again(world, context)
    scenes(world, context)
    made_again(world, context)
    assert snapshot.take(context.stores, "text") == len(ledger(world, "text"))
    made_again(world, context)


def test_what_the_log_lacks_is_noticed(world, context):
    snapshot.take(context.stores, "text")
    key = world.target("SELECT min(id) FROM catalog.text")[0][0]
    for title in ("one", "two", "three"):
        world.legacy(EDIT, (title, key))
        sync(context, key)
    before = ledger(world, "text")
    world.target(
        "DELETE FROM sync.batch WHERE revision IN (SELECT revision FROM sync.batch ORDER BY 1 DESC OFFSET 1 LIMIT 1)"
    )
    with pytest.raises(LogError, match="lacks batches of 1 keys"):
        snapshot.rebuild(context)
    assert ledger(world, "text") == before
    snapshot.take(context.stores, "text")
    made_again(world, context)


def test_roots_are_made_again_with_their_parts(world):
    world.legacy(MONOLITH)
    world.legacy("INSERT INTO work VALUES (1, 'g'), (2, 'g')")
    world.legacy("INSERT INTO work_title VALUES (1, 'de', 'eins'), (1, 'en', 'one'), (2, 'en', 'two')")
    context = EntityContext.open(TITLE, world.stores)
    sync(context, '["1", "de"]', '["2", "en"]')
    world.legacy("DELETE FROM work_title WHERE lang = 'de'")
    sync(context, '["1", "de"]')
    roots = sorted(world.target("SELECT * FROM sync.roots_title"))
    made_again(world, context)
    assert sorted(world.target("SELECT * FROM sync.roots_title")) == roots


def test_the_log_is_dropped_by_age_and_the_ledger_can_still_be_made(world, context):
    old = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=40)
    for table in TABLES:
        world.target(
            f"CREATE TABLE sync.{table}_{old:%Y%m%d} PARTITION OF sync.{table}"
            f" FOR VALUES FROM ('{old}') TO ('{old + dt.timedelta(days=1)}')"
        )
        world.target(f"UPDATE sync.{table} SET at = %s", (f"{old} 12:00Z",))
    key = world.target("SELECT min(id) FROM catalog.text")[0][0]
    world.legacy(EDIT, ("of late", key))
    sync(context, key)
    keeps = Stores(dataclasses.replace(world.stores.settings, history_days=40))
    assert snapshot.trim(keeps) == {"days": 0, "keys": 0}
    keeps.close()
    trimmed = snapshot.trim(world.stores)
    assert (trimmed["days"], trimmed["keys"] >= len(ledger(world, "text"))) == (1, True)
    ((left,),) = world.target("SELECT count(*) FROM sync.batch")
    assert left == 1
    story = history(context, str(key), 50)
    assert not story.whole
    assert sum(happening.what.startswith("written") for happening in story.happenings) == 1
    made_again(world, context)
    assert snapshot.trim(world.stores) == {"days": 0, "keys": 0}
