"""Which servers both sides are on: another one is refused, a restarted one swept, and clocks that step certify nothing.

The servers stay as they are: what the ledger has recorded of them is changed instead.
"""

import datetime as dt
import json
import os
import signal
import sys
import threading
from contextlib import closing, suppress
from dataclasses import replace

import psycopg2
import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.cli import entry
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import OtherServerError, UnreachableError
from sync_pipeline.ledger.cursor import Lease
from sync_pipeline.ledger.ledger import next_revision
from sync_pipeline.ledger.servers import read_server
from sync_pipeline.operate.drain import drain
from sync_pipeline.operate.status import status_of
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.queue import due
from sync_pipeline.run import sweep as sweeping
from sync_pipeline.run.live import caught_up, mark
from sync_pipeline.run.sweep import sweep
from sync_pipeline.run.sweep_requests import sweep_is_due
from sync_pipeline.stores import servers
from sync_pipeline.stores.servers import replica_faults
from tests.newsroom import leave_out_the_sweep
from tests.world import opened, wait_for

SETTINGS = {"SYNC_SWEEP_SECONDS": "1e9", "SYNC_MARGIN_SECONDS": "0.2"}
RECORDED = "SELECT system_id, database_name, timeline, cause FROM sync.server WHERE side = %s"


@pytest.fixture(scope="module")
def world(fleet):
    with opened(fleet, "servers", **SETTINGS) as world:
        world.load(80, 0)
        for name in world.contexts:
            world.all_in(name)
        world.target("UPDATE sync.cursor SET filled_at = now()")
        leave_out_the_sweep(world)
        yield world


@pytest.fixture(autouse=True)
def as_it_is(world):
    """The servers as they are, recorded anew."""
    yield
    world.target("DELETE FROM sync.server")
    world.target("DELETE FROM sync.recovery")
    world.stores.servers.recovers = False
    world.stores.servers.monolith = None
    world.stores.confirm_servers()


@pytest.fixture
def context(world):
    return world.contexts["text"]


def swept(world):
    return world.target(
        "SELECT count(*) FROM sync.cursor WHERE swept_from IS NULL AND compared_from IS NULL"
        " AND sweep_wanted IS NOT NULL"
    )


@pytest.mark.hazard(109)
@pytest.mark.parametrize(("side", "setting"), [("monolith", "SYNC_LEGACY_DB"), ("new-side", "SYNC_TARGET_DB")])
@pytest.mark.parametrize("other", ["system_id = '7'", "database_oid = 7", "timeline = 7"])
def test_another_server_is_refused_by_name(world, context, side, setting, other):
    ((before,),) = world.target("SELECT system_id FROM sync.server WHERE side = %s", [side])
    world.target(f"UPDATE sync.server SET {other} WHERE side = %s", [side])
    with pytest.raises(OtherServerError, match=f"{setting}: another server than expected") as refused:
        EntityContext.open(context.entity, world.stores)
    assert before in str(refused.value)
    assert "sync-pipeline servers accept" in str(refused.value)
    assert "database servers" in str(refused.value)


@pytest.mark.hazard(109)
def test_no_row_is_deleted_that_another_server_does_not_hold(world, context):
    """A sweep that began at the expected server ends at another one."""
    rows = world.target("SELECT count(*) FROM catalog.text")
    world.target("UPDATE sync.server SET system_id = '7' WHERE side = 'monolith'")
    with pytest.raises(OtherServerError):
        sweep(context)
    assert world.target("SELECT count(*) FROM catalog.text") == rows
    assert world.target("SELECT count(*) FROM sync.due WHERE reason = 'sweep'") == [(0,)]


@pytest.mark.hazard(109)
def test_without_its_guard_another_server_is_read(world, context, monkeypatch):
    world.target("UPDATE sync.server SET system_id = '7' WHERE side = 'monolith'")
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "109")
    assert sweep(context).compared > 0


def command(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["sync-pipeline", *words])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    return ended.value.code, capsys.readouterr().out


