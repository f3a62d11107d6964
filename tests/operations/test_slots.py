"""Slots that keep the monolith's log are seen by status and check, whether anything reads them or not."""

from contextlib import closing
from dataclasses import replace

import psycopg2
import pytest

from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.files import load_entities
from sync_pipeline.errors import GapError, SettingError
from sync_pipeline.operate.status import status_of
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.preflight.preflight import preflight
from sync_pipeline.preflight.publications import ABOUT
from sync_pipeline.run.backfill import backfill_all
from sync_pipeline.run.capture import open_cursor, subject_of
from sync_pipeline.sources import slots
from sync_pipeline.sources.wal import Wal
from sync_pipeline.stores.stores import Stores
from tests.caught._tables import TABLES
from tests.installed import made, unmade

GONE = "FROM pg_replication_slots WHERE slot_name = 'sync_gone'"
SLOT = "SELECT 1 FROM pg_replication_slots WHERE slot_name = 'sync_text'"


@pytest.fixture(scope="module", autouse=True)
def loaded(world):
    world.load(60, 0)


@pytest.fixture
def context(world):
    """Texts, caught from the log, that nothing follows."""
    context = EntityContext.open(replace(world.context("text").entity, capture=Wal(), tables=TABLES), world.stores)
    for statement in made(context):
        world.legacy(statement)
    world.target("UPDATE sync.cursor SET state = NULL, source = NULL")
    open_cursor(context)
    yield context
    for statement in unmade(context):
        world.legacy(statement)


@pytest.fixture
def strict(world):
    """Stores that bear a megabyte of kept log, and no more."""
    with closing(Stores(replace(world.stores.settings, wal_alert_bytes=1_000_000))) as stores:
        yield stores


def write(world):
    world.legacy("CREATE TABLE noise AS SELECT repeat('x', 500) FROM generate_series(1, 6000); DROP TABLE noise")


def about_slots(stores, entities):
    return [notice.what for notice in preflight(stores, entities) if notice.about == ABOUT and notice.level != "ok"]


@pytest.mark.hazard(59)
def test_what_a_slot_keeps_is_an_alert_though_nothing_reads_it(world, context, strict):
    assert not any("keeps" in alert for alert in status_of(strict, context.entity)["alerts"])
    write(world)
    (alert,) = [alert for alert in status_of(strict, context.entity)["alerts"] if "keeps" in alert]
    assert "nothing reads it" in alert
    assert any("sync_text keeps" in what for what in about_slots(strict, [context.entity]))


@pytest.mark.hazard(59)
def test_a_slot_whose_entity_is_caught_in_another_way_is_an_alert(world, context, strict):
    other = load_entities(world.stores.settings.entities)["text"]
    assert any("sync_text keeps" in alert and "for nothing" in alert for alert in status_of(strict, other)["alerts"])


@pytest.mark.hazard(59)
def test_a_slot_and_a_publication_of_an_entity_that_is_gone_are_named_with_what_drops_them(world, context):
    world.legacy("SELECT pg_create_logical_replication_slot('sync_gone', 'pgoutput')")
    world.legacy("CREATE PUBLICATION sync_gone FOR TABLE authors")
    first = world.context(min(world.contexts))
    open_cursor(first)
    try:
        drop = "SELECT pg_drop_replication_slot('sync_gone');"
        (alert,) = [alert for alert in status_of(world.stores, first.entity)["alerts"] if "sync_gone" in alert]
        assert drop in alert
        found = {n.what: n.remedy for n in preflight(world.stores, [context.entity]) if "sync_gone" in n.what}
        assert drop in found.values()
        (script,) = [remedy for what, remedy in found.items() if "publication sync_gone" in what]
        world.legacy(script)
    finally:
        world.legacy("DROP PUBLICATION IF EXISTS sync_gone")
        world.legacy(f"SELECT pg_drop_replication_slot(slot_name) {GONE}")
    assert not any("sync_gone" in what for what in about_slots(world.stores, [context.entity]))


