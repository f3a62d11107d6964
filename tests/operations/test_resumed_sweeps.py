"""Sweeps of many pages: cut off and gone on with, leased, held by the brake and approved."""

import dataclasses
import multiprocessing
import os
import signal
import threading
from contextlib import closing, contextmanager, suppress
from functools import partial

import pytest

from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.files import load_entities
from sync_pipeline.entities.origin import Origin
from sync_pipeline.errors import BrakeError, LeaseLostError
from sync_pipeline.ledger import sweeps
from sync_pipeline.ledger.ledger import next_revision
from sync_pipeline.model.faults import SWEEP_CRASH_POINTS
from sync_pipeline.operate.status import status_of
from sync_pipeline.queue import swept_keys
from sync_pipeline.run import live, rewritten_files
from sync_pipeline.run import sweep as sweeping
from sync_pipeline.run.background import in_background
from sync_pipeline.run.follower import Follower
from sync_pipeline.run.heartbeat import free_leases
from sync_pipeline.run.sweep import go_on, sweep
from sync_pipeline.run.sweep_requests import ask_for_sweep, is_swept, sweep_is_due
from sync_pipeline.settings import Settings
from sync_pipeline.stores.stores import Stores
from tests.halts import After
from tests.world import wait_for

PAGE = 10
ROWS = "SELECT id FROM content WHERE kind = 'text' AND deleted_at IS NULL ORDER BY id"
QUEUED = "SELECT k::bigint FROM sync.due, unnest(keys) k WHERE reason = 'sweep' ORDER BY 1"
STAGED = "SELECT k::bigint FROM sync.sweep_gone, unnest(keys) k ORDER BY 1"
WHOLE = "SELECT 1 FROM sync.cursor WHERE entity = 'text' AND swept_from IS NOT NULL"
SHIFT = "UPDATE content SET title = title || '!' WHERE id = ANY(%s)"  # without a stamp: no source tells


@pytest.fixture(scope="module")
def filled(world):
    world.load(300, 0)
    world.all_in("text")
    world.target("UPDATE sync.cursor SET filled_at = now()")
    return world


@pytest.fixture
def context(filled, monkeypatch):
    """An entity at rest, of some ten pages."""
    monkeypatch.setattr(sweeping, "_PAGE", PAGE)
    context = filled.context("text")
    sweep(context)
    settle(context)
    yield context
    context = filled.context("text")
    filled.target("DELETE FROM sync.sweep_approval")
    monkeypatch.undo()
    with closing(Stores(dataclasses.replace(context.stores.settings, brake_fraction=1.0))) as stores:
        sweep(dataclasses.replace(context, stores=stores))
    settle(context)
    assert filled.target("SELECT count(*) FROM sync.due") == [(0,)]


def settle(context):
    while live.work(context, lambda *_: None):
        pass


class Acts(threading.Event):
    """Never set; at one of the looks something happens."""

    def __init__(self, look, act):
        super().__init__()
        self.left, self.act = look, act

    def is_set(self):
        self.left -= 1
        if self.left == 0:
            self.act()
        return False


def keys(world):
    return [key for (key,) in world.legacy(ROWS)]


def remove(world, chosen):
    """Hard deletes."""
    world.legacy("DELETE FROM content WHERE id = ANY(%s)", [list(chosen)])


def count_pages(monkeypatch):
    """Positions after which pages of legacy keys were asked for."""
    asked, digests = [], Origin.digests
    monkeypatch.setattr(
        Origin, "digests", lambda self, after, limit: asked.append(after) or digests(self, after, limit)
    )
    return asked


def looks_until_it_ends(context, pages):
    """How many runs it takes, each of which is cut off after so many looks at the event."""
    for run in range(1, 40):
        if go_on(context, After(pages)) is not None:
            return run
    return None


@pytest.mark.hazard(77)
def test_a_sweep_that_is_cut_off_all_the_time_ends(filled, context, monkeypatch):
    """Each run does a few pages; none is read twice, and the hard delete on the last page is found."""
    victim, edited = keys(filled)[-1], keys(filled)[0]
    remove(filled, [victim])
    filled.legacy(SHIFT, [[edited]])
    pages = count_pages(monkeypatch)
    assert looks_until_it_ends(context, 5) > 3
    assert len(pages) == len({tuple(after or ()) for after in pages}) > len(keys(filled)) // PAGE
    assert filled.target(QUEUED) == [(edited,), (victim,)]
    settle(context)
    assert filled.target("SELECT 1 FROM catalog.text WHERE id = %s", (victim,)) == []


