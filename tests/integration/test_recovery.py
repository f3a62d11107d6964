"""The recovery after the new side has lost commits: what it finds in indices and buckets, page by page, on any host."""

import threading
from contextlib import closing
from dataclasses import replace

import pytest

from sync_pipeline.ledger.servers import ask_for_recovery, recovery_of
from sync_pipeline.operate.status import status_of
from sync_pipeline.run import recover as recovery
from sync_pipeline.run.live import work
from sync_pipeline.run.recover import recover
from sync_pipeline.settings import Settings
from sync_pipeline.sinks.media import recovery as of_files
from sync_pipeline.sinks.media.ownership import MARK_OBJECT
from sync_pipeline.sinks.search import recovery as of_index
from sync_pipeline.stores.stores import Stores
from tests.newsroom import leave_out_the_sweep
from tests.world import opened


@pytest.fixture(scope="module")
def world(fleet):
    with opened(fleet, "recovery", SYNC_SWEEP_SECONDS="1e9") as world:
        world.load(90, 24)
        for name in world.contexts:
            context = world.all_in(name)
            do_all_due(context)
        leave_out_the_sweep(world)
        yield world


@pytest.fixture(autouse=True)
def small_pages(monkeypatch):
    monkeypatch.setattr(recovery, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(of_index, "_HITS", 7)
    monkeypatch.setattr(of_index, "_IDS", 5)
    monkeypatch.setattr(of_files, "_FILES", 3)


def do_all_due(context):
    while work(context, lambda *_: None):
        pass


def ask(world):
    with world.stores.target() as cursor:
        ask_for_recovery(cursor, "a test")
    world.stores.servers.recovers = True


def objects(world, prefix):
    """The copies below a prefix, without its mark of ownership."""
    listed = world.client.list_objects_v2(Bucket=world.target_bucket, Prefix=f"{prefix}/").get("Contents", [])
    return sorted(item["Key"] for item in listed if not item["Key"].endswith(MARK_OBJECT))


@pytest.mark.hazard(111)
def test_each_difference_is_found_and_mended(world):
    context = world.contexts["video"]
    held = [key for (key,) in world.target("SELECT id FROM sync.ledger_video WHERE held & 2 <> 0 ORDER BY id LIMIT 3")]
    unknown, missing, newer = 999_999_999, held[0], held[1]
    (revision,) = world.target("SELECT last_value FROM sync.revision")[0]
    gte = f"version_type=external&version={revision + 5_000_000_000}"
    source = world.document("GET", f"video/_doc/{newer}")["_source"]
    world.document("PUT", f"video/_doc/{unknown}?{gte}", {"header": "lost"})
    world.document("PUT", f"video/_doc/{newer}?{gte}", source | {"header": "lost"})
    world.document("DELETE", f"video/_doc/{missing}?version_type=external_gte&version={revision}")
    removed = objects(world, "video")[0]
    stranger = "video/lost-with-its-transaction.jpg"
    world.client.delete_object(Bucket=world.target_bucket, Key=removed)
    world.client.put_object(Bucket=world.target_bucket, Key=stranger, Body=b"lost")
    ask(world)
    recover(context, threading.Event())
    with world.stores.target() as cursor:
        assert recovery_of(cursor, "video") is None
    found = world.target("SELECT reason, array_agg(DISTINCT k) FROM sync.due, unnest(keys) k GROUP BY 1")
    by_reason = {reason: set(keys) for reason, keys in found}
    assert {str(unknown), str(missing), str(newer)} <= by_reason["recovered"]
    assert by_reason["media"]
    assert world.target("SELECT started_at > now() - interval '1 minute' FROM sync.copying") == [(True,)]
    assert world.target("SELECT target_key FROM sync.copying") == [(stranger,)]
    (above,) = world.target("SELECT last_value FROM sync.revision")[0]
    assert above > revision + 5_000_000_000
    do_all_due(context)
    assert world.differences() == []
    world.client.delete_object(Bucket=world.target_bucket, Key=stranger)
    world.target("DELETE FROM sync.copying")


@pytest.mark.hazard(100)
@pytest.mark.hazard(111)
def test_marks_and_files_of_another_deployment_are_not_taken_for_lost_copies(world):
    """Its mark is on another page than most of its files are."""
    theirs = [f"video/0/{name}" for name in (MARK_OBJECT, *"0123456789")]
    for key in theirs:
        world.client.put_object(Bucket=world.target_bucket, Key=key, Body=b"theirs")
    ask(world)
    recover(world.contexts["video"], threading.Event())
    with world.stores.target() as cursor:
        assert recovery_of(cursor, "video") is None
    assert world.client.head_object(Bucket=world.target_bucket, Key=f"video/{MARK_OBJECT}")
    assert world.target("SELECT target_key FROM sync.copying") == []
    for key in theirs:
        world.client.delete_object(Bucket=world.target_bucket, Key=key)


@pytest.mark.hazard(111)
def test_another_host_goes_on_from_the_last_page(world, monkeypatch):
    """A page that was compared is not compared again, and one that a dead worker has claimed is."""
    context, halt = world.contexts["audio"], threading.Event()
    pages, compare = [], recovery._compare

    def and_halt(context, place):
        pages.append(place)
        compare(context, place)
        halt.set()

    monkeypatch.setattr(recovery, "_compare", and_halt)
    ask(world)
    while world.target("SELECT 1 FROM sync.recovery WHERE entity = 'audio' AND done_at IS NULL"):
        halt.clear()
        with closing(Stores(Settings.from_env())) as stores:
            stores.confirm_servers()
            other = replace(context, stores=stores)
            recover(other, halt)
    taken = [(place.part, tuple(place.position or ())) for place in pages]
    assert len(taken) == len(set(taken)) > 6
    documents = world.target("SELECT count(*) FROM sync.ledger_audio WHERE held & 2 <> 0")[0][0]
    checked = dict(world.target("SELECT part, checked FROM sync.recovery WHERE entity = 'audio'"))
    assert checked["ledger"] == documents
    assert documents <= checked["index"] <= documents + len(pages)  # pages of an index overlap by one


def test_a_page_that_was_asked_for_anew_counts_for_nothing(world, monkeypatch):
    context = world.contexts["text"]
    compare = recovery._advance

    def and_ask(*arguments):
        monkeypatch.undo()
        ask(world)
        return compare(*arguments)

    monkeypatch.setattr(recovery, "_advance", and_ask)
    ask(world)
    with pytest.raises(recovery.UnreachableError, match="begun anew meanwhile"):
        recover(context, threading.Event())
    assert "are being compared" in str(status_of(world.stores, context.entity)["alerts"])
