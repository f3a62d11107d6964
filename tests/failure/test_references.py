"""A row goes in after those it refers to, and out after those that refer to it, whoever comes first."""

import threading
from contextlib import ExitStack, contextmanager

import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.operate.status import status_of
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.queue import refused_rows
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run import live
from sync_pipeline.run.backfill import backfill
from sync_pipeline.run.sweep import sweep
from tests.kin import EPISODE, FOLDER, FOREIGN_KEYS, MONOLITH, PILOTED, SERIES
from tests.world import opened, wait_for

OWED = "SELECT entity, reason, coalesce(keys, ARRAY[key]) FROM sync.due ORDER BY 1, 2, 3"
WAITING = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


@pytest.fixture(scope="module")
def world(fleet):
    with opened(fleet, "kin", SYNC_RECHECK_SECONDS="0", SYNC_MARGIN_SECONDS="0") as world:
        world.legacy(MONOLITH)
        for entity in (SERIES, EPISODE, FOLDER):
            EntityContext.open(entity, world.stores)
        world.target(FOREIGN_KEYS)
        yield world


@pytest.fixture(autouse=True)
def emptied(world, monkeypatch):
    """No scene leaves rows to the next one; with all guards on, all of them can go."""
    yield
    monkeypatch.delenv("SYNC_TEST_GUARDS_OFF", raising=False)
    world.legacy("TRUNCATE series, episode, folder")
    world.target("DELETE FROM sync.due")
    for entity in (EPISODE, SERIES, FOLDER):
        context = EntityContext.open(entity, world.stores)
        keys = [str(key) for (key,) in world.target(f"SELECT id FROM sync.ledger_{entity.name}")]
        sync_keys(context, context.origin.key.parse(keys), Order(force=True))
    assert rows(world, "series") + rows(world, "episode") + rows(world, "folder") == []
    world.target("TRUNCATE sync.due, sync.ledger_series, sync.ledger_episode, sync.ledger_folder, sync.backfill")


@pytest.fixture
def series(world):
    return EntityContext.open(SERIES, world.stores)


@pytest.fixture
def episode(world, series):
    return EntityContext.open(EPISODE, world.stores)


@pytest.fixture
def folder(world):
    return EntityContext.open(FOLDER, world.stores)


def sync(context, *keys, **order):
    return sync_keys(context, context.origin.key.parse(map(str, keys)), Order(acknowledge=True, **order))


def work(*contexts):
    """Do what is owed until nothing is."""
    while any([live.work(context, lambda *_: None) for context in contexts]):
        pass


def rows(world, name):
    return world.target(f"SELECT * FROM catalog.{name} ORDER BY id")


def legacy(world, name, key, parent=None):
    column = {"series": "pilot_id", "episode": "series_id", "folder": "parent_id"}[name]
    world.legacy(
        f"INSERT INTO {name} (id, title, {column}) VALUES (%(k)s, 't', %(p)s)"
        f" ON CONFLICT (id) DO UPDATE SET {column} = %(p)s, updated_at = clock_timestamp()",
        {"k": key, "p": parent},
    )


def gone(world, name, key):
    world.legacy(f"DELETE FROM {name} WHERE id = %s", [key])


@contextmanager
def held_up(context, *keys):
    """The keys are written before this block, and committed after it."""
    has_written, go_on = threading.Event(), threading.Event()

    def wait(*_):
        has_written.set()
        assert go_on.wait(30)

    worker = threading.Thread(target=sync, args=(context, *keys), kwargs={"commit": wait})
    worker.start()
    wait_for(has_written.is_set)
    try:
        yield
    finally:
        go_on.set()
        worker.join()


@contextmanager
def meanwhile(world, context, *keys):
    """The keys are synced beside this block, which begins when that waits for a lock, or has ended."""
    worker = threading.Thread(target=sync, args=(context, *keys))
    worker.start()
    wait_for(lambda: not worker.is_alive() or world.target(WAITING))
    yield
    worker.join()