@pytest.mark.hazard(82)
def test_a_walk_in_which_the_history_came_in_is_followed_by_another_at_once(filled, context):
    """It took rows that the backfill had yet to write for rows without a need to be written, so it does not count."""
    filled.target("UPDATE sync.cursor SET filled_at = NULL, swept_from = NULL, swept_at = NULL")
    walked = go_on(context, Acts(3, lambda: filled.target("UPDATE sync.cursor SET filled_at = now()")))
    assert walked.compared == len(keys(filled))
    assert filled.target(WHOLE) == []
    assert sweep_is_due(context)
    assert go_on(context, threading.Event()) is not None
    assert filled.target(WHOLE) == [(1,)]
    assert not sweep_is_due(context)


@pytest.mark.hazard(77)
def test_without_its_guard_it_never_ends(filled, context, monkeypatch):
    victim = keys(filled)[-1]
    remove(filled, [victim])
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "77")
    assert looks_until_it_ends(context, 5) is None
    assert filled.target("SELECT 1 FROM catalog.text WHERE id = %s", (victim,)) != []


def _sweep_once(settings, point):
    os.environ |= {"SYNC_TEST_CRASH_AT": point}
    sweeping._PAGE = PAGE
    with closing(Stores(settings)) as stores:
        stores.worker = "killed"
        sweep(EntityContext.open(load_entities("assets.entities")["text"], stores))


@pytest.mark.hazard(77)
def test_killed_at_every_boundary_it_goes_on_elsewhere(filled, context):
    processes = multiprocessing.get_context("forkserver")
    for n, point in enumerate(SWEEP_CRASH_POINTS):
        *_, edited, victim = keys(filled)[n:]
        remove(filled, [victim])
        filled.legacy(SHIFT, [[edited]])
        nth = ":3" if "page" in point else ""
        process = processes.Process(target=_sweep_once, args=(context.stores.settings, point + nth))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        free_leases(context.stores, "killed")
        if point != SWEEP_CRASH_POINTS[-1]:
            sweep(context)
        assert filled.target(QUEUED) == [(edited,), (victim,)], point
        settle(context)
        assert filled.target("SELECT 1 FROM catalog.text WHERE id = %s", (victim,)) == []


def _run(follower, stop, _):
    follower.run(stop)


@pytest.mark.hazard(77)
def test_a_follower_that_is_replaced_every_few_pages_sweeps_all_the_same(filled, context, monkeypatch):
    victim = keys(filled)[-1]
    remove(filled, [victim])
    ask_for_sweep(context, context.stores.legacy_now())
    stop, digests, asked = threading.Event(), Origin.digests, []

    def counted(self, after, limit):
        asked.append(after)
        if len(asked) % 3 == 0:
            stop.set()
        return digests(self, after, limit)

    monkeypatch.setattr(Origin, "digests", counted)
    for _ in range(20):
        if not sweep_is_due(context):
            break
        stop.clear()
        follower = Follower([context.entity], context.stores, name="of this run")
        with in_background(partial(_run, follower, stop), "follower"):
            wait_for(lambda: stop.is_set() or not sweep_is_due(context))
            stop.set()
    assert not sweep_is_due(context)
    assert len(asked) <= len(keys(filled)) // PAGE + 8
    settle(context)
    assert filled.target("SELECT 1 FROM catalog.text WHERE id = %s", (victim,)) == []


@pytest.mark.hazard(78)
def test_what_is_gone_becomes_due_when_the_walk_has_ended(filled, context):
    victim = keys(filled)[0]
    remove(filled, [victim])
    assert go_on(context, After(3)) is None
    assert (filled.target(QUEUED), filled.target(STAGED)) == ([], [(victim,)])
    sweep(context)
    assert (filled.target(QUEUED), filled.target(STAGED)) == ([(victim,)], [])


def held(context, gone=20):
    """Many hard deletes, a sweep that the brake holds, and the entity as its follower has it."""
    stores = Stores(dataclasses.replace(context.stores.settings, brake_rows=5, brake_fraction=0.05))
    return dataclasses.replace(context, stores=stores, origin=dataclasses.replace(context.origin, stores=stores))