@pytest.mark.hazard(109)
def test_a_person_accepts_another_server(world, context, monkeypatch, capsys):
    world.target("UPDATE sync.server SET system_id = '7'")
    assert command(monkeypatch, capsys, "servers", "list")[0] == 1
    code, told = command(monkeypatch, capsys, "servers", "accept", "--format", "json")
    assert (code, json.loads(told)["accepted"]) == (0, {"new-side": True, "monolith": True})
    assert command(monkeypatch, capsys, "servers", "list")[0] == 0
    world.stores.confirm_servers()
    assert swept(world) == [(3,)]
    alerts = str(status_of(world.stores, context.entity)["alerts"])
    assert "its server was accepted by a person" in alerts
    assert "are being compared with the ledger" in alerts
    assert json.loads(command(monkeypatch, capsys, "servers", "accept", "--format", "json")[1])["accepted"] == {
        "new-side": False,
        "monolith": False,
    }
    again = command(monkeypatch, capsys, "servers", "accept", "--side", "new-side", "--again", "--format", "json")
    assert json.loads(again[1])["accepted"] == {"new-side": True}


@pytest.mark.hazard(114)
@pytest.mark.parametrize(("off", "guard", "wanted"), [(False, True, 0), (True, True, 3), (True, False, 0)])
def test_a_restart_that_may_lose_commits_is_swept(world, context, off, guard, wanted, monkeypatch):
    """A server whose commits do not wait for its disk may come back without the last ones."""
    with world.following([context]):
        settle(world, [context])
    world.target("UPDATE sync.cursor SET swept_from = coalesce(swept_from, now()), sweep_wanted = now()")
    database = world.monolith.admin_url.rpartition("/")[2]
    world.legacy(f"ALTER DATABASE {database} SET synchronous_commit = {'off' if off else 'on'}")
    try:
        world.target("UPDATE sync.server SET started_at = '2001-01-01' WHERE side = 'monolith'")
        if not guard:
            monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "114")
        world.stores.confirm_servers()
        assert swept(world) == [(wanted,)]
    finally:
        world.legacy(f"ALTER DATABASE {database} RESET synchronous_commit")


@pytest.mark.hazard(114)
def test_a_crash_of_one_backend_counts_as_a_restart(world, context):
    """It takes all sessions and what was not yet written of the log with it, while the postmaster goes on."""
    world.target("UPDATE sync.cursor SET swept_from = coalesce(swept_from, now()), sweep_wanted = now()")
    database = world.monolith.admin_url.rpartition("/")[2]
    world.legacy(f"ALTER DATABASE {database} SET synchronous_commit = off")
    try:
        world.stores.confirm_servers()
        assert swept(world) == [(0,)]
        with closing(psycopg2.connect(world.monolith.admin_url)) as session:
            os.kill(session.info.backend_pid, signal.SIGKILL)
        wait_for(lambda: answers(world.monolith.admin_url))
        world.stores.close()
        world.stores.confirm_servers()
        assert swept(world) == [(3,)]
    finally:
        world.legacy(f"ALTER DATABASE {database} RESET synchronous_commit")
        world.stores.close()  # its sessions began while it was off


def answers(url):
    with suppress(psycopg2.OperationalError), closing(psycopg2.connect(url)):
        return True
    return False


@pytest.mark.hazard(110)
def test_a_log_that_is_shorter_than_it_was_is_a_restore(world, context):
    world.target("UPDATE sync.server SET flushed = flushed + 1000000000 WHERE side = 'monolith'")
    world.stores.confirm_servers()
    assert swept(world) == [(3,)]
    assert "set back" in world.target(RECORDED, ["monolith"])[0][3]


@pytest.mark.hazard(110)
def test_what_was_known_of_versions_is_forgotten_with_lost_commits(world, context):
    world.target("INSERT INTO sync.version (entity, key, applied) VALUES ('text', '1', 99)")
    world.target("UPDATE sync.server SET timeline = 0 WHERE side = 'monolith'")
    world.stores.confirm_servers()
    assert world.target("SELECT 1 FROM sync.version") == []


@pytest.mark.hazard(113)
@pytest.mark.parametrize("guard", [True, False])
def test_a_batch_does_not_commit_what_it_read_before_the_monolith_changed(world, context, guard, monkeypatch):
    """The change is noted by another process, between a batch's read and its commit."""
    ((key,),) = world.legacy("SELECT min(id) FROM content WHERE kind = 'text' AND deleted_at IS NULL")
    world.legacy("UPDATE content SET title = title || '!' WHERE id = %s", [key])
    write = "sync_pipeline.pipeline.write"

    def and_change(batch, outcome):
        from sync_pipeline.batch.write import write as original

        monkeypatch.undo()
        if not guard:
            monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "113")
        number = next_revision(world.stores)
        world.target("UPDATE sync.server SET read_above = %s, changed_at = now() WHERE side = 'monolith'", [number])
        return original(batch, outcome)

    monkeypatch.setattr(write, and_change)
    keys = context.origin.key.parse([str(key)])
    if guard:
        with pytest.raises(UnreachableError, match="the monolith has left"):
            sync_keys(context, keys, Order())
        wait_for(lambda: written(context, keys))
    else:
        assert sync_keys(context, keys, Order()).written == 1


