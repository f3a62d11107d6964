"""What breaks a reader of the monolith's log, step by step: nobody follows, each poll is ours, and no sweep helps."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace

import pandas as pd
import psycopg2
import pytest

from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.errors import UnreachableError
from sync_pipeline.ledger.cursor import Lease
from sync_pipeline.ledger.ledger import Ledger
from sync_pipeline.operate.status import status_of
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.run import live
from sync_pipeline.run.capture import open_cursor, resumed, subject_of
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources import wal
from sync_pipeline.sources.publication import tables_without_identity
from sync_pipeline.sources.table import Table
from sync_pipeline.sources.wal import Wal
from sync_pipeline.stores.stores import Stores
from tests.installed import made, unmade
from tests.world import opened, wait_for

MONOLITH = """
    CREATE TABLE note (id bigint PRIMARY KEY, title text, body text);
    ALTER TABLE note ALTER body SET STORAGE EXTERNAL;
    GRANT SELECT ON note TO sync_reader;
"""
NOTE = Entity(
    name="note",
    owner="team:tests",
    origin=LegacyQuery("SELECT id, title, body FROM note", key=("id",)),
    tables=(Table("note", key=("id",)),),
    capture=Wal(),
    adapt=lambda legacy: pd.DataFrame({name: legacy[name] for name in ("id", "title", "body")}),
    sinks=(RelationalTable("catalog.note", key=("id",), columns={"id": "bigint", "title": "text", "body": "text"}),),
    partitions=KeyRanges(1),
)
WRITE = "INSERT INTO note VALUES (%s, %s, %s) ON CONFLICT (id) DO UPDATE SET title = excluded.title"
SLOT = "FROM pg_replication_slots WHERE slot_name = 'sync_note'"


@pytest.fixture(scope="module")
def world(fleet):
    with opened(fleet, "log_hazards", SYNC_SWEEP_SECONDS="1e9") as world:
        world.legacy(MONOLITH)
        yield world


@pytest.fixture
def context(world):
    """No rows on either side, and a new slot."""
    context = EntityContext.open(NOTE, world.stores)
    for statement in made(context):
        world.legacy(statement)
    world.target("UPDATE sync.cursor SET state = NULL, gap_at = NULL")
    open_cursor(context)
    yield context
    wait_for(lambda: world.legacy(f"SELECT 1 {SLOT} AND active_pid IS NULL"))
    for statement in unmade(context):
        world.legacy(statement)
    world.legacy("TRUNCATE note")
    world.target("TRUNCATE catalog.note, sync.ledger_note, sync.due")


@contextmanager
def polling(context, *, keep_idle=True):
    """A function that polls once, and gives the number of keys it brought."""
    lease, brought = Lease.take(context.stores, "note", "test"), []

    def poll():
        brought.clear()
        live.poll(context, lease, source, lambda _, outcome: brought.append(outcome.keys), keep_idle=keep_idle)
        return sum(brought)

    with closing(resumed(context)) as source:
        poll.source = source
        try:
            yield poll
        finally:
            lease.give_back(context.stores)


def poll_on(context):
    """Poll until something came, as a source that is opened anew."""
    with polling(context) as poll:
        wait_for(poll)


def poll_until(world, context, key):
    """Poll until a key is at the new side, as a source that is opened anew."""
    with polling(context) as poll:
        wait_for(lambda: poll() and world.target("SELECT 1 FROM catalog.note WHERE id = %s", [key]))


def apart(world):
    """Keys on which the two sides do not agree."""
    rows = set(world.legacy("SELECT * FROM note")) ^ set(world.target("SELECT * FROM catalog.note"))
    return {key for key, *_ in rows}


@contextmanager
def writing(world, key, title):
    """A transaction that writes at once, and commits at the end; the write is inside a savepoint."""
    with closing(psycopg2.connect(world.monolith.admin_url)) as late:
        cursor = late.cursor()
        cursor.execute("SELECT pg_current_xact_id()")
        cursor.execute("SAVEPOINT inside")
        cursor.execute(WRITE, (key, title, ""))
        yield
        late.commit()


def seen_in_the_log_first(world, context):
    """Hazard 6: a commit waits for a standby that does not answer: it is in the log, and no query shows it."""
    looks = threading.Event()
    visible = wal._visible

    def looked(*arguments):
        looks.set()
        return visible(*arguments)

    world.legacy("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    world.legacy("SELECT pg_reload_conf()")
    wait_for(lambda: world.legacy("SHOW synchronous_standby_names") == [("nobody",)])
    writer = threading.Thread(target=world.legacy, args=(WRITE, (1, "in the log", "")))
    reader = threading.Thread(target=poll_on, args=(context,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wal, "_visible", looked)
        try:
            writer.start()
            wait_for(lambda: world.legacy("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))
            reader.start()
            wait_for(lambda: looks.is_set() or not reader.is_alive())
        finally:
            world.legacy("ALTER SYSTEM RESET synchronous_standby_names")
            world.legacy("SELECT pg_reload_conf()")
            writer.join()
            reader.join()


def cut_off(world, context):
    """Hazard 8: a poll has read the log and ends before its rows are written; the next one is another worker's."""

    class Cut(BaseException):
        pass

    def cut(*_):
        raise Cut

    world.legacy(WRITE, (1, "read once", ""))
    with pytest.MonkeyPatch.context() as patch, suppress(Cut):
        patch.setattr(Ledger, "apply", cut)
        poll_on(context)
    wait_for(lambda: world.legacy(f"SELECT 1 {SLOT} AND active_pid IS NULL"))
    world.legacy(WRITE, (2, "the next one", ""))
    poll_until(world, context, 2)