def test_a_child_waits_for_its_parent_and_counts_as_pending(world, series, episode):
    legacy(world, "episode", 1, 7)
    legacy(world, "episode", 2)
    assert sync(episode, 1, 2).waiting == 1
    assert rows(world, "episode") == [(2, "t", None)]
    assert world.target(OWED) == [("episode", "parent", ["1"])]
    assert status_of(world.stores, EPISODE)["due"] == {"parent": 1}
    verdict = reconcile(episode)
    assert (verdict.status, {(f.sink, f.kind, f.key) for f in verdict.findings}) == (
        "clean",
        {("relational", "pending", "1"), ("search", "pending", "1")},
    )
    work(episode)
    legacy(world, "series", 7)
    sync(series, 7)
    assert ("episode", "released", ["1"]) in world.target(OWED)
    work(episode)
    assert rows(world, "episode") == [(1, "t", 7), (2, "t", None)]
    assert world.target(OWED) == []
    assert reconcile(episode).findings == []


def parent_in_a_race(world, series, episode):
    """The parent is written, and not committed yet, when its child is looked at."""
    legacy(world, "series", 7)
    legacy(world, "episode", 1, 7)
    with ExitStack() as later, held_up(series, 7):
        later.enter_context(meanwhile(world, episode, 1))
    work(series, episode)


def child_in_a_race(world, series, episode):
    """The parent goes while its first child is written, and not committed yet."""
    legacy(world, "series", 7)
    sync(series, 7)
    legacy(world, "episode", 1, 7)
    with ExitStack() as later, held_up(episode, 1):
        gone(world, "series", 7)
        later.enter_context(meanwhile(world, series, 7))


@pytest.mark.hazard(22)
def test_a_parent_that_lands_in_a_race_is_not_missed(world, series, episode):
    parent_in_a_race(world, series, episode)
    assert rows(world, "episode") == [(1, "t", 7)]
    assert world.target(OWED) == []


@pytest.mark.hazard(22)
def test_without_its_guard_it_is(world, series, episode, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "22")
    parent_in_a_race(world, series, episode)
    assert rows(world, "episode") == []


@pytest.mark.hazard(22)
def test_a_child_that_lands_in_a_race_keeps_its_parent(world, series, episode):
    child_in_a_race(world, series, episode)
    assert rows(world, "series") == [(7, "t", None)]
    assert world.target(OWED) == [("series", "children", ["7"])]


@pytest.mark.hazard(22)
def test_without_its_guard_its_parent_goes(world, series, episode, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "22")
    world.target("ALTER TABLE catalog.episode DROP CONSTRAINT episode_series_id_fkey")
    try:
        child_in_a_race(world, series, episode)
        assert rows(world, "series") == []
        assert rows(world, "episode") == [(1, "t", 7)]
    finally:
        gone(world, "episode", 1)
        sync(episode, 1, force=True)
        world.target(FOREIGN_KEYS.partition(";")[0])


@pytest.mark.parametrize("end", ["gone", "elsewhere", "nowhere"])
def test_a_parent_waits_for_its_last_child(world, series, episode, end):
    for key in (7, 8):
        legacy(world, "series", key)
    legacy(world, "episode", 1, 7)
    legacy(world, "episode", 2, 7)
    sync(series, 7, 8)
    sync(episode, 1, 2)
    gone(world, "series", 7)
    sync(series, 7)
    assert rows(world, "series") == [(7, "t", None), (8, "t", None)]
    assert world.document("GET", "series/_doc/7")["found"]
    assert reconcile(series).status == "clean"
    for key in (1, 2):
        gone(world, "episode", key) if end == "gone" else legacy(
            world, "episode", key, 8 if end == "elsewhere" else None
        )
        sync(episode, key)
        work(series)
    assert rows(world, "series") == [(8, "t", None)]
    assert world.target(OWED) == []
    assert reconcile(series).findings == []


def test_a_parent_that_is_made_again_waits_no_longer(world, series, episode):
    legacy(world, "series", 7)
    legacy(world, "episode", 1, 7)
    sync(series, 7)
    sync(episode, 1)
    gone(world, "series", 7)
    sync(series, 7)
    legacy(world, "series", 7)
    sync(series, 7)
    assert world.target(OWED) == []
    assert reconcile(series).findings == []


