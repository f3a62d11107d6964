"""Objects that no row names any more, on a real S3: kept for the grace time, then removed, and never under a row."""

import dataclasses
import threading
from contextlib import closing

import psycopg2
import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.files import load_entities
from sync_pipeline.errors import UnreachableError
from sync_pipeline.ledger import media
from sync_pipeline.model.files import Copied, Source
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run import garbage
from sync_pipeline.run.garbage import collect
from sync_pipeline.sinks.media import MediaBucket
from sync_pipeline.sinks.media.place import place
from sync_pipeline.stores.stores import Stores
from tests.world import wait_for

MARKS = "SELECT unused_since IS NOT NULL, deleting FROM sync.media WHERE target_key = %s"


@pytest.fixture(scope="module")
def context(world):
    world.load(60, 4)
    world.filled("text")
    stores = Stores(dataclasses.replace(world.stores.settings, garbage_grace_seconds=0.0))
    yield EntityContext.open(load_entities("assets.entities")["text"], stores)
    stores.close()


@pytest.fixture
def file(world, context):
    """A row that names a file of its own: (key, target key)."""
    key = world.legacy("SELECT max(id) FROM content WHERE kind = 'text' AND deleted_at IS NULL")[0][0]
    world.client.put_object(Bucket=world.legacy_bucket, Key="mine.jpg", Body=b"mine")
    world.legacy("INSERT INTO media_files (content_id, kind, bucket_key) VALUES (%s, 'source', 'mine.jpg')", (key,))
    sync(context, key)
    target = world.target("SELECT target_key FROM sync.media WHERE source_key = 'mine.jpg'")[0][0]
    yield key, target
    world.legacy("DELETE FROM media_files WHERE bucket_key = 'mine.jpg'")
    sync(context, key)
    collect(context.stores)
    assert not there(world, target)
    assert reconcile(context).findings == []


def sync(context, key, **order):
    return sync_keys(context, context.origin.key.parse([str(key)]), Order(**order))


def there(world, target):
    listed = world.client.list_objects_v2(Bucket=world.target_bucket, Prefix=target)
    return listed["KeyCount"] == 1


def drop_name(world, context, key):
    world.legacy("DELETE FROM media_files WHERE bucket_key = 'mine.jpg'")
    sync(context, key)


def take_name(world, context, key, **order):
    world.legacy("INSERT INTO media_files (content_id, kind, bucket_key) VALUES (%s, 'source', 'mine.jpg')", (key,))
    return sync(context, key, **order)


def test_what_rows_name_stays(world, context, file):
    before = world.target("SELECT count(*) FROM sync.media")
    assert collect(context.stores) == 0
    assert world.target("SELECT count(*) FROM sync.media") == before
    assert there(world, file[1])


def test_what_no_row_names_is_kept_for_the_grace_time(world, context, file):
    key, target = file
    drop_name(world, context, key)
    assert collect(world.stores) == 0  # a day of grace
    assert world.target(MARKS, (target,)) == [(True, False)]
    assert there(world, target)
    assert reconcile(context).findings == []
    take_name(world, context, key)
    assert collect(world.stores) == 0
    assert world.target(MARKS, (target,)) == [(False, False)]


def test_what_was_garbage_long_enough_is_removed_and_may_come_back(world, context, file):
    key, target = file
    drop_name(world, context, key)
    assert collect(context.stores) == 1
    assert not there(world, target)
    assert world.target(MARKS, (target,)) == []
    assert take_name(world, context, key).files == 1
    assert there(world, target)


def test_a_collector_that_died_after_marking_is_finished_by_the_next(world, context, file):
    key, target = file
    drop_name(world, context, key)
    world.target("UPDATE sync.media SET deleting = true, unused_since = now() WHERE target_key = %s", (target,))
    assert collect(world.stores) == 1
    assert not there(world, target)


@pytest.fixture
def abandoned(world, context, file, monkeypatch):
    """An object whose copier ended between the copy and its record, and whose row names another one since."""
    key, target = file
    drop_name(world, context, key)
    assert collect(context.stores) == 1

    class Cut(BaseException):
        pass

    def cut(name):
        if name == "media.after":
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr("sync_pipeline.sinks.media.place.crash_point", cut)
        with pytest.raises(Cut):
            take_name(world, context, key)
    assert there(world, target)
    return key, target


def test_what_a_killed_copier_left_is_no_drift_and_is_removed(world, context, abandoned):
    key, target = abandoned
    drop_name(world, context, key)
    assert collect(world.stores) == 0  # a day of grace
    assert reconcile(context).findings == []
    assert collect(context.stores) == 1
    assert not there(world, target)


def test_what_a_killed_copier_left_is_copied_again(world, context, abandoned):
    key, target = abandoned
    assert sync(context, key).files == 1
    assert collect(context.stores) == 0
    assert there(world, target)
    assert world.target("SELECT * FROM sync.copying") == []