@pytest.mark.hazard(78)
@pytest.mark.parametrize("guards", ["", "78"])
def test_the_brake_sees_all_pages_before_anything_is_deleted(filled, context, monkeypatch, guards):
    strict, doomed, edited = held(context), keys(filled)[:20], keys(filled)[-1]
    remove(filled, doomed)
    filled.legacy(SHIFT, [[edited]])
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", guards)
    with pytest.raises(BrakeError, match=r"20 of \d+ rows are gone.*sweep approve text"):
        sweep(strict)
    queued = [key for (key,) in filled.target(QUEUED)]
    assert queued == ([*doomed, edited] if guards else [edited])
    strict.stores.close()


@pytest.mark.hazard(79)
def test_an_approval_counts_for_one_sweep_and_needs_no_second_walk(filled, context, monkeypatch, command):
    strict, doomed = held(context), keys(filled)[:20]
    assert "holds no sweep" in command("sweep", "approve", "text", "--reason", "none")[2]
    remove(filled, doomed)
    with pytest.raises(BrakeError):
        sweep(strict)
    assert not sweep_is_due(strict)  # made again after SYNC_SWEEP_SECONDS, not all the time
    assert any("are gone from the monolith" in alert for alert in status_of(context.stores, context.entity)["alerts"])
    assert "not 19" in command("sweep", "approve", "text", "--rows", "19", "--reason", "cleared out")[2]
    assert not sweep_is_due(strict)
    code, out, _ = command("sweep", "approve", "text", "--rows", "20", "--reason", "cleared out", "--by", "ann")
    assert (code, out.split(".")[0]) == (0, "20 rows of text may be deleted, once")
    assert sweep_is_due(strict)
    pages = count_pages(monkeypatch)
    assert sweep(strict).gone == 20
    assert pages == []
    assert [key for (key,) in filled.target(QUEUED)] == doomed
    used = "SELECT gone, approved_by, reason, outcome FROM sync.sweep_approval ORDER BY id DESC LIMIT 1"
    assert filled.target(used) == [(20, "ann", "cleared out", "used")]
    assert status_of(context.stores, context.entity)["alerts"] == []
    settle(context)
    remove(filled, keys(filled)[:20])
    with pytest.raises(BrakeError):
        sweep(strict)
    strict.stores.close()


@pytest.mark.hazard(79)
def test_an_approval_covers_no_more_than_was_seen(filled, context):
    strict, doomed = held(context), keys(filled)[:20]
    remove(filled, doomed[:8])
    with pytest.raises(BrakeError):
        sweep(strict)
    remove(filled, doomed)
    assert go_on(strict, After(2)) is None  # it is being made again
    filled.target("INSERT INTO sync.sweep_approval (entity, gone, approved_by, reason) VALUES ('text', 8, 'a', 'b')")
    with pytest.raises(BrakeError, match=r"20 of .* and 8 were approved"):
        sweep(strict)
    assert filled.target(QUEUED) == []
    assert not sweep_is_due(strict)
    strict.stores.close()


@contextmanager
def hidden(world, chosen):
    """Rows that look deleted until the end of the block."""
    mark = "UPDATE content SET deleted_at = %s WHERE id = ANY(%s)"
    world.legacy(mark, ["-infinity", list(chosen)])
    try:
        yield
    finally:
        world.legacy(mark, [None, list(chosen)])


@pytest.mark.hazard(79)
@pytest.mark.parametrize("guards", ["", "79"])
def test_what_was_approved_deletes_nothing_of_another_mass_delete(filled, context, monkeypatch, guards):
    strict, everything = held(context), keys(filled)
    first, second = everything[:20], everything[20:40]
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", guards)
    with hidden(filled, first):
        with pytest.raises(BrakeError):
            sweep(strict)
        with context.stores.target() as cursor:
            sweeps.approve(cursor, "text", "ann", "cleared out")
        assert sweep(strict).gone == 20
        settle(context)
        with hidden(filled, second):
            with suppress(BrakeError):
                sweep(strict)
            settle(context)
            left = filled.target("SELECT id FROM catalog.text WHERE id = ANY(%s) ORDER BY id", [everything[:40]])
            assert [key for (key,) in left] == ([] if guards else second)
    strict.stores.close()


