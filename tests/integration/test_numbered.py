"""Changes numbered by a sequence: numbers come late as timestamps do, and none is passed over, with the sweep off."""

import random
import threading
from contextlib import closing, contextmanager
from dataclasses import replace

import pandas as pd
import psycopg2
import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.errors import DeclarationError
from sync_pipeline.ledger.cursor import Lease
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.preflight.preflight import preflight
from sync_pipeline.run import live
from sync_pipeline.run.capture import open_cursor, resumed
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources import watermark
from sync_pipeline.sources.table import Table
from tests.world import opened, wait_for

MONOLITH = """
    CREATE SEQUENCE "Changes";
    CREATE TABLE piece (id bigint PRIMARY KEY, title text, no bigint, made_at timestamptz DEFAULT clock_timestamp());
    CREATE INDEX ON piece (no);
    CREATE INDEX ON piece (made_at);
    GRANT SELECT ON piece, "Changes" TO sync_reader;
    INSERT INTO piece SELECT n, 'piece ' || n, nextval('"Changes"') FROM generate_series(1, 100) n;
"""
PIECE = Entity(
    name="piece",
    owner="team:tests",
    origin=LegacyQuery("SELECT id, title FROM piece", key=("id",)),
    tables=(Table("piece", key=("id",), stamp="no", sequence='"Changes"'),),
    adapt=lambda legacy: pd.DataFrame({"id": legacy["id"], "title": legacy["title"]}),
    sinks=(RelationalTable("catalog.piece", key=("id",), columns={"id": "bigint", "title": "text"}),),
    partitions=KeyRanges(1),
)
EDIT = "UPDATE piece SET title = %s, no = nextval('\"Changes\"') WHERE id = %s"
EITHER = replace(PIECE, tables=(Table("piece", key=("id",), stamp=("no", "made_at"), sequence='"Changes"'),))


@pytest.fixture(scope="module")
def world(fleet):
    with opened(fleet, "numbered", SYNC_SWEEP_SECONDS="1e9", SYNC_MARGIN_SECONDS="0") as world:
        world.legacy(MONOLITH)
        yield world


@pytest.fixture
def context(world):
    """All pieces in, and the cursor at its beginning."""
    context = EntityContext.open(PIECE, world.stores)
    world.target("UPDATE sync.cursor SET state = NULL, swept_at = now()")
    open_cursor(context)
    keys = [str(key) for (key,) in world.legacy("SELECT id FROM piece")]
    sync_keys(context, context.origin.key.parse(keys), Order())
    return context


@pytest.fixture
def writer(world):
    """A session of the monolith's, in transactions of its own."""
    with closing(psycopg2.connect(world.monolith.admin_url)) as connection:
        yield connection


@contextmanager
def polling(context):
    """A function that polls once."""
    lease = Lease.take(context.stores, "piece", "test")
    source = resumed(context)
    try:
        yield lambda: live.poll(context, lease, source, lambda *_: None, keep_idle=True)
    finally:
        lease.give_back(context.stores)


def apart(world):
    """What the two sides do not agree on."""
    return set(world.legacy("SELECT id, title FROM piece")) ^ set(world.target("SELECT id, title FROM catalog.piece"))


def committed(world, writer):
    writer.commit()


def prepared(world, writer):
    writer.cursor().execute("PREPARE TRANSACTION 'numbered'")
    return "COMMIT PREPARED 'numbered'"


def late(world, context, writer, end=committed):
    """A number is drawn, others pass it, and its transaction ends later."""
    with polling(context) as poll:
        poll()
        cursor = writer.cursor()
        cursor.execute("SAVEPOINT a")
        cursor.execute(EDIT, (f"late by {end.__name__}", 1))
        poll()
        world.legacy(EDIT, ("passes it", 2))
        poll()
        rest = end(world, writer)
        poll()
        if rest:
            writer.rollback()
            world.legacy(rest)
            poll()
        poll()


@pytest.mark.hazard(1)
@pytest.mark.parametrize("end", [committed, prepared])
def test_a_number_that_comes_late_is_not_passed_over(world, context, writer, end):
    late(world, context, writer, end)
    assert apart(world) == set()


@pytest.mark.hazard(1)
def test_without_its_guard_it_is(world, context, writer, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "1")
    world.legacy(EDIT, ("before", 1))
    late(world, context, writer)
    assert {key for key, _ in apart(world)} == {1}


def test_who_is_open_when_the_source_begins_is_waited_for(world, context, writer):
    writer.cursor().execute(EDIT, ("open at the beginning", 3))
    world.target("UPDATE sync.cursor SET state = NULL")
    opening = threading.Thread(target=open_cursor, args=(context,))
    opening.start()
    ours = "SELECT 1 FROM pg_stat_activity WHERE starts_with(application_name, 'sync-pipeline/')"
    waits = f"{ours} AND strpos(query, 'pg_prepared_xacts') > 0"
    wait_for(lambda: world.legacy(waits))
    assert opening.is_alive()
    writer.commit()
    opening.join()
    ((state,),) = world.target("SELECT state FROM sync.cursor")
    assert state["holders"] == {}
    with polling(context) as poll:
        poll()
    sync_keys(context, context.origin.key.parse(["3"]), Order())  # it is history
    assert apart(world) == set()


