"""Listings of the legacy bucket: periodic sweeps leave most of them out, and what counts on one still gets it."""

import dataclasses
import threading
from contextlib import closing

import pytest

from sync_pipeline.entities.context import EntityContext
from sync_pipeline.ledger import sweeps
from sync_pipeline.ledger.servers import take_back_times
from sync_pipeline.operate.drain import drain
from sync_pipeline.operate.status import status_of
from sync_pipeline.run import live, rewritten_files
from sync_pipeline.run import sweep as sweeping
from sync_pipeline.run.sweep import go_on, sweep
from sync_pipeline.run.sweep_requests import ask_for_sweep, is_swept, sweep_is_due
from sync_pipeline.sources.sweep_only import SweepOnly
from sync_pipeline.stores.stores import Stores
from tests.world import wait_for

NAMED = "SELECT source_key, target_key FROM sync.media_ref WHERE entity = 'text' ORDER BY 1"
CURSOR = "SELECT {} FROM sync.cursor WHERE entity = 'text'"
ANEW = "UPDATE sync.cursor SET state = NULL, source = NULL WHERE entity = 'text'"
QUEUED = "SELECT count(*) FROM sync.due WHERE entity = 'text' AND reason = 'media'"
PATIENCE = 60


@pytest.fixture(scope="module")
def filled(world):
    world.load(60, 12)
    world.all_in("text")
    world.target("UPDATE sync.cursor SET filled_at = now()")
    return world


@pytest.fixture
def context(filled):
    """An entity just swept, whose share of the time allows no other listing for years."""
    context = at_share(filled.context("text"), 1e-9)
    sweep(context)
    settle(context)
    yield context
    sweep(context)
    settle(context)
    context.stores.close()
    assert filled.target("SELECT count(*) FROM sync.due") == [(0,)]


def at_share(context, share, **settings):
    """The entity on stores of its own, under other settings."""
    return EntityContext.open(
        context.entity, Stores(dataclasses.replace(context.stores.settings, listing_share=share, **settings))
    )


@pytest.fixture
def listed(context, monkeypatch):
    """Keys behind which the legacy bucket was listed."""
    return count_listings(context, monkeypatch)


def count_listings(context, monkeypatch):
    asked, list_objects = [], context.stores.legacy_s3.list_objects_v2
    monkeypatch.setattr(
        context.stores.legacy_s3,
        "list_objects_v2",
        lambda **which: asked.append(which["StartAfter"]) or list_objects(**which),
    )
    return asked


def settle(context):
    while live.work(context, lambda *_: None):
        pass


def overwrite(world, n=0):
    source = world.target(NAMED)[n][0]
    world.client.put_object(Bucket=world.legacy_bucket, Key=source, Body=b"another picture", ContentType="image/png")
    return source


def bytes_named(world, source):
    target = next(target for name, target in world.target(NAMED) if name == source)
    return world.client.get_object(Bucket=world.target_bucket, Key=target)["Body"].read()


@pytest.fixture
def overwritten(filled):
    """A file that somebody has overwritten under its key; as it was at the end."""
    source = filled.target(NAMED)[0][0]
    before = filled.client.get_object(Bucket=filled.legacy_bucket, Key=source)
    body, kind = before["Body"].read(), before["ContentType"]
    overwrite(filled)
    yield source
    filled.client.put_object(Bucket=filled.legacy_bucket, Key=source, Body=body, ContentType=kind)


def periodic(context):
    """A sweep for which nobody asked."""
    return go_on(context, threading.Event())


def cursor_of(world, columns):
    return world.target(CURSOR.format(columns))[0]


@pytest.mark.hazard(140)
def test_a_periodic_sweep_right_after_another_does_not_list(filled, context, listed, overwritten):
    before = cursor_of(filled, "swept_from, listed_at, compared_from, swept_at")
    assert periodic(context).files == 0
    after = cursor_of(filled, "swept_from, listed_at, compared_from, swept_at")
    assert listed == []
    assert after[:2] == before[:2]
    assert (after[2] > before[2], after[3] > before[3]) == (True, True)
    assert not sweep_is_due(context)
    with closing((each := at_share(context, 1.0)).stores):
        assert periodic(each).files == 1


WANTED = [
    "UPDATE sync.cursor SET sweep_wanted = clock_timestamp()",
    "UPDATE sync.cursor SET swept_from = NULL, compared_from = NULL",
    "UPDATE sync.sweep SET listing_at = now() + interval '1 h'",  # the new side's clock was set back
    "UPDATE sync.sweep SET listing_at = NULL",
]