@pytest.mark.hazard(60)
def test_slots_of_another_ledger_are_none_of_ours(world, context):
    """Its prefix may begin as ours does."""
    world.legacy("SELECT pg_create_logical_replication_slot('sync_b_text', 'pgoutput')")
    world.legacy("CREATE PUBLICATION sync_b_text")
    theirs = 'made by: sync-pipeline wal install {"ledger": "deadbeef", "roles": [], "full": [], "before": {}}'
    world.legacy(f"COMMENT ON PUBLICATION sync_b_text IS '{theirs}'")
    try:
        assert about_slots(world.stores, [context.entity]) == []
        assert [slot.name for slot in slots.our_slots(world.stores)] == ["sync_text"]
    finally:
        world.legacy("DROP PUBLICATION sync_b_text")
        world.legacy("SELECT pg_drop_replication_slot('sync_b_text')")


@pytest.mark.hazard(60)
def test_a_slot_of_another_database_stops_the_source(world, context):
    world.legacy("SELECT pg_drop_replication_slot('sync_text')")
    with closing(psycopg2.connect(world.fleet.legacy.url("postgres"))) as elsewhere:
        elsewhere.autocommit = True
        cursor = elsewhere.cursor()
        cursor.execute("SELECT pg_create_logical_replication_slot('sync_text', 'pgoutput')")
        try:
            with pytest.raises(SettingError, match="slot sync_text is of database postgres: set another"):
                Wal().open(subject_of(context), None).begin()
        finally:
            cursor.execute("SELECT pg_drop_replication_slot('sync_text')")


@pytest.mark.hazard(59)
def test_a_lost_slot_is_an_alert_before_anything_reads_it(world, context):
    ((before,),) = world.legacy("SHOW max_slot_wal_keep_size")
    world.legacy("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
    world.legacy("SELECT pg_reload_conf()")
    try:
        for _ in range(3):
            write(world)
            world.legacy("SELECT pg_switch_wal()")
            world.legacy("CHECKPOINT")
        assert any("has lost its log" in alert for alert in status_of(world.stores, context.entity)["alerts"])
        assert any("has lost its log" in what for what in about_slots(world.stores, [context.entity]))
        with pytest.raises(GapError, match="lost"):
            Wal().open(subject_of(context), world.target("SELECT state FROM sync.cursor WHERE entity = 'text'")[0][0])
    finally:
        world.legacy(f"ALTER SYSTEM SET max_slot_wal_keep_size = '{before}'")
        world.legacy("SELECT pg_reload_conf()")


def test_a_monolith_that_does_not_answer_is_an_alert_and_no_error(world, context):
    away = world.stores.settings.legacy_db.rpartition("@")[0] + "@127.0.0.1:1/away"
    with closing(Stores(replace(world.stores.settings, legacy_db=away))) as stores:
        (alert,) = [alert for alert in status_of(stores, context.entity)["alerts"] if "slots could not" in alert]
        assert "SYNC_LEGACY_DB" in alert
        assert not any("slots could not" in a for a in status_of(stores, world.context("text").entity)["alerts"])


@pytest.mark.hazard(11)
def test_slots_are_made_so_that_a_standby_takes_them_over_and_older_ones_become_so(world, context):
    failover = "SELECT failover FROM pg_replication_slots WHERE slot_name = 'sync_text'"
    assert world.legacy(failover) == [(True,)]
    world.legacy("SELECT pg_drop_replication_slot('sync_text')")
    world.legacy("SELECT pg_create_logical_replication_slot('sync_text', 'pgoutput')")
    assert world.legacy(failover) == [(False,)]
    Wal().open(subject_of(context), None).begin()
    assert world.legacy(failover) == [(True,)]


def test_partitions_that_are_filled_at_once_wait_for_the_one_that_makes_the_slot(world, context):
    world.legacy("SELECT pg_drop_replication_slot('sync_text')")
    world.target("UPDATE sync.cursor SET state = NULL, source = NULL")
    many = EntityContext.open(replace(context.entity, partitions=KeyRanges(4)), world.stores)
    filled = list(backfill_all(many, many.entity.partitions.names()))
    assert sum(part.rows + part.parked for part in filled) == context.origin.count("true")
    assert world.legacy(SLOT) == [(1,)]