def test_a_child_that_waits_and_is_pointed_elsewhere_or_goes_waits_no_longer(world, series, episode):
    legacy(world, "series", 8)
    sync(series, 8)
    for key in (1, 2, 3):
        legacy(world, "episode", key, 7)
    sync(episode, 1, 2, 3)
    legacy(world, "episode", 1, 8)
    legacy(world, "episode", 2)
    gone(world, "episode", 3)
    sync(episode, 1, 2, 3)
    assert rows(world, "episode") == [(1, "t", 8), (2, "t", None)]
    assert world.target(OWED) == []


def test_a_written_child_that_is_pointed_to_a_missing_parent_stays_as_it_was(world, series, episode):
    legacy(world, "series", 8)
    sync(series, 8)
    legacy(world, "episode", 1, 8)
    sync(episode, 1)
    legacy(world, "episode", 1, 7)
    sync(episode, 1)
    assert rows(world, "episode") == [(1, "t", 8)]
    assert reconcile(episode).status == "clean"
    legacy(world, "episode", 1, 8)
    world.target("UPDATE sync.due SET not_before = now()")
    work(episode)
    assert world.target(OWED) == []


@pytest.mark.hazard(22)
def test_a_child_that_waits_too_long_is_a_dead_letter_and_lands_all_the_same(world, series, episode):
    legacy(world, "episode", 1, 7)
    sync(episode, 1)
    world.target("UPDATE sync.due SET first_at = now() - interval '2 h', not_before = now()")
    work(episode)
    query = "SELECT reason, message, not_before = 'infinity', waits_for, waits_key FROM sync.due"
    dead = [("rejected", "refers to series 7, which is not in the new side", True, "series", "7")]
    assert world.target(query) == dead
    world.target("UPDATE sync.due SET not_before = now()")
    work(episode)
    sync(episode, 1)
    assert world.target(query) == dead
    legacy(world, "series", 7)
    sync(series, 7)
    work(episode)
    assert rows(world, "episode") == [(1, "t", 7)]
    assert world.target(OWED) == []


def test_history_of_children_may_come_before_that_of_their_parents(world, series, episode):
    world.legacy("INSERT INTO series (id, title) SELECT n, 't' FROM generate_series(1, 600) n")
    world.legacy(
        "INSERT INTO episode (id, title, series_id) SELECT n, 't', 1 + mod(n, 700) FROM generate_series(1, 2000) n"
    )
    for context in (episode, series):
        for partition in context.entity.partitions.names():
            backfill(context, partition)
    work(episode)
    missing = world.legacy("SELECT count(*) FROM episode WHERE series_id > 600")
    assert world.target("SELECT count(*) FROM sync.due WHERE reason = 'parent'") == missing
    assert world.target("SELECT count(*) FROM sync.due") == missing
    assert reconcile(episode).status == "clean"


def test_rows_of_one_entity_that_refer_to_each_other(world, folder):
    for key, parent in ((1, 2), (2, 3), (3, None), (4, 4), (5, 9), (6, 5)):
        legacy(world, "folder", key, parent)
    sync(folder, 1)
    sync(folder, 1, 2, 3, 4, 5, 6)
    work(folder)
    assert rows(world, "folder") == [(1, "t", 2), (2, "t", 3), (3, "t", None), (4, "t", 4)]
    assert world.target(OWED) == [("folder", "parent", ["5"]), ("folder", "parent", ["6"])]
    legacy(world, "folder", 9)
    sync(folder, 9)
    work(folder)
    assert len(rows(world, "folder")) == 7
    for key in (1, 2, 3, 4, 9):
        gone(world, "folder", key)
    sync(folder, 1, 2, 3, 4, 9)
    assert rows(world, "folder") == [(5, "t", 9), (6, "t", 5), (9, "t", None)]
    assert world.target(OWED) == [("folder", "children", ["9"])]
    gone(world, "folder", 5)
    sync(folder, 5)
    gone(world, "folder", 6)
    sync(folder, 6)
    work(folder)
    assert rows(world, "folder") == []
    assert world.target(OWED) == []