@pytest.mark.hazard(140)
@pytest.mark.parametrize("statement", WANTED)
def test_one_that_was_asked_for_lists_and_so_does_the_first_one(filled, context, listed, overwritten, statement):
    filled.target(statement)
    assert periodic(context).files == 1
    assert listed != []
    swept, compared = cursor_of(filled, "swept_from, compared_from")
    assert swept == compared
    assert periodic(context).files == 0
    assert len(listed) == 1


@pytest.mark.hazard(140)
def test_a_drain_within_the_rest_period_finds_what_was_overwritten(filled, context, overwritten):
    assert periodic(context).files == 0
    with filled.following([context]):
        found = drain([context], PATIENCE, threading.Event())
    assert found.verdict == "drained"
    assert bytes_named(filled, overwritten) == b"another picture"


def at_the_end(monkeypatch, act):
    """Do something when the walk under way has decided on its listing, and has not ended."""
    refused = sweeping.read_refused_page
    monkeypatch.setattr(sweeping, "read_refused_page", lambda *page: act() or refused(*page))


@pytest.mark.hazard(140)
@pytest.mark.parametrize("guard", [True, False])
def test_a_walk_that_left_the_files_out_answers_nobody(filled, context, monkeypatch, overwritten, guard):
    """The time is the monolith's before the walk began, and the request arrives when the walk has passed the files."""
    if not guard:
        monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "140")
    since = context.stores.legacy_now()
    at_the_end(monkeypatch, lambda: ask_for_sweep(context, since))
    assert periodic(context).files == 0
    assert is_swept(context, since) is not guard
    assert sweep_is_due(context) is guard
    monkeypatch.undo()
    if guard:
        assert periodic(context).files == 1
        settle(context)
        assert is_swept(context, since)
        assert bytes_named(filled, overwritten) == b"another picture"


@pytest.mark.hazard(141)
@pytest.mark.parametrize("guard", [True, False])
def test_what_a_listing_has_queued_is_kept_by_a_walk_that_does_not_list(
    filled, context, monkeypatch, overwritten, guard
):
    if not guard:
        monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "141")
    assert sweep(context).files == 1
    assert periodic(context).files == 0
    assert filled.target(QUEUED) == [(1 if guard else 0,)]
    settle(context)
    assert (bytes_named(filled, overwritten) == b"another picture") is guard


@pytest.mark.hazard(140)
def test_when_the_new_side_has_lost_commits_meanwhile_another_walk_lists(filled, context, listed):
    forget = "UPDATE sync.cursor SET swept_from = NULL, compared_from = NULL, swept_at = NULL"
    with pytest.MonkeyPatch.context() as patch:
        at_the_end(patch, lambda: filled.target(forget))
        periodic(context)
    assert cursor_of(filled, "swept_from, swept_at") == (None, None)
    assert (listed, sweep_is_due(context)) == ([], True)
    periodic(context)
    assert (len(listed), sweep_is_due(context)) == (1, False)


def test_a_sweep_that_a_person_starts_lists_though_the_walk_under_way_does_not(filled, context, overwritten):
    halt = threading.Event()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "move", cut_before_the_end(halt, sweeps.move))
        assert go_on(context, halt) is None
    walk = "SELECT state, phase, covers_files FROM sync.sweep WHERE entity = 'text'"
    assert filled.target(walk) == [("walking", "refused", False)]
    assert sweep(context).files == 1


def cut_before_the_end(halt, move):
    """Move as ever, but do not go on once the keys are through."""

    def moved(cursor, walk):
        move(cursor, walk)
        if walk.phase == "refused":
            halt.set()

    return moved


@pytest.mark.hazard(140)
def test_an_entity_without_a_source_is_applied_through_the_last_comparison(filled, context, monkeypatch):
    """It lags no further behind while listings rest."""
    often = at_share(context, 1e-9, sweep_seconds=0.2)
    swept = EntityContext.open(dataclasses.replace(context.entity, capture=SweepOnly()), often.stores)
    asked = count_listings(swept, monkeypatch)
    filled.target(ANEW)  # another source would ask for a sweep
    (before,) = cursor_of(filled, "swept_from")
    ((since,),) = filled.legacy(
        "UPDATE content SET title = title || '!' WHERE id = (SELECT min(id) FROM content WHERE kind = 'text'"
        " AND deleted_at IS NULL) RETURNING clock_timestamp()"
    )
    try:
        with filled.following([swept]):
            wait_for(lambda: (cursor_of(filled, "applied_through")[0] or before) > since)
        assert cursor_of(filled, "swept_from") == (before,)
        assert asked == []
        settle(context)
        assert sweep(context).changed == 0
    finally:
        filled.target(ANEW)
        often.stores.close()


