"""The engine on real servers: history, live delta, sweep, and rows nobody can take."""

import datetime as dt
import json
import os
import threading
import urllib.request
from dataclasses import replace

import psycopg2
import pytest

from demo.edit import Editors
from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.files import load_entities
from sync_pipeline.entity import LegacyQuery
from sync_pipeline.operate.repair import repair
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run import live
from sync_pipeline.run.backfill import backfill
from sync_pipeline.run.capture import resumed
from sync_pipeline.run.follower import Follower
from sync_pipeline.run.heartbeat import last_heartbeats, started_ticks
from sync_pipeline.run.sweep import sweep
from sync_pipeline.sinks.table import RelationalTable
from tests.world import wait_for

CONTENTS, FILES, POISON = 3000, 40, 3
EXPECTED = """
    SELECT c.id, c.title, c.version, a.name, c.price, c.attrs, c.status = 'published',
           ARRAY(SELECT tag FROM content_tags t WHERE t.content_id = c.id ORDER BY tag COLLATE "C"), c.updated_at,
           (SELECT count(*) FROM media_files m WHERE m.content_id = c.id)
    FROM content c LEFT JOIN authors a ON a.id = c.author_id
    WHERE kind = %s AND deleted_at IS NULL AND (c.attrs ->> 'duration' IS NULL OR c.attrs ->> 'duration' ~ '^[0-9]+$')
"""
FOUND = """
    SELECT id, header, version, author, price, attrs, is_public, tags, updated_at,
           cardinality(cover) + cardinality(files)
    FROM catalog.{}
"""


@pytest.fixture(scope="module")
def world(fresh_world):
    fresh_world.load(CONTENTS, FILES, POISON)
    return fresh_world.stores, fresh_world.monolith.admin_url, fresh_world.client


@pytest.fixture(scope="module")
def contexts(world):
    opened = [EntityContext.open(entity, world[0]) for entity in load_entities("assets.entities").values()]
    for context in opened:
        for partition in context.entity.partitions.names():
            backfill(context, partition)
    return opened


def rows(url, query, values=()):
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(query, values)
        return {row[0]: row for row in cursor.fetchall()}


def differences(stores, admin):
    """Keys whose row is not what the monolith holds, and entities whose documents are too many or too few."""
    found = []
    for name in ("text", "video", "audio"):
        legacy = rows(admin, EXPECTED, (name,))
        target = rows(stores.settings.target_db.replace("+psycopg2", ""), FOUND.format(name))
        found += [(name, key) for key in legacy.keys() | target.keys() if legacy.get(key) != target.get(key)]
        base = f"{stores.settings.search_url}/{name}"
        urllib.request.urlopen(urllib.request.Request(f"{base}/_refresh", method="POST")).close()
        with urllib.request.urlopen(f"{base}/_count") as answer:
            documents = json.load(answer)["count"]
        public = sum(row[6] for row in legacy.values())
        if documents != public:
            found.append((name, f"{documents} documents, {public} public rows"))
    return found


def catch_up(stores, contexts):
    since = live.mark(contexts)
    stop = threading.Event()

    def watch():
        while not stop.wait(0.1):
            if all(live.caught_up(context, since) for context in contexts):
                stop.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    Follower([context.entity for context in contexts], stores).run(stop)
    watcher.join()


def owed(stores):
    with stores.target() as cursor:
        cursor.execute("SELECT reason, error FROM sync.due ORDER BY 1, 2")
        return cursor.fetchall()


def test_history_arrives_and_poison_is_parked(world, contexts):
    stores, admin, _ = world
    assert differences(stores, admin) == []
    assert [reason for reason, _ in owed(stores)] == ["rejected"] * POISON


def test_a_second_backfill_writes_nothing(world, contexts):
    stores, _, _ = world
    context = contexts[0]
    before = written(stores, context)
    for partition in context.entity.partitions.names():
        assert backfill(context, partition).written == 0
    assert written(stores, context) == before


def written(stores, context):
    with stores.target() as cursor:
        cursor.execute(f"SELECT count(*), max(xmin::text::bigint) FROM {context.entity.table.name}")
        return cursor.fetchone()


def test_the_live_delta_under_editors(world, contexts):
    stores, admin, client = world
    stop = threading.Event()
    editors = Editors(
        admin,
        client,
        stores.settings.legacy_bucket.name,
        rate=60,
        seconds=5,
        workers=8,
        poison=0,
        seed=7,
        late_seconds=(1, 2),
    )
    follower = threading.Thread(target=Follower([context.entity for context in contexts], stores).run, args=(stop,))
    follower.start()
    tally = editors.run()
    stop.set()
    follower.join()
    assert tally.committed > 200
    catch_up(stores, contexts)
    assert differences(stores, admin) == []