SCENES = {6: seen_in_the_log_first, 8: cut_off}
PLAYED = [pytest.param(hazard, marks=pytest.mark.hazard(hazard)) for hazard in SCENES]


@pytest.mark.parametrize("hazard", PLAYED)
def test_with_its_guard_a_hazard_does_no_harm(world, context, hazard):
    SCENES[hazard](world, context)
    assert apart(world) == set()


@pytest.mark.parametrize("hazard", PLAYED)
def test_without_its_guard_a_hazard_is_seen(world, context, hazard, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", str(hazard))
    SCENES[hazard](world, context)
    assert apart(world) == {1}


@pytest.mark.hazard(4)
@pytest.mark.hazard(7)
def test_a_transaction_that_began_before_all_others_is_not_passed_over(world, context):
    """By its number it is the oldest, by its place in the log the last; what it wrote is a subtransaction's."""
    with writing(world, 1, "began first"):
        world.legacy(WRITE, (2, "committed first", ""))
        poll_on(context)
        assert world.target("SELECT id FROM catalog.note") == [(2,)]
    poll_on(context)
    assert apart(world) == set()


@pytest.mark.hazard(9)
def test_a_long_transaction_comes_in_pages_and_the_log_is_decoded_once(world, context):
    """The replication connection stays: no poll begins again at the slot's position."""
    world.legacy("INSERT INTO note SELECT n, 'many', '' FROM generate_series(1, 5000) n")
    with closing(resumed(context)) as source:
        pages = first_pages(source)
        reader = world.legacy(f"SELECT active_pid {SLOT}")
        world.legacy(WRITE, (1, "one more", ""))
        first_pages(source)
        assert world.legacy(f"SELECT active_pid {SLOT}") == reader != [(None,)]
    assert sum(pages) == 5_000
    assert max(pages) <= 500


def first_pages(source):
    """How many keys each page of the first poll holds that has any."""
    pages = []
    wait_for(lambda: pages.extend(page.keys.num_rows for page in source.pull(500)) or pages)
    return pages


@pytest.mark.hazard(10)
def test_what_a_slot_keeps_is_told_and_let_go_while_only_others_write(world, context):
    """After a change of ours the monolith's other tables fill the log."""
    world.legacy(WRITE, (1, "the last one", ""))
    with closing(Stores(replace(world.stores.settings, wal_alert_bytes=1))) as strict, polling(context) as poll:
        wait_for(poll)
        world.legacy("CREATE TABLE other AS SELECT n, repeat('x', 500) FROM generate_series(1, 20000) n")
        ((end,),) = world.legacy("SELECT pg_current_wal_flush_lsn()::text")
        passed = f"SELECT 1 {SLOT} AND confirmed_flush_lsn >= '{end}'"
        assert not world.legacy(passed)
        wait_for(lambda: poll() or world.legacy(passed))
        assert any("bytes of the monolith's log" in alert for alert in status_of(strict, NOTE)["alerts"])
    world.legacy("DROP TABLE other")


@pytest.mark.hazard(8)
def test_what_a_poll_that_notes_nothing_has_read_is_let_go_by_none(world, context):
    """Else whoever comes next would find the slot ahead of the cursor."""
    with polling(context, keep_idle=False) as poll:
        for _ in range(20):
            world.legacy("CREATE TABLE other AS SELECT 1; DROP TABLE other")
            poll()
        ((noted,),) = world.target("SELECT state ->> 'lsn' FROM sync.cursor WHERE entity = 'note'")
        ((ahead,),) = world.legacy(f"SELECT confirmed_flush_lsn - '0/0' > %s {SLOT}", [noted])
        assert not ahead


@pytest.mark.hazard(11)
@pytest.mark.parametrize("asks_often", [True, False])
def test_a_server_that_is_shut_down_and_started_leaves_no_gap(world, context, asks_often, monkeypatch):
    """It asks how far we are before it goes; the driver answers with what was read, whether that is noted or not."""
    with polling(context) as poll:
        poll()
    monkeypatch.setattr(wal, "_MARK_SECONDS", 0.0 if asks_often else 1e9)
    with ThreadPoolExecutor() as pool, polling(context, keep_idle=False) as poll:
        poll()
        world.legacy("CREATE TABLE other AS SELECT 1; DROP TABLE other")
        wait_for(lambda: poll() or read_ahead(poll.source, world))
        pool.submit(world.fleet.legacy.stop)
        with pytest.raises(UnreachableError):
            wait_for(poll)
    world.fleet.legacy.start()
    world.fleet.legacy.wait_healthy()
    world.stores.legacy_engine.dispose()
    resumed(context).close()
    assert world.target("SELECT gap_at FROM sync.cursor WHERE entity = 'note'") == [(None,)]


def read_ahead(source, world):
    """Whether more is read than is noted."""
    ((noted,),) = world.target("SELECT (state ->> 'lsn')::bigint FROM sync.cursor WHERE entity = 'note'")
    return source.position().state["lsn"] > noted


@pytest.mark.hazard(14)
def test_an_emptied_table_is_noted_by_the_poll_that_hears_of_it(world, context):
    world.legacy(WRITE, (1, "to be gone", ""))
    poll_on(context)
    world.legacy("TRUNCATE note")
    with polling(context, keep_idle=False) as poll:
        wait_for(
            lambda: poll() or world.target("SELECT 1 FROM sync.cursor WHERE entity = 'note' AND gap_at IS NOT NULL")
        )


@pytest.mark.hazard(12)
def test_a_long_value_that_the_log_leaves_out_is_not_lost(world, context):
    """An update that leaves a TOASTed column as it was does not send it."""
    world.legacy(WRITE, (1, "before", "long " * 20_000))
    poll_on(context)
    world.legacy("UPDATE note SET title = 'after' WHERE id = 1")
    poll_on(context)
    assert apart(world) == set()
    assert world.target("SELECT title, length(body) FROM catalog.note") == [("after", 100_000)]


@pytest.mark.hazard(12)
def test_a_child_whose_delete_tells_no_root_is_refused(world):
    """Its entry in the log holds its own number alone."""
    world.legacy("CREATE TABLE remark (no bigint PRIMARY KEY, note bigint); GRANT SELECT ON remark TO sync_reader")
    child = Table("remark", key=("note",))
    context = EntityContext.open(replace(NOTE, tables=(*NOTE.tables, child)), world.stores)
    with world.stores.legacy() as cursor:
        assert tables_without_identity(cursor, subject_of(context)) == ["public.remark"]
    assert "ALTER TABLE public.remark REPLICA IDENTITY FULL" in made(context)
    world.legacy("DROP TABLE remark")