def test_rows_that_refer_to_each_other_are_not_refused_with_a_bad_one(world, folder):
    for key in range(1, 8):
        legacy(world, "folder", key, key + 1)
    legacy(world, "folder", 8)
    legacy(world, "folder", 9)
    world.legacy("UPDATE folder SET title = 'bad' WHERE id = 9")
    world.target("ALTER TABLE catalog.folder ADD CONSTRAINT good CHECK (title <> 'bad')")
    try:
        sync(folder, *range(1, 10))
        assert [key for key, *_ in rows(world, "folder")] == list(range(1, 9))
        assert world.target(OWED) == [("folder", "rejected", ["9"])]
    finally:
        world.target("ALTER TABLE catalog.folder DROP CONSTRAINT good")


def test_a_circle_ends_with_the_dead_letters(world, episode):
    piloted = EntityContext.open(PILOTED, world.stores)
    try:
        legacy(world, "series", 7, 1)
        legacy(world, "episode", 1, 7)
        for _ in range(2):
            sync(piloted, 7)
            sync(episode, 1)
        assert [row[1] for row in world.target(OWED)] == ["parent", "parent"]
        world.target("UPDATE sync.due SET first_at = now() - interval '2 h', not_before = now()")
        work(piloted, episode)
        assert [row[1] for row in world.target(OWED)] == ["rejected", "rejected"]
        legacy(world, "series", 7)
        sync(piloted, 7)
        work(episode)
        assert rows(world, "episode") == [(1, "t", 7)]
    finally:
        EntityContext.open(SERIES, world.stores)


def test_a_sweep_sees_that_a_row_that_waits_for_its_parent_is_gone(world, series, episode):
    """Such a row is in no ledger, and where nothing reports changes, nobody else would look before its time is up."""
    world.legacy("INSERT INTO episode VALUES (1, 'pilot', 7), (2, 'second', 7)")
    sync_keys(episode, episode.origin.key.parse(["1", "2"]), Order())
    world.target("UPDATE sync.cursor SET filled_at = now()")
    world.legacy("DELETE FROM episode WHERE id = 1")
    sweep(episode)
    while live.work(episode, lambda *_: None):
        pass
    assert world.target(OWED) == [("episode", "parent", ["2"])]


@pytest.mark.hazard(85)
def test_a_sweep_sees_that_dead_letters_for_want_of_a_parent_are_of_other_rows_now(world, series, episode, monkeypatch):
    """One is gone, one names another parent: neither has to wait for its turn among those that are as they were."""
    monkeypatch.setattr(refused_rows, "_A_SWEEP", 0)
    legacy(world, "series", 1)
    sync(series, 1)
    for key in (1, 2, 3, 4):
        legacy(world, "episode", key, 7)
    sync(episode, 1, 2, 3, 4)
    world.target("UPDATE sync.due SET first_at = now() - interval '2 h', not_before = now()")
    work(episode)
    world.target("UPDATE sync.cursor SET filled_at = now()")
    gone(world, "episode", 1)
    legacy(world, "episode", 2, 1)
    legacy(world, "episode", 3, 8)
    sweep(episode)
    work(episode)
    assert rows(world, "episode") == [(2, "t", 1)]
    missing = [("3", "8"), ("4", "7")]
    assert world.target("SELECT key, waits_key FROM sync.due ORDER BY 1") == missing
    world.legacy("UPDATE episode SET title = 'u' WHERE id = 4")  # it still waits, as another row
    for is_other in (True, False):
        before = world.target("SELECT attempts FROM sync.due WHERE key = '4'")[0][0]
        sweep(episode)
        work(episode)
        assert (world.target("SELECT attempts FROM sync.due WHERE key = '4'")[0][0] > before) == is_other
    assert world.target("SELECT key, waits_key FROM sync.due ORDER BY 1") == missing
