"""A host that is lost in mid-transaction, and a table of the monolith that is held for long: who else is affected."""

import threading
import time
from contextlib import closing, suppress
from dataclasses import replace

import pandas as pd
import psycopg2
import pytest

from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.ledger.cursor import Lease
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.run import follower as module
from sync_pipeline.run.capture import open_cursor
from sync_pipeline.run.follower import Follower
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.sweep_only import SweepOnly
from sync_pipeline.stores.stores import Stores
from tests.chaos.proxy import Link, Loop
from tests.world import opened, wait_for

SECONDS = 30  # after a loss: the successor has gone on, and none of the lost one's sessions is left
OURS = "SELECT pid FROM pg_stat_activity WHERE starts_with(application_name, 'sync-pipeline/')"
LEFT = "SELECT application_name, state FROM pg_stat_activity WHERE pid = ANY(%s)"
HEADER = "SELECT header FROM catalog.text WHERE id = %s"
EDIT = "UPDATE content SET title = %s, updated_at = now() WHERE id = %s"
OWNER = "SELECT owner FROM sync.cursor WHERE entity = 'text'"


def adapt(legacy: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"id": legacy["id"], "name": legacy["name"]})


# of a table that nobody holds; a sweep finds its changes
WRITER = Entity(
    name="writer",
    owner="team:tests",
    origin=LegacyQuery("SELECT id, name FROM authors", key=("id",)),
    tables=(),
    adapt=adapt,
    sinks=(RelationalTable("shop.writer", key=("id",), columns={"id": "bigint", "name": "text"}),),
    partitions=KeyRanges(1),
    capture=SweepOnly(),
)


@pytest.fixture(scope="module")
def world(fleet):
    settings = {"SYNC_SWEEP_SECONDS": "0.5", "SYNC_MARGIN_SECONDS": "0.2", "SYNC_LOCK_TIMEOUT_SECONDS": "0.3"}
    with opened(fleet, "lost_hosts", **settings) as world:
        world.load(60, 0)
        world.all_in("text")
        open_cursor(EntityContext.open(WRITER, world.stores))
        world.target("UPDATE sync.cursor SET filled_at = now()")
        yield world


@pytest.fixture
def key(world):
    return world.legacy("SELECT min(id) FROM content WHERE kind = 'text' AND deleted_at IS NULL")[0][0]


class Halting:
    """Rows for a COPY: the second piece comes only when the test is over."""

    def __init__(self):
        self.began, self.over, self._pieces = threading.Event(), threading.Event(), 0

    def read(self, size):
        self._pieces += 1
        if self._pieces == 1:
            return b"7\n" * 100_000
        self.began.set()
        self.over.wait(120)
        return b""


@pytest.fixture
def far(world):
    """(stores by way of another host, the ways to it)."""
    loop, settings = Loop(), world.stores.settings
    fleet = world.fleet
    links = [Link(loop, server.port) for server in (fleet.legacy, fleet.target)]
    urls = [
        url.replace(f":{link.upstream}/", f":{link.port}/")
        for url, link in zip((settings.legacy_db, settings.target_db), links, strict=True)
    ]
    stores = Stores(replace(settings, legacy_db=urls[0], target_db=urls[1], sweep_seconds=1e9))
    yield stores, links
    stores.close()
    for link in links:
        link.refuse()
    wait_for(lambda: not any(link._transports for link in links))
    loop.close()


def hold(context, key, rows):
    """A batch in mid-COPY, which has the key."""
    with context.stores.target() as cursor:
        cursor.execute(f"SELECT FROM {context.ledger.table} WHERE id = %s FOR UPDATE", (key,))
        cursor.execute("CREATE TEMP TABLE half (n bigint) ON COMMIT DROP")
        cursor.copy_expert("COPY half FROM STDIN", rows)


def left(world, pids):
    return [*world.legacy(LEFT, [pids[0]]), *world.target(LEFT, [pids[1]])]