@pytest.mark.hazard(80)
def test_a_walk_under_another_version_starts_over(filled, context, monkeypatch):
    victim = keys(filled)[0]
    remove(filled, [victim])
    assert go_on(context, After(4)) is None
    other = dataclasses.replace(
        context.entity, origin=dataclasses.replace(context.entity.origin, sql=context.origin.sql + " ")
    )
    changed = EntityContext.open(other, context.stores)
    before, pages = filled.target("SELECT number FROM sync.sweep WHERE entity = 'text'")[0][0], count_pages(monkeypatch)
    assert go_on(changed, After(2)) is None
    assert pages == [None]
    assert filled.target("SELECT number FROM sync.sweep WHERE entity = 'text'") == [(before + 1,)]
    assert filled.target(STAGED) == [(victim,)]  # once
    assert sweep(changed).gone == 1


@pytest.mark.hazard(80)
def test_without_its_guard_pages_of_two_versions_make_a_walk(filled, context, monkeypatch):
    """What the first pages would have shown under the new query is never looked at."""
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "80")
    assert go_on(context, After(4)) is None
    other = dataclasses.replace(
        context.entity, origin=dataclasses.replace(context.entity.origin, sql=context.origin.sql + " ")
    )
    pages = count_pages(monkeypatch)
    sweep(EntityContext.open(other, context.stores))
    assert pages[0] is not None


@pytest.mark.hazard(80)
def test_a_walk_at_another_server_or_timeline_starts_over(filled, context, monkeypatch):
    assert go_on(context, After(4)) is None
    pages = count_pages(monkeypatch)
    monkeypatch.setattr(sweeping, "_server", lambda _: ["7", 2])
    assert go_on(context, After(2)) is None
    assert pages == [None]
    monkeypatch.undo()


@pytest.mark.hazard(81)
def test_two_never_sweep_one_entity_at_once(filled, context):
    """Who comes back from a long pause writes nothing more, and nobody waits for its lease for ever."""
    victim = keys(filled)[0]
    remove(filled, [victim])
    frozen = sweeps.take(context.stores, "text", 1)
    assert go_on(context, threading.Event()) is None
    filled.target("UPDATE sync.sweep SET lease_until = now() - interval '1 s' WHERE entity = 'text'")
    found = sweep(context)
    assert (found.gone, filled.target(QUEUED)) == (1, [(victim,)])
    with pytest.raises(LeaseLostError):
        _stage_under(context.stores, frozen)
    assert filled.target(STAGED) == []
    sweeps.give_back(context.stores, frozen)  # of an epoch that is over


@pytest.mark.hazard(81)
@pytest.mark.parametrize("guards", ["", "81"])
def test_one_that_comes_back_ends_no_sweep_of_another(filled, context, monkeypatch, guards):
    """The other one has compared some pages only: their deletes would pass by the brake, and the rest would count."""
    strict, doomed = held(context), keys(filled)[:20]
    frozen = sweeps.take(context.stores, "text", 1)
    filled.target("UPDATE sync.sweep SET lease_until = now() - interval '1 s' WHERE entity = 'text'")
    since = context.stores.legacy_now()
    with hidden(filled, doomed):
        assert go_on(strict, After(4)) is None
        monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", guards)
        with suppress(LeaseLostError):
            sweeping._end(strict, frozen, next_revision(context.stores))
        assert [key for (key,) in filled.target(QUEUED)] == (doomed if guards else [])
        counts = "SELECT swept_from >= %s FROM sync.cursor WHERE entity = 'text'"
        assert filled.target(counts, [since]) == [(bool(guards),)]
    strict.stores.close()


def _stage_under(stores, walk):
    with stores.target() as cursor:
        swept_keys.stage_deleted(cursor, walk.entity, ["9"])
        sweeps.move(cursor, walk)


@pytest.mark.hazard(81)
def test_places_are_few_and_taken_in_turn(filled, context):
    first = sweeps.take(context.stores, "text", 1)
    assert sweeps.take(context.stores, "video", 1) is None
    assert sweeps.take(context.stores, "audio", 1) is None
    assert sweeps.others_wait(context.stores, "text")
    sweeps.give_back(context.stores, first)
    assert sweeps.take(context.stores, "text", 1) is None  # the others wait for longer
    assert sweeps.take(context.stores, "audio", 1) is None
    second = sweeps.take(context.stores, "video", 1)
    assert second is not None
    third = sweeps.take(context.stores, "audio", 2)
    assert third is not None
    for walk in (second, third):
        sweeps.give_back(context.stores, walk)
    filled.target("DELETE FROM sync.sweep WHERE entity IN ('video', 'audio')")


