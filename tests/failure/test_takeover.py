"""Who takes over from a follower that was killed does so at once, and never from one that lives."""

import multiprocessing
import os

import pyarrow as pa
import pytest

from sync_pipeline.errors import LeaseLostError
from sync_pipeline.ledger.cursor import Lease, state_of
from sync_pipeline.queue import due
from sync_pipeline.run import heartbeat
from sync_pipeline.run.capture import open_cursor
from tests.world import wait_for

OWNER = "SELECT owner FROM sync.cursor WHERE entity = 'text'"
NOT_FOR_LONG = 8  # seconds: a lease lasts 15, a claim 120


@pytest.fixture(scope="module")
def world(fresh_world):
    fresh_world.load(60, 0)
    fresh_world.all_in("text")
    return fresh_world


@pytest.fixture
def context(world):
    yield world.context("text")
    world.target("UPDATE sync.cursor SET owner = NULL, lease_until = NULL")
    world.target("DELETE FROM sync.heartbeat")


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    process.join()
    return process.pid


def holds_the_lease(world, context, pid, host):
    assert Lease.take(context.stores, "text", "other")
    world.target("INSERT INTO sync.heartbeat (name, host, pid) VALUES ('other', %s, %s)", (host, pid))


@pytest.mark.hazard(49)
def test_a_lease_of_a_killed_follower_is_taken_at_once(world, context, dead):
    holds_the_lease(world, context, dead, heartbeat.here())
    with world.following([context]) as ours:
        wait_for(lambda: world.target(OWNER) == [(ours.name,)], NOT_FOR_LONG)


def test_a_lease_of_a_living_follower_is_left_alone(world, context):
    holds_the_lease(world, context, os.getppid(), heartbeat.here())
    heartbeat.free_leases_of_the_gone(context.stores)
    assert world.target(OWNER) == [("other",)]


def test_a_process_that_only_has_its_number_is_not_it(world, context):
    holds_the_lease(world, context, os.getppid(), heartbeat.here())
    another = heartbeat.started_ticks(os.getppid()) - 1
    world.target("UPDATE sync.heartbeat SET started_ticks = %s", [another])
    heartbeat.free_leases_of_the_gone(context.stores)
    assert world.target(OWNER) == [(None,)]


@pytest.mark.hazard(103)
@pytest.mark.parametrize("step", ["2 seconds", "1 hour", "-1 hour"])
def test_a_step_of_the_servers_clock_makes_no_living_follower_look_gone(world, context, step):
    assert Lease.take(context.stores, "text", "other")
    heartbeat.beat(context.stores, "other")
    shifted = "UPDATE sync.heartbeat SET started_at = started_at - %s::interval, seen_at = seen_at - %s::interval"
    world.target(shifted, [step, step])
    assert not heartbeat.last_heartbeats(context.stores)["other"].is_gone
    heartbeat.free_leases_of_the_gone(context.stores)
    assert world.target(OWNER) == [("other",)]


@pytest.mark.hazard(104)
@pytest.mark.parametrize(("guards_off", "is_taken"), [("", True), ("104", False)])
def test_a_lease_from_before_the_servers_clock_was_set_back_is_free(world, context, monkeypatch, guards_off, is_taken):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", guards_off)
    assert Lease.take(context.stores, "text", "other")
    world.target("UPDATE sync.cursor SET lease_until = lease_until + interval '1 hour' WHERE entity = 'text'")
    assert (Lease.take(context.stores, "text", "me") is not None) == is_taken


def test_a_lease_that_ran_out_early_is_taken_and_its_holder_refused(world, context):
    """The server's clock was set forward: the epoch keeps the former holder from moving the cursor."""
    first = Lease.take(context.stores, "text", "other")
    world.target("UPDATE sync.cursor SET lease_until = lease_until - interval '1 hour' WHERE entity = 'text'")
    assert Lease.take(context.stores, "text", "me").epoch == first.epoch + 1
    with pytest.raises(LeaseLostError):
        first.renew(context.stores)


@pytest.mark.parametrize("ticks", [None, 0], ids=["of an older version", "with another start"])
def test_no_process_is_killed_that_may_be_another(ticks):
    last_heartbeat = heartbeat.LastHeartbeat(heartbeat.here(), os.getpid(), ticks)
    assert last_heartbeat.kill() == (ticks is not None)  # or this test would not go on


def test_a_lease_of_another_container_is_left_alone(world, context, dead, monkeypatch):
    """Its process numbers say nothing here, though it may have this host's name."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "readlink", lambda _: "pid:[another]")
        heartbeat.here.cache_clear()
        holds_the_lease(world, context, dead, heartbeat.here())
    heartbeat.here.cache_clear()
    heartbeat.free_leases_of_the_gone(context.stores)
    assert world.target(OWNER) == [("other",)]


def test_a_lease_that_could_not_be_given_back_is_taken_again(context):
    first = Lease.take(context.stores, "text", "me")
    again = Lease.take(context.stores, "text", "me")
    assert again.epoch == first.epoch + 1
    assert Lease.take(context.stores, "text", "other") is None


@pytest.mark.hazard(49)
def test_what_a_killed_worker_had_claimed_is_done_at_once(world, context):
    ((key,),) = world.legacy("SELECT min(id) FROM content WHERE kind = 'text'")
    with context.stores.target() as cursor:
        due.owe_delivery(cursor, "text", "search", pa.array([str(key)]), 0)
    with world.following([context]):
        wait_for(lambda: world.target("SELECT 1 FROM sync.due") == [], NOT_FOR_LONG)


def test_a_first_window_is_taken_under_a_lease_of_somebody_else(world, context):
    """Who fills history may not read before there is one, whoever is about to follow."""
    world.target("UPDATE sync.cursor SET state = NULL WHERE entity = 'text'")
    assert Lease.take(context.stores, "text", "other")
    open_cursor(context)
    state = state_of(context.stores, "text")
    assert state is not None
    open_cursor(context)
    assert state_of(context.stores, "text") == state