def test_what_stops_one_entity_does_not_stop_the_others(world, contexts):
    stores, _, _ = world
    text, video = (context.entity for context in contexts if context.entity.name != "audio")
    broken = replace(text, origin=LegacyQuery("SELECT id, no_such_column FROM content", key=("id",)))
    stop = threading.Event()
    follower = Follower([broken, video], stores, name="a follower")
    running = threading.Thread(target=follower.run, args=(stop,))
    running.start()
    context = next(context for context in contexts if context.entity is video)
    since = live.mark([context])
    wait_for(lambda: live.caught_up(context, since) and follower.failures)
    seen = last_heartbeats(stores)["a follower"]
    assert (seen.pid, seen.started_ticks, seen.is_gone) == (os.getpid(), started_ticks(os.getpid()), False)
    wait_for(lambda: last_heartbeats(stores)["a follower"].beats > seen.beats)
    stop.set()
    running.join()
    assert list(follower.failures) == ["text"]
    assert "no_such_column" in str(follower.failures["text"])
    assert last_heartbeats(stores) == {}


def test_the_sweep_leaves_history_to_the_backfill(world, contexts):
    stores, _, _ = world
    text = next(context.entity for context in contexts if context.entity.name == "text")
    table = RelationalTable("catalog.swept", key=("id",), columns={"id": "bigint", "header": "text"})
    context = EntityContext.open(replace(text, name="swept", sinks=(table,), comments={}), stores)
    before = sweep(context)
    assert (before.compared, before.changed) == (before.unfilled, 0)
    for partition in context.entity.partitions.names():
        backfill(context, partition)
    with stores.target() as cursor:
        cursor.execute("DELETE FROM sync.ledger_swept WHERE id = (SELECT min(id) FROM catalog.swept)")
        cursor.execute("SELECT count(*) FROM sync.due WHERE entity = 'swept' AND reason = 'rejected'")
        parked = cursor.fetchone()[0]  # tried again by every sweep
    after = sweep(context)
    assert (after.changed, after.unfilled) == (1 + parked, 0)


@pytest.mark.hazard(14)
def test_the_sweep_finds_what_no_stamp_reports(world, contexts):
    stores, admin, _ = world
    with psycopg2.connect(admin) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE authors SET name = name || ' II' WHERE id = (SELECT min(author_id) FROM content)")
        cursor.execute("DELETE FROM content WHERE id IN (SELECT id FROM content WHERE deleted_at IS NULL LIMIT 5)")
    assert differences(stores, admin) != []
    catch_up(stores, contexts)
    assert differences(stores, admin) == []


@pytest.mark.hazard(37)
def test_what_the_sweep_is_still_to_bring_is_no_drift_while_somebody_follows(world, contexts):
    stores, admin, _ = world
    text = next(context for context in contexts if context.entity.name == "text")
    with psycopg2.connect(admin) as connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE authors SET name = name || ' III' WHERE id ="
            " (SELECT min(author_id) FROM content WHERE kind = 'text' AND deleted_at IS NULL)"
        )
    assert drift(text) == {"stale"}
    with stores.target() as cursor:
        cursor.execute("UPDATE sync.cursor SET swept_at = now()")  # the next one by itself is minutes away
    stop = threading.Event()
    follower = threading.Thread(target=Follower([text.entity], stores).run, args=(stop,))
    follower.start()
    wait_for(lambda: leased(stores, "text"))
    assert drift(text) == set()
    stop.set()
    follower.join()
    catch_up(stores, contexts)  # others have texts of that author, too


def drift(context):
    """Kinds of what is found, parked rows left out."""
    return {finding.kind for finding in reconcile(context).findings} - {"pending"}


def leased(stores, name):
    with stores.target() as cursor:
        cursor.execute("SELECT lease_until > now() FROM sync.cursor WHERE entity = %s", (name,))
        return cursor.fetchone()[0]


@pytest.mark.hazard(31)
@pytest.mark.hazard(38)
@pytest.mark.hazard(40)
def test_planted_faults_are_named_mended_and_then_left_alone(world, contexts):
    stores, _, _ = world
    context = next(context for context in contexts if context.entity.name == "audio")
    found = reconcile(context)
    assert [f for f in found.findings if f.kind != "pending"] == []
    planted = plant(stores)
    found = reconcile(context)
    assert {(f.sink, f.kind, f.key) for f in found.findings if f.kind != "pending"} == planted
    assert found.status == "drift"
    repair(context, found.findings)
    found = reconcile(context)
    assert [f for f in found.findings if f.kind != "pending"] == []
    before = written(stores, context)
    assert repair(context, found.findings) == []
    assert written(stores, context) == before