@pytest.mark.hazard(112)
def test_leases_and_waits_from_before_the_new_side_s_clock_was_set_back_are_over(filled, context):
    """Those of killed sweepers would hold their entities, and the few places, for as long as the clock has lost."""
    later = "now() + interval '1 h'"
    filled.target(f"UPDATE sync.sweep SET owner = 'gone', lease_until = {later} WHERE entity = 'text'")
    filled.target(f"INSERT INTO sync.sweep (entity, owner, lease_until) VALUES ('video', 'gone', {later})")
    filled.target(f"INSERT INTO sync.sweep (entity, waits_since, waits_until) VALUES ('audio', '2001-01-01', {later})")
    try:
        walk = sweeps.take(context.stores, "text", 1)
        assert walk is not None
        assert not sweeps.others_wait(context.stores, "text")
        assert sweeps.take(context.stores, "video", 1) is None  # the only place is taken
        sweeps.give_back(context.stores, walk)
    finally:
        filled.target("DELETE FROM sync.sweep WHERE entity IN ('video', 'audio')")


@pytest.mark.hazard(81)
def test_a_long_sweep_gives_its_place_to_who_waits(filled, context, monkeypatch):
    monkeypatch.setattr(sweeping, "_TURN_SECONDS", 0.0)
    filled.target(
        "INSERT INTO sync.sweep (entity, waits_since, waits_until) VALUES ('video', now(), now() + interval '1 min')"
    )
    ask_for_sweep(context, context.stores.legacy_now())
    walk = sweeps.take(context.stores, "text", 9)
    assert walk is None  # one waits that came before
    filled.target("UPDATE sync.sweep SET waits_since = now() + interval '1 h' WHERE entity = 'video'")
    assert go_on(context, threading.Event()) is None
    filled.target("DELETE FROM sync.sweep WHERE entity = 'video'")
    assert sweep(context).compared == len(keys(filled))


@pytest.mark.hazard(82)
def test_without_its_guard_it_is_taken_for_the_answer(filled, context, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "82")
    assert go_on(context, After(3)) is None
    ask_for_sweep(context, context.stores.legacy_now())
    sweep(context)
    assert not sweep_is_due(context)
    monkeypatch.delenv("SYNC_TEST_GUARDS_OFF")
    assert sweep_is_due(context)
    sweep(context)


@pytest.mark.hazard(82)
def test_a_sweep_that_began_before_it_was_asked_for_is_no_answer(filled, context):
    assert go_on(context, After(3)) is None
    since = context.stores.legacy_now()
    ask_for_sweep(context, since)
    sweep(context)
    assert sweep_is_due(context)
    assert not is_swept(context, since)
    sweep(context)
    assert not sweep_is_due(context)
    assert is_swept(context, since)


@pytest.mark.hazard(82)
def test_who_asks_in_mid_sweep_is_served_by_a_follower(filled, context):
    assert go_on(context, After(3)) is None
    since = context.stores.legacy_now()
    ask_for_sweep(context, since)
    with filled.following([context]):
        wait_for(lambda: is_swept(context, since))


def test_a_page_of_the_ledger_is_no_longer_than_one_of_the_monolith(filled, context, monkeypatch):
    """All rows are gone but one: the one legacy page spans the whole ledger, which is gone through in pieces."""
    everything = keys(filled)
    filled.legacy("CREATE TABLE kept AS SELECT * FROM content")
    remove(filled, everything[:-1])
    staged = []
    stage_deleted = swept_keys.stage_deleted
    monkeypatch.setattr(swept_keys, "stage_deleted", lambda *args: staged.append(len(args[2])) or stage_deleted(*args))
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "32")
    found = sweep(context)
    assert (found.gone, found.compared, found.changed) == (len(everything) - 1, 1, 0)
    assert max(staged) <= PAGE
    assert [key for (key,) in filled.target(QUEUED)] == everything[:-1]
    monkeypatch.delenv("SYNC_TEST_GUARDS_OFF")
    settle(context)
    filled.legacy("INSERT INTO content OVERRIDING SYSTEM VALUE SELECT * FROM kept ON CONFLICT DO NOTHING")
    filled.legacy("DROP TABLE kept")


def test_rows_that_go_while_a_page_is_read_do_not_end_the_walk(filled, context, monkeypatch):
    """A page that was read in halves may be short, though more rows follow."""
    digests = Origin.digests
    monkeypatch.setattr(Origin, "digests", lambda self, after, limit: digests(self, after, limit).slice(0, limit - 1))
    found = sweep(context)
    assert (found.compared, found.gone) == (len(keys(filled)), 0)