@pytest.mark.hazard(113)
def test_a_process_that_still_knows_the_former_timeline_commits_nothing(world, context):
    ((key,),) = world.legacy("SELECT max(id) FROM content WHERE kind = 'text' AND deleted_at IS NULL")
    world.legacy("UPDATE content SET title = title || '?' WHERE id = %s", [key])
    before = replace(world.stores.servers.monolith, timeline=0, changed_at=dt.datetime(2001, 1, 1, tzinfo=dt.UTC))
    world.stores.servers.monolith = before
    keys = context.origin.key.parse([str(key)])
    with pytest.raises(UnreachableError, match="the monolith has left"):
        sync_keys(context, keys, Order())
    wait_for(lambda: written(context, keys))


def written(context, keys):
    """Whether a batch goes through by now: the one that first notices the change has drawn its number before."""
    with suppress(UnreachableError):
        return sync_keys(context, keys, Order()).written


@pytest.mark.hazard(115)
def test_a_replica_of_another_timeline_is_refused(world):
    with world.stores.legacy() as cursor:
        primary = read_server(cursor)
    assert replica_faults(primary, primary) == ""
    for timeline in (primary.timeline - 1, primary.timeline + 1):
        assert f"on timeline {timeline}" in replica_faults(primary, replace(primary, timeline=timeline))


def test_the_servers_tell_the_reader_who_they_are(world):
    """No right is needed but to connect."""
    with world.stores.legacy() as cursor:
        server = read_server(cursor)
        cursor.execute("SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user")
        assert cursor.fetchone() == ("sync_reader", False)
    assert (server.name, server.in_recovery, server.timeline, server.may_lose) == ("servers", False, 1, False)


def settle(world, contexts):
    since = mark(contexts)
    wait_for(lambda: all(caught_up(context, since) for context in contexts))


AHEAD = dt.timedelta(hours=1)


@pytest.mark.hazard(108)
@pytest.mark.parametrize("guard", [True, False])
def test_a_clock_that_ran_ahead_certifies_nothing(world, context, guard, monkeypatch):
    """What was claimed by the monolith's fast clock is no claim for those who wait now: nothing follows."""
    now = world.stores.legacy_now()
    world.target("UPDATE sync.cursor SET applied_through = %s, swept_from = %s", [now + AHEAD, now + AHEAD])
    world.target("DELETE FROM sync.due")
    if not guard:
        monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "108")
    found = drain([context], 0, threading.Event())
    assert found.verdict == ("unknown" if guard else "drained")
    since = mark([context])
    assert caught_up(context, since) is not guard


@pytest.mark.hazard(108)
def test_a_claim_of_a_poll_that_was_under_way_is_not_believed(world, context):
    since = mark([context])
    claim = world.stores.legacy_now() + AHEAD
    world.target("UPDATE sync.cursor SET applied_through = %s, swept_from = %s", [claim, claim])
    world.target("DELETE FROM sync.due")
    assert not caught_up(context, since)
    with world.following([context]):
        settle(world, [context])


@pytest.mark.hazard(108)
def test_what_is_applied_goes_back_with_the_clock_and_never_passes_now(world, context):
    world.target("UPDATE sync.cursor SET applied_through = %s", [world.stores.legacy_now() + AHEAD])
    with world.following([context]):
        query = "SELECT applied_through FROM sync.cursor WHERE entity = 'text'"
        wait_for(lambda: world.target(query)[0][0] < world.stores.legacy_now())