def test_who_is_open_for_too_long_has_all_rows_read_at_its_end(world, context, writer, monkeypatch):
    monkeypatch.setattr(watermark, "_BEGIN_SECONDS", 0.0)
    writer.cursor().execute(EDIT, ("open for long", 4))
    world.target("UPDATE sync.cursor SET state = NULL")
    open_cursor(context)
    with polling(context) as poll:
        poll()
        writer.commit()
        poll()
    assert apart(world) == set()


def test_a_sequence_that_was_set_back_loses_nothing_that_is_seen_in_time(world, context):
    with polling(context) as poll:
        poll()
        world.legacy("SELECT setval('\"Changes\"', 5)")
        world.legacy(EDIT, ("drawn low", 5))
        poll()
        world.legacy(EDIT, ("drawn low again", 6))
        poll()
    assert apart(world) == set()
    world.legacy("SELECT setval('\"Changes\"', (SELECT max(no) FROM piece))")


def test_what_has_no_number_is_the_sweeps(world, context):
    with polling(context) as poll:
        poll()
        world.legacy("UPDATE piece SET title = 'no number', no = NULL WHERE id = 7")
        poll()
    assert {key for key, _ in apart(world)} == {7}
    world.legacy(EDIT, ("a number again", 7))


def test_a_row_counts_when_any_of_its_stamps_has_moved(world, context):
    context = replace(context, entity=EITHER)
    world.legacy("INSERT INTO piece (id, title) VALUES (200, 'no number, and new')")
    with polling(context) as poll:
        poll()
        poll()
        world.legacy(EDIT, ("only its number has moved", 8))
        world.legacy("UPDATE piece SET title = 'only its time', made_at = clock_timestamp() WHERE id = 9")
        world.legacy(EDIT.replace(" WHERE", ", made_at = clock_timestamp() WHERE"), ("both", 10))
        reported = [key for page in resumed(context).pull(100) for key in page.keys.column("id").to_pylist()]
        poll()
    assert sorted(reported).count(10) == 1
    assert apart(world) == set()


def test_eight_writers_lose_nothing(world, context):
    stop = threading.Event()
    writers = [threading.Thread(target=write, args=(world, n, stop)) for n in range(8)]
    with world.following([context]):
        for thread in writers:
            thread.start()
        stop.wait(6)
        stop.set()
        for thread in writers:
            thread.join()
        ((since,),) = world.legacy("SELECT clock_timestamp()")
        wait_for(lambda: world.target("SELECT 1 FROM sync.cursor WHERE applied_through > %s", [since]))
        wait_for(lambda: not world.target("SELECT 1 FROM sync.due"))
    assert world.target("SELECT 1 FROM sync.cursor WHERE swept_from IS NOT NULL") == []
    assert apart(world) == set()


def write(world, seed, stop):
    """Transactions that draw early and end late, with savepoints; some are rolled back, some prepared."""
    chance = random.Random(seed)
    with closing(psycopg2.connect(world.monolith.admin_url)) as connection:
        turn = 0
        while not stop.is_set():
            turn += 1
            cursor = connection.cursor()
            cursor.execute("SAVEPOINT a")
            cursor.execute(EDIT, (f"{seed}/{turn}", 1 + seed * 12 + chance.randrange(12)))
            if chance.random() < 0.3:
                cursor.execute("ROLLBACK TO a")
                cursor.execute(EDIT, (f"{seed}/{turn} again", 1 + seed * 12 + chance.randrange(12)))
            stop.wait(chance.choice((0, 0.01, 0.05, 0.8)))
            ends(world, connection, chance, f"numbered {seed} {turn}")


def ends(world, connection, chance, name):
    """Commit, roll back, or prepare and commit a little later."""
    if chance.random() < 0.1:
        connection.rollback()
    elif chance.random() < 0.1:
        connection.cursor().execute(f"PREPARE TRANSACTION '{name}'")
        connection.rollback()
        threading.Event().wait(0.3)
        world.legacy(f"COMMIT PREPARED '{name}'")
    else:
        connection.commit()


REFUSED = {
    "a cache": ('ALTER SEQUENCE "Changes" CACHE 20', 'ALTER SEQUENCE "Changes" CACHE 1', "takes 20 numbers at once"),
    "a cycle": ('ALTER SEQUENCE "Changes" CYCLE', 'ALTER SEQUENCE "Changes" NO CYCLE', "does not only rise"),
    "no right": (
        'REVOKE SELECT ON SEQUENCE "Changes" FROM sync_reader',
        'GRANT SELECT ON SEQUENCE "Changes" TO sync_reader',
        "may not read",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_sequence_that_would_lose_changes_is_refused(world, context, fault):
    plant, mend, words = REFUSED[fault]
    assert [n.what for n in preflight(world.stores, [PIECE]) if n.level == "error"] == []
    world.legacy(plant)
    try:
        errors = [notice for notice in preflight(world.stores, [PIECE]) if notice.level == "error"]
        assert any(words in notice.what for notice in errors), errors
        with pytest.raises(DeclarationError, match=words), polling(context) as poll:
            poll()
    finally:
        world.legacy(mend)


def test_a_number_of_no_known_sequence_is_refused(world, context):
    unknown = replace(PIECE, tables=(Table("piece", key=("id",), stamp="no"),))
    errors = [n.what for n in preflight(world.stores, [unknown]) if n.level == "error"]
    assert any("from which sequence" in what for what in errors)
    world.legacy("ALTER TABLE piece ALTER no SET DEFAULT nextval('\"Changes\"')")
    assert [n.what for n in preflight(world.stores, [unknown]) if n.level == "error"] == []
