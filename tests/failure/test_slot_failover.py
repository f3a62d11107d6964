"""The monolith fails over to a standby that has our slot: what was shipped goes on, what was not is swept."""

from contextlib import closing
from dataclasses import replace

import psycopg2
import pytest

from sync_pipeline.entities.context import EntityContext
from sync_pipeline.run.capture import open_cursor
from sync_pipeline.stores.stores import Stores
from tests.failure.test_publication_hazards import ARRIVED, LOST, MONOLITH, NOTE, SWEPT, Polling, apart
from tests.installed import made
from tests.replica import IS_FED, Replica
from tests.world import opened, wait_for

SYNCED = "SELECT 1 FROM pg_replication_slots WHERE slot_name = 'sync_note' AND synced AND NOT temporary"


@pytest.fixture
def world(fleet):
    with opened(fleet, "slot_failover", SYNC_SWEEP_SECONDS="1e9") as world:
        world.legacy(MONOLITH)
        yield world
        drop_slots(world)


def drop_slots(world):
    wait_for(lambda: not world.legacy("SELECT 1 FROM pg_replication_slots WHERE active"), 60)
    world.legacy("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")


@pytest.fixture
def standby(world, tmp_path):
    """A standby that keeps our slots."""
    server = Replica(tmp_path, world.fleet.legacy)
    server.start()
    try:
        server.wait_healthy()
        server.take_slots_over()
        yield server
    finally:
        server.kill()


@pytest.fixture
def context(world):
    context = EntityContext.open(NOTE, world.stores)
    for statement in made(context):
        world.legacy(statement)
    world.target("UPDATE sync.cursor SET state = NULL, gap_at = NULL")
    return context


def ship_slot(world, standby, context):
    """Have the standby take the slot over, which it does once it has come as far as the slot is."""
    with Polling(context) as poll:

        def shipped():
            world.legacy("INSERT INTO note SELECT max(id) + 1 FROM note; SELECT pg_log_standby_snapshot()")
            poll()
            return standby.run(SYNCED)

        world.legacy("INSERT INTO note VALUES (1)")
        wait_for(shipped)


def promote(standby):
    standby.run("SELECT pg_promote()")
    wait_for(lambda: standby.run("SELECT NOT pg_is_in_recovery()") == [(True,)])


@pytest.mark.hazard(11)
@pytest.mark.hazard(58)
@pytest.mark.parametrize(
    ("shipped", "off", "becomes"),
    [(True, "", ARRIVED), (False, "", SWEPT), (False, "58", LOST)],
    ids=["all was shipped", "commits were lost", "commits were lost, without the guard"],
)
def test_after_a_failover_nothing_is_passed_over(world, standby, context, shipped, off, becomes, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", f"{off},110")  # which sweeps after any failover, whatever the slot is
    open_cursor(context)
    ship_slot(world, standby, context)
    if not shipped:
        standby.run("ALTER SYSTEM SET primary_conninfo = ''")
        standby.run("SELECT pg_reload_conf()")
        wait_for(lambda: not world.legacy(IS_FED))
    with Polling(context) as poll:
        world.legacy("INSERT INTO note SELECT n FROM generate_series(1000, 3000) n")
        wait_for(lambda: poll() or world.target("SELECT 1 FROM catalog.note WHERE id = 3000"))
    if shipped:
        end = world.legacy("SELECT pg_current_wal_flush_lsn()::text")[0][0]
        wait_for(lambda: standby.run(f"SELECT pg_last_wal_replay_lsn() >= '{end}'::pg_lsn") == [(True,)])
    promote(standby)
    assert followed(world, standby) == becomes


def followed(world, standby):
    """What becomes of a row that is written at the promoted standby."""
    admin = standby.url("slot_failover")

    def run(statement, values=()):
        with closing(psycopg2.connect(admin)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    run("DELETE FROM note WHERE id = 1")
    promoted = replace(world, monolith=replace(world.monolith, admin_url=admin))
    legacy = world.stores.settings.legacy_db.replace(f":{world.fleet.legacy.port}/", f":{standby.port}/")
    with closing(Stores(replace(world.stores.settings, legacy_db=legacy))) as stores:
        context = EntityContext.open(NOTE, stores)
        with Polling(context) as poll:
            ((now,),) = run("SELECT clock_timestamp()")
            passed = "SELECT 1 FROM sync.cursor WHERE entity = 'note' AND applied_through > %s"
            wait_for(lambda: poll() or world.target(passed, [now]))
    if world.target("SELECT gap_at FROM sync.cursor WHERE entity = 'note'") != [(None,)]:
        return SWEPT
    return LOST if apart(promoted) else ARRIVED