def plant(stores):
    """Spoil the new side by hand; what was spoiled, as reconciliation should name it."""
    base = f"{stores.settings.search_url}/audio"
    with stores.target() as cursor:
        cursor.execute(
            "SELECT id FROM catalog.audio WHERE is_public AND cover = '{}' AND files = '{}' ORDER BY id LIMIT 5"
        )
        deleted, changed, stale, missing, corrupt = (key for (key,) in cursor.fetchall())
        cursor.execute("DELETE FROM catalog.audio WHERE id = %s", (deleted,))
        cursor.execute("UPDATE catalog.audio SET header = 'by hand' WHERE id = %s", (changed,))
        cursor.execute(
            "INSERT INTO catalog.audio (id, tags, is_public, cover, files, version)"
            " VALUES (99999999, '{}', false, '{}', '{}', 1)"
        )
        cursor.execute(
            "SELECT target_key, size FROM sync.media JOIN sync.media_ref USING (target_key)"
            " WHERE entity = 'audio' ORDER BY size LIMIT 2"
        )
        (gone, _), (spoilt, size) = cursor.fetchall()
    # the ledger says that a later version was written than the one that is there
    call(f"{base}/_doc/{stale}", "PUT", {"header": "older"})
    with stores.target() as cursor:
        cursor.execute("UPDATE sync.ledger_audio SET written = nextval('sync.revision') WHERE id = %s", (stale,))
    call(f"{base}/_doc/{missing}", "DELETE")
    call(f"{base}/_doc/{corrupt}", "PUT", {"header": "by hand"})
    call(f"{base}/_doc/88888888", "PUT", {"header": "a draft"})
    bucket = stores.settings.target_bucket.name
    stores.target_s3.delete_object(Bucket=bucket, Key=gone)
    stores.target_s3.put_object(Bucket=bucket, Key=spoilt, Body=b"x" * size)
    stores.target_s3.put_object(Bucket=bucket, Key="audio/by-hand", Body=b"x")
    return {
        ("relational", "missing", str(deleted)),
        ("relational", "corrupt", str(changed)),
        ("relational", "extra", "99999999"),
        ("search", "stale", str(stale)),
        ("search", "missing", str(missing)),
        ("search", "corrupt", str(corrupt)),
        ("search", "extra", "88888888"),
        ("media", "missing", gone),
        ("media", "corrupt", spoilt),
        ("media", "extra", "audio/by-hand"),
    }


def call(url, method, body=None):
    content = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"}, method=method)
    urllib.request.urlopen(request).close()


@pytest.mark.hazard(1)
def test_a_commit_later_than_the_poll_is_not_lost(world, contexts):
    """Hazard 1, with the sweep off: the stamp is older than anything the next polls read."""
    stores, admin, _ = world
    context = next(context for context in contexts if context.entity.name == "video")
    key = next(iter(rows(stores.settings.target_db.replace("+psycopg2", ""), FOUND.format("video"))))
    lease = live.Lease.take(stores, "video", "test")
    source = resumed(context)

    def poll():
        live.poll(context, lease, source, lambda *_: None, keep_idle=True)

    late = psycopg2.connect(admin)
    with late.cursor() as cursor:
        cursor.execute(
            "UPDATE content SET title = 'late', updated_at = now(), version = version + 1 WHERE id = %s", (key,)
        )
        poll()
        # pass the margin without waiting: the clock the window saw is moved on
        window = source.window
        source.window = replace(window, seen=replace(window.seen, at=window.seen.at + dt.timedelta(seconds=60)))
        poll()
    late.commit()
    late.close()
    poll()
    lease.give_back(stores)
    found = rows(stores.settings.target_db.replace("+psycopg2", ""), FOUND.format("video"))
    assert found[key][1] == "late"


@pytest.mark.hazard(17)
def test_a_stalled_older_batch_does_not_overwrite_a_newer_one(world, contexts):
    """Hazard 17: the older revision's rows are refused."""
    stores, admin, _ = world
    context = next(context for context in contexts if context.entity.name == "text")
    target = stores.settings.target_db.replace("+psycopg2", "")
    key = next(iter(rows(target, FOUND.format("text"))))
    keys = context.origin.key.parse([str(key)])
    older, stale = live_revision(stores), context.origin.by_keys(keys)
    with psycopg2.connect(admin) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE content SET title = 'newer', updated_at = now() WHERE id = %s", (key,))
    sync_keys(context, keys, Order())
    settle(context, older, keys, stale)
    assert rows(target, FOUND.format("text"))[key][1] == "newer"


def live_revision(stores):
    with stores.target() as cursor:
        cursor.execute("SELECT nextval('sync.revision')")
        return cursor.fetchone()[0]


def settle(context, revision, keys, rows_read):
    from sync_pipeline import pipeline
    from sync_pipeline.ledger.ledger import Draw

    pipeline._settle(context, Draw(revision), keys, rows_read, Order(force=True), roots=keys)