def test_a_copy_that_was_taken_for_abandoned_is_made_again(world, context, file, monkeypatch):
    key, target = file
    drop_name(world, context, key)
    assert collect(context.stores) == 1

    def collected(name):
        if name == "media.after":
            assert collect(context.stores) == 1

    with monkeypatch.context() as patch:
        patch.setattr("sync_pipeline.sinks.media.place.crash_point", collected)
        with pytest.raises(UnreachableError, match="garbage"):
            take_name(world, context, key)
    assert not there(world, target)
    assert sync(context, key).files == 1
    assert there(world, target)


@pytest.mark.hazard(30)
def test_a_file_that_is_overwritten_in_mid_copy_is_copied_as_it_is_then(world, context, file, monkeypatch):
    key, target = file
    drop_name(world, context, key)
    assert collect(context.stores) == 1
    before = {"mine.jpg": Source("mine.jpg", '"of other bytes"')}
    with monkeypatch.context() as patch:
        patch.setattr(MediaBucket, "sources", lambda *_: before)
        assert take_name(world, context, key).files == 1
    assert world.target("SELECT files FROM catalog.text WHERE id = %s", (key,)) == [([target],)]
    assert there(world, target)


def test_a_writer_that_meets_a_mark_copies_again(world, context, file):
    """A died collector may have removed the object or not: the mark does not say."""
    key, target = file
    drop_name(world, context, key)
    world.target("UPDATE sync.media SET deleting = true, unused_since = now() WHERE target_key = %s", (target,))
    world.client.delete_object(Bucket=world.target_bucket, Key=target)
    assert take_name(world, context, key).files == 1
    assert there(world, target)
    assert collect(context.stores) == 0
    assert there(world, target)


def test_a_writer_waits_while_an_object_is_being_removed(world, context, file, monkeypatch):
    """Its copy must come after the removal, or the removal would take the copy."""
    key, target = file
    drop_name(world, context, key)
    in_removal, go_on = threading.Event(), threading.Event()
    delete = context.stores.target_s3.delete_object

    def slowly(**which):
        in_removal.set()
        assert go_on.wait(20)
        return delete(**which)

    monkeypatch.setattr(context.stores.target_s3, "delete_object", slowly)
    collector = threading.Thread(target=collect, args=(context.stores,))
    collector.start()
    assert in_removal.wait(20)
    writer = threading.Thread(target=take_name, args=(world, context, key))
    writer.start()
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%sync.media%%'"
    wait_for(lambda: world.target(blocked)[0][0] == 1)
    go_on.set()
    collector.join()
    writer.join()
    assert there(world, target)
    assert world.target(MARKS, (target,)) == [(False, False)]


def test_a_row_that_placed_its_file_before_the_mark_is_written_again(world, context, file, monkeypatch):
    """It believed the object to be there; its own transaction finds out, and the next try copies."""
    key, target = file
    drop_name(world, context, key)

    def placed_then_collected(*args, **options):
        done = place(*args, **options)
        assert collect(context.stores) == 1
        return done

    monkeypatch.setattr("sync_pipeline.sinks.media.place.place", placed_then_collected)
    with pytest.raises(UnreachableError, match="garbage"):
        take_name(world, context, key)
    assert world.target("SELECT count(*) FROM sync.media_ref WHERE target_key = %s", (target,)) == [(0,)]
    monkeypatch.undo()
    assert sync(context, key).files == 1
    assert there(world, target)


def test_a_first_load_finds_out_too(world, context, file):
    key, target = file
    drop_name(world, context, key)
    world.target("UPDATE sync.media SET deleting = true WHERE target_key = %s", (target,))
    with context.stores.target() as cursor:
        assert not media.refer_new(cursor, "text", [("1", "mine.jpg", target, "media")])


def test_an_object_named_before_it_is_locked_is_not_condemned(world, context, file):
    key, target = file
    drop_name(world, context, key)
    with context.stores.target() as cursor:
        cursor.execute(garbage._MARK)
    take_name(world, context, key)
    with context.stores.target() as cursor:
        cursor.execute(garbage._LOCK, (0, 10))
        assert (target,) in cursor.fetchall()
        cursor.execute(garbage._CONDEMN, ([target],))
    assert world.target(MARKS, (target,)) == [(True, False)]
    assert collect(context.stores) == 0
    assert there(world, target)


def test_removals_go_on_beside_writers(world, context, file):
    """Names come and go around the end of the grace time, beside two collectors: no row is left naming nothing."""
    key, target = file
    brief = Stores(dataclasses.replace(world.stores.settings, garbage_grace_seconds=0.3))
    stop = threading.Event()

    def collecting():
        while not stop.is_set():
            collect(brief)

    collectors = [threading.Thread(target=collecting) for _ in range(2)]
    for collector in collectors:
        collector.start()
    try:
        for n in range(12):
            drop_name(world, context, key)
            stop.wait(0.15 + 0.03 * n)  # from before the end of the grace time to after it
            world.legacy(
                "INSERT INTO media_files (content_id, kind, bucket_key) VALUES (%s, 'source', 'mine.jpg')", (key,)
            )
            wait_for(lambda: _written(context, key))
            assert world.target("SELECT count(*) FROM sync.media_ref WHERE target_key = %s", (target,)) == [(1,)]
            assert there(world, target)
    finally:
        stop.set()
        for collector in collectors:
            collector.join()
        brief.close()