@pytest.mark.hazard(108)
def test_claims_of_the_former_clock_are_taken_back_within_seconds(world, context):
    """A sweep that was under way at the step has noted a beginning that lies in the future, and so has its request."""
    future = world.stores.legacy_now() + AHEAD
    world.target(
        "UPDATE sync.cursor SET swept_from = %(t)s, compared_from = %(t)s, gap_at = %(t)s, sweep_wanted = %(t)s,"
        " applied_through = %(t)s",
        {"t": future},
    )
    world.target("UPDATE sync.server SET seen_at = %s WHERE side = 'monolith'", [future])
    world.stores.confirm_servers()
    ((claim,),) = world.target(
        "SELECT max(greatest(swept_from, compared_from, gap_at, sweep_wanted, applied_through)) FROM sync.cursor"
    )
    assert claim <= world.stores.legacy_now()
    with world.following([context]):
        settle(world, [context])
    assert not status_of(world.stores, context.entity)["gap"]


@pytest.mark.hazard(108)
def test_a_walk_that_began_by_the_former_clock_certifies_nothing_beyond_the_set_back(world, context, monkeypatch):
    begin, compare, asked = sweeping.sweeps.begin, sweeping.compare_listing, []

    def ahead(stores, walk, began_at, *rest, **options):
        begin(stores, walk, began_at + AHEAD, *rest, **options)

    def asking(*page):
        """The clock was set back after the walk began, and a sweep is asked for before that ends."""
        asked.append(mark([context]))
        return compare(*page)

    monkeypatch.setattr(sweeping.sweeps, "begin", ahead)
    monkeypatch.setattr(sweeping, "compare_listing", asking)
    sweep(context)
    ((swept_from,),) = world.target("SELECT swept_from FROM sync.cursor WHERE entity = 'text'")
    assert swept_from < asked[-1]
    assert sweep_is_due(context)


@pytest.mark.hazard(112)
def test_a_lease_from_before_the_new_side_s_clock_was_set_back_has_run_out(world):
    def lease(until):
        world.target(
            "UPDATE sync.cursor SET owner = 'gone', lease_until = now() + %s * interval '1 s' WHERE entity = 'text'",
            [until],
        )
        return Lease.take(world.stores, "text", "successor")

    assert lease(14) is None
    taken = lease(3600)
    assert taken is not None
    taken.give_back(world.stores)


@pytest.mark.hazard(112)
@pytest.mark.parametrize("guard", [True, False])
def test_what_is_due_does_not_wait_for_the_new_side_s_former_clock(world, context, guard, monkeypatch):
    if not guard:
        monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "112")
    world.target("DELETE FROM sync.due")
    with world.stores.target() as cursor:
        due.owe(cursor, "text", "documents", ["1"], 0)
    hour = "interval '1 hour'"
    world.target(f"UPDATE sync.due SET first_at = now() + {hour}, last_at = now() + {hour}")
    world.target(f"UPDATE sync.due SET not_before = last_at + interval '1 s', claimed_until = now() + {hour}")
    world.target(f"UPDATE sync.server SET seen_at = now() + {hour} WHERE side = 'new-side'")
    world.stores.confirm_servers()
    query = "SELECT not_before <= now() + interval '1 s' AND claimed_until IS NULL FROM sync.due"
    assert world.target(query) == [(guard,)]
    world.target("DELETE FROM sync.due")


def test_a_look_at_a_server_is_not_repeated_within_seconds(world, monkeypatch):
    looks = []
    monkeypatch.setattr(servers.ledger, "read_server", lambda cursor: looks.append(1) or read_server(cursor))
    world.stores.confirm_servers()
    first = len(looks)
    for _ in range(20):
        world.stores.legacy_now()
        next_revision(world.stores)
    assert first >= 2
    assert len(looks) - first <= 2  # other connections of the pools


@pytest.mark.hazard(150)
@pytest.mark.parametrize(
    ("before", "noted"),
    [
        ("timeline = 0", "SELECT count(*) > 0 FROM sync.recovery"),
        ("seen_at = now() + interval '1 hour'", "SELECT seen_at < now() FROM sync.server WHERE side = 'new-side'"),
    ],
)
def test_what_a_connection_notes_before_its_use_bears_the_release(world, before, noted):
    """The ledger refuses former releases, and takes a session that says none for one of them."""
    ((oldest,),) = world.target("SELECT oldest_writer FROM sync.ledger_identity")
    assert oldest > 0
    world.target(f"UPDATE sync.server SET {before} WHERE side = 'new-side'")
    world.stores.target_engine.dispose()  # a session that was in use before bears the release already
    with world.stores.target() as cursor:
        cursor.execute("SELECT 1")
    assert world.target(noted) == [(True,)]