def is_due(context, share):
    with context.stores.target() as cursor:
        return sweeps.listing_is_due(cursor, context.entity.name, share)


@pytest.mark.parametrize(("rested", "due"), [(85, False), (95, True), (-5, True)])
def test_all_entities_divide_the_share(filled, context, rested, due):
    """Ten seconds of listings each 100: this entity's take nine of them, and it has rested for the others."""
    filled.target(
        "UPDATE sync.sweep SET listing_seconds = 9, listing_at = now() - %s * interval '1 s' WHERE entity = 'text'",
        (rested,),
    )
    filled.target("INSERT INTO sync.sweep (entity, listing_so_far) VALUES ('video', 1)")
    try:
        assert is_due(context, 0.1) is due
        assert is_due(context, 1.0)
    finally:
        filled.target("DELETE FROM sync.sweep WHERE entity = 'video'")


def test_what_a_listing_takes_is_summed_page_by_page(filled, context, listed, monkeypatch):
    """Also over the runs that it takes, and what was cut off counts as well."""
    monkeypatch.setattr(rewritten_files, "_PAGE", 2)
    taken, note = [], sweeps.note_listing

    def noted(cursor, walk, seconds, *, is_first):
        taken.append(seconds)
        note(cursor, walk, 1.0, is_first=is_first)
        if len(taken) == 2:
            halt.set()

    monkeypatch.setattr(sweeps, "note_listing", noted)
    costs = "SELECT listing_seconds, listing_so_far, listing_at > now() - interval '1 min' FROM sync.sweep"
    ask_for_sweep(context, context.stores.legacy_now())
    halt = threading.Event()
    assert go_on(context, halt) is None
    assert filled.target(costs)[0][1:] == (2.0, True)
    periodic(context)
    assert filled.target(costs) == [(float(len(listed)), 0.0, True)]
    assert len(listed) == len(taken) > 3
    assert min(taken) > 0


@pytest.mark.hazard(83)
def test_status_tells_how_often_listings_come_and_when_they_do_not(filled, context, command):
    filled.target("UPDATE sync.sweep SET listing_seconds = 12 WHERE entity = 'text'")
    filled.target("UPDATE sync.cursor SET filled_at = now() - interval '3 h' WHERE entity = 'text'")
    usual = filled.stores  # at a share of 0.02
    status = status_of(usual, context.entity)
    assert (status["alerts"], status["listing"]["every_seconds"], status["listing"]["is_rarer"]) == ([], 600, True)
    assert "text: the legacy bucket is listed each 10 min at its present size (12.0 s a listing)" in plain(command)
    filled.target("UPDATE sync.cursor SET listed_at = now() - interval '41 min' WHERE entity = 'text'")
    (alert,) = status_of(usual, context.entity)["alerts"]
    assert alert.startswith("the last listing of the legacy bucket ended at ")
    assert "one is due each 10 min (SYNC_LISTING_SHARE is 0.02)" in alert
    filled.target("UPDATE sync.cursor SET listed_at = NULL WHERE entity = 'text'")
    assert "has not ended yet" in status_of(usual, context.entity)["alerts"][0]
    filled.target("UPDATE sync.sweep SET listing_seconds = 1 WHERE entity = 'text'")
    sweep(context)
    status = status_of(usual, context.entity)
    assert (status["alerts"], status["listing"]["every_seconds"], status["listing"]["is_rarer"]) == ([], 300, False)
    assert "is listed each" not in plain(command)


def plain(command):
    """What `status` prints, on one line."""
    return " ".join(command("status", "text")[1].split())


@pytest.mark.hazard(112)
def test_a_listing_from_before_the_new_side_s_clock_was_set_back_ended_now(filled, context):
    filled.target("UPDATE sync.cursor SET listed_at = now() + interval '1 h'")
    with context.stores.target() as cursor:
        take_back_times(cursor)
    assert filled.target("SELECT max(listed_at) <= now() FROM sync.cursor") == [(True,)]