@pytest.mark.hazard(72)
def test_a_host_that_is_lost_in_mid_copy_is_succeeded_and_nothing_of_it_is_left(world, far, key):
    stores, links = far
    context = EntityContext.open(world.context("text").entity, stores)
    rows, stop = Halting(), threading.Event()
    world.stores.close()  # whose sessions are alive now are the lost host's
    lost = Follower([context.entity], stores)
    following = threading.Thread(target=lost.run, args=(stop,))
    following.start()
    wait_for(lambda: "text" in stores.epochs)
    batch = threading.Thread(target=_quietly, args=(hold, context, key, rows))
    batch.start()
    wait_for(rows.began.is_set)
    pids = [[pid for (pid,) in run(OURS)] for run in (world.legacy, world.target)]
    assert all(pids)
    for link in links:
        link.swallow()
    since = time.monotonic()
    try:
        world.legacy(EDIT, ("by the successor", key))
        with world.following([world.context("text")]) as ours:
            wait_for(lambda: world.target(HEADER, [key]) == [("by the successor",)], SECONDS)
            assert world.target(OWNER) == [(ours.name,)]
            wait_for(lambda: left(world, pids) == [], SECONDS - (time.monotonic() - since))
    finally:
        stop.set()
        rows.over.set()
        for link in links:
            link.heal(cut=True)
        for thread in (batch, following):
            thread.join()


def _quietly(act, *arguments):
    with suppress(Exception):  # the host it runs on is lost
        act(*arguments)


WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"
LONGEST = "SELECT coalesce(extract(epoch FROM max(clock_timestamp() - waitstart)), 0) FROM pg_locks WHERE NOT granted"
SESSIONS = f"SELECT count(*) FROM ({OURS}) ours"
BEAT = "SELECT seen_at FROM sync.heartbeat WHERE name = %s"


@pytest.mark.hazard(73)
def test_a_table_that_is_held_stops_its_own_entity_alone(world, key):
    text, writer = world.context("text"), EntityContext.open(WRITER, world.stores)
    with world.following([text, writer]) as follower, closing(psycopg2.connect(world.monolith.admin_url)) as held:
        wait_for(lambda: world.target("SELECT 1 FROM sync.cursor WHERE entity = 'text' AND lease_until > now()"))
        held.cursor().execute("LOCK TABLE content IN ACCESS EXCLUSIVE MODE")
        wait_for(lambda: world.legacy(WAITING)[0][0] > 0)
        before = world.target(BEAT, [follower.name])
        for name in ("one", "two", "three"):  # each by a sweep of its own
            world.legacy("UPDATE authors SET name = %s WHERE id = 1", [name])
            wait_for(lambda name=name: world.target("SELECT name FROM shop.writer WHERE id = 1") == [(name,)])
        wait_for(lambda: world.target(BEAT, [follower.name]) > before)
        assert world.legacy(LONGEST)[0][0] < 2  # it has been held for longer
        assert world.legacy(WAITING)[0][0] <= 4
        assert world.legacy(SESSIONS)[0][0] <= 8
        assert follower.failures == {}
        held.rollback()
        world.legacy(EDIT, ("after", key))
        wait_for(lambda: world.target(HEADER, [key]) == [("after",)])


@pytest.mark.hazard(73)
def test_a_poll_that_hangs_silences_no_other_entity(world, monkeypatch):
    """By the follower's own account of when polls got on last."""
    follower = Follower([world.context("text").entity, WRITER], world.stores)
    world.target("UPDATE sync.cursor SET owner = NULL, lease_until = NULL")
    follower._leases = {name: Lease.take(world.stores, name, follower.name) for name in ("text", "writer")}
    follower._moved = {"text": time.monotonic() - module.HANG_SECONDS - 1, "writer": time.monotonic()}
    world.target("UPDATE sync.cursor SET lease_until = now() - interval '1 s'")
    follower._beat()
    assert len(world.target(BEAT, [follower.name])) == 1
    renewed = "SELECT entity FROM sync.cursor WHERE lease_until > now()"
    assert world.target(renewed) == [("writer",)]
    world.target("DELETE FROM sync.heartbeat")
    follower._moved["writer"] = follower._any_moved = follower._moved["text"]  # nothing of it moves any more
    follower._beat()
    assert world.target(BEAT, [follower.name]) == []
    world.target("UPDATE sync.cursor SET owner = NULL, lease_until = NULL")