def test_what_an_earlier_sweep_queued_is_not_queued_twice(filled, context):
    edited, victim = keys(filled)[:2]
    filled.legacy(SHIFT, [[edited]])
    remove(filled, [victim])
    for _ in range(3):
        sweep(context)
        assert filled.target(QUEUED) == [(edited,), (victim,)]


@pytest.mark.hazard(83)
def test_status_tells_of_sweeps_that_do_not_end(filled, context, command):
    filled.target(
        "UPDATE sync.cursor SET filled_at = now() - interval '3 h', swept_at = now() - interval '2 h'"
        " WHERE entity = 'text'"
    )
    assert go_on(context, After(3)) is None
    status = status_of(context.stores, context.entity)
    (alert,) = status["alerts"]
    assert alert.startswith("the last whole sweep ended at ")
    assert f"phase keys, {status['sweep']['compared']} of about" in alert
    assert (status["sweep"]["state"], status["sweep"]["at_work"]) == ("walking", False)
    assert status["sweep"]["compared"] > 0
    assert "text: sweep since" in command("status", "text")[1]
    filled.target("UPDATE sync.cursor SET filled_at = now() - interval '2 h', swept_at = NULL WHERE entity = 'text'")
    assert "has not ended since the history is in" in status_of(context.stores, context.entity)["alerts"][0]
    sweep(context)
    assert status_of(context.stores, context.entity)["alerts"] == []


@pytest.mark.hazard(83)
def test_status_tells_of_a_log_that_is_not_trimmed(filled, context, command):
    filled.target("UPDATE sync.upkeep SET trimmed_at = now() - interval '4 days'")
    (alert,) = status_of(context.stores, context.entity)["alerts"]
    assert alert.startswith("the log was not trimmed since ")
    assert command("ledger", "trim")[0] == 0
    assert status_of(context.stores, context.entity)["alerts"] == []
    filled.target(
        'CREATE TABLE sync."batch_20260101" PARTITION OF sync.batch'
        " FOR VALUES FROM ('2026-01-01 00:00Z') TO ('2026-01-02 00:00Z')"
    )
    (alert,) = status_of(context.stores, context.entity)["alerts"]
    assert "from 2026-01-01 on" in alert
    assert command("ledger", "trim")[0] == 0
    assert status_of(context.stores, context.entity)["alerts"] == []


def test_no_transaction_is_open_while_the_bucket_is_listed(filled, context, monkeypatch):
    """And a bucket that holds much else is listed only where rows name files; cut off, the listing goes on."""
    monkeypatch.setattr(rewritten_files, "_PAGE", 2)
    names = [f"b/{n:02}.jpg" for n in range(6)]
    for name in (*names, *(f"a/{n:02}.jpg" for n in range(30)), *(f"b/03/{n:02}.jpg" for n in range(30))):
        filled.client.put_object(Bucket=filled.legacy_bucket, Key=name, Body=b"as it was")
    rows = keys(filled)[:6]
    for key, name in zip(rows, names, strict=True):
        filled.legacy("INSERT INTO media_files (content_id, kind, bucket_key) VALUES (%s, 'cover', %s)", (key, name))
    sweep(context)
    settle(context)
    for name in names[1::2]:
        filled.client.put_object(Bucket=filled.legacy_bucket, Key=name, Body=b"as it is")
    open_ones = "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ 'sync-pipeline' AND state ~ 'idle in'"
    listed, list_objects = [], context.stores.legacy_s3.list_objects_v2

    def listing(**which):
        listed.append((which["StartAfter"], filled.target(open_ones)[0][0]))
        return list_objects(**which)

    monkeypatch.setattr(context.stores.legacy_s3, "list_objects_v2", listing)
    ask_for_sweep(context, context.stores.legacy_now())  # right after another one it would leave the bucket out
    found = None
    while found is None:
        found = go_on(context, After(20))
    assert found.files == 3
    assert {count for _, count in listed} == {0}
    assert len(listed) == len(set(listed)) <= 9
    media = "SELECT k::bigint FROM sync.due, unnest(keys) k WHERE reason = 'media' ORDER BY 1"
    assert [key for (key,) in filled.target(media)] == rows[1::2]
    settle(context)
    assert sweep(context).files == 0
    filled.legacy("DELETE FROM media_files")
    sweep(context)


def test_the_settings_name_the_places():
    assert Settings.sweep_workers == 2