def _written(context, key):
    try:
        sync(context, key)
    except UnreachableError:
        return False
    return True


@pytest.mark.hazard(84)
def test_the_last_two_names_go_side_by_side(world, context, file):
    """Each of the two transactions still sees the other's name; what they leave is found all the same."""
    key, target = file
    world.target("INSERT INTO sync.media_ref VALUES ('text', 'another', 'mine.jpg', %s)", (target,))
    drop = "DELETE FROM sync.media_ref WHERE entity = 'text' AND key = %s AND target_key = %s"
    with closing(psycopg2.connect(world.target_url)) as first, closing(psycopg2.connect(world.target_url)) as second:
        first.cursor().execute(drop, ("another", target))
        second.cursor().execute(drop, (str(key), target))
        first.commit()
        assert collect(context.stores) == 0  # the other one has not gone yet
        second.commit()
    assert collect(context.stores) == 1
    assert not there(world, target)
    assert sync(context, key, force=True).files == 1


@pytest.mark.hazard(84)
def test_a_name_that_comes_while_the_mark_is_made_keeps_its_object(world, context, file):
    """The mark waits for the row that names the object, and then knows no better; who condemns looks again."""
    key, target = file
    drop_name(world, context, key)
    with closing(psycopg2.connect(world.target_url)) as writer:
        cursor = writer.cursor()
        cursor.execute("SELECT FROM sync.media WHERE target_key = %s FOR SHARE", (target,))
        cursor.execute("INSERT INTO sync.media_ref VALUES ('text', 'late', 'mine.jpg', %s)", (target,))
        collector = threading.Thread(target=collect, args=(world.stores,))
        collector.start()
        waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%sync.media%%'"
        wait_for(lambda: world.target(waits))
        writer.commit()
        collector.join()
    assert world.target(MARKS, (target,)) == [(True, False)]
    assert collect(context.stores) == 0
    assert world.target(MARKS, (target,)) == [(False, False)]
    assert there(world, target)
    world.target("DELETE FROM sync.media_ref WHERE key = 'late'")
    assert collect(context.stores) == 1


@pytest.mark.hazard(84)
def test_a_copy_whose_row_never_comes_is_found(world, context, file):
    key, target = file
    drop_name(world, context, key)
    assert collect(context.stores) == 1
    world.client.put_object(Bucket=world.target_bucket, Key=target, Body=b"mine")
    with context.stores.target() as cursor:
        media.begin(cursor, [target])
        media.record(cursor, [Copied(Source("mine.jpg", "e"), target, 4, "s", "t")])
    assert collect(context.stores) == 0  # its row may be on its way
    world.target("UPDATE sync.garbage SET look_at = now()")
    assert collect(context.stores) == 1
    assert not there(world, target)


@pytest.mark.hazard(84)
def test_names_that_a_person_takes_away_are_noticed(world, context, file):
    """As the how-to has it done of an entity that is given up."""
    key, target = file
    world.target("DELETE FROM sync.media_ref WHERE key = %s", (str(key),))
    assert collect(context.stores) >= 1
    assert not there(world, target)
    sync(context, key, force=True)


@pytest.mark.hazard(84)
def test_what_had_no_name_before_there_was_a_queue_is_found_page_by_page(world, context, file, monkeypatch):
    """A ledger of an earlier version: one scan, which goes on where it was."""
    key, target = file
    drop_name(world, context, key)
    world.target("DELETE FROM sync.garbage")
    world.target("UPDATE sync.media SET unused_since = NULL")
    names = "SELECT count(*) FROM sync.media"
    assert world.target(names)[0][0] >= 4
    assert collect(context.stores) == 0  # nothing that has not changed is looked at
    monkeypatch.setattr(garbage, "_SCANNED", 2)
    world.target("UPDATE sync.upkeep SET scanned = false, scan_after = NULL")
    removed = [collect(context.stores) for _ in range(world.target(names)[0][0] // 2 + 1)]
    assert sum(removed) == 1
    assert world.target("SELECT scanned FROM sync.upkeep") == [(True,)]
    assert not there(world, target)


@pytest.mark.hazard(84)
def test_an_edit_of_a_row_queues_none_of_the_files_it_keeps(world, context, file):
    key, target = file
    world.target("DELETE FROM sync.garbage")
    world.legacy("UPDATE content SET title = title || '!' WHERE id = %s", (key,))
    assert sync(context, key).written == 1
    assert world.target("SELECT * FROM sync.garbage") == []
    assert world.target("SELECT 1 FROM sync.media_ref WHERE target_key = %s", (target,)) == [(1,)]


@pytest.mark.hazard(84)
def test_one_process_at_a_time_collects(world, context, file, monkeypatch):
    taken = []
    monkeypatch.setattr(garbage, "collect", lambda stores: taken.append(stores) or 0)
    world.target("UPDATE sync.upkeep SET collected_at = '-infinity'")
    for _ in range(3):
        garbage._take_turn(context.stores, threading.Event())
    assert len(taken) == 1
