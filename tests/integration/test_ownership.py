"""Marks on indices and prefixes: two deployments side by side, and what one that meets another's mark does."""

import dataclasses
import json
from contextlib import closing

import pytest
from botocore.exceptions import ClientError
from elasticsearch import AuthorizationException

from demo.databases import create_target, drop_database
from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext, open_contexts
from sync_pipeline.entities.take_over import take_over
from sync_pipeline.errors import OwnershipError, UnreachableError
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.preflight.preflight import preflight
from sync_pipeline.rebuild.rebuild import clear, rebuild_index
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.sinks.media import MediaBucket, ownership
from sync_pipeline.sinks.media.ownership import MARK_OBJECT
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.search.ownership import index_meta
from sync_pipeline.stores.stores import Stores
from tests.command import Command
from tests.sinks import bucket_of
from tests.world import opened

INDEX, PREFIX = "index video-000001", "prefix video/"


@pytest.fixture(scope="module")
def world(fleet):
    with opened(fleet, "ownership", SYNC_RECHECK_SECONDS="0") as world:
        world.load(120, 12)
        world.all_in("video")
        yield world


@pytest.fixture
def other(fleet, world):
    """Stores of another deployment: the same monolith, cluster and bucket, a ledger of its own."""
    url = create_target(fleet.target, "ownership_other")
    settings = dataclasses.replace(world.stores.settings, target_db=url.replace("postgresql:", "postgresql+psycopg2:"))
    with closing(Stores(settings)) as stores:
        yield stores
    drop_database(fleet.target, "ownership_other")


@pytest.fixture
def video(world):
    """The entity; whatever a test leaves, its marks are the world's again."""
    entity = world.context("video").entity
    yield entity
    take_over(world.stores, entity)


def renamed(entity, alias="", prefix=""):
    """The entity as another deployment declares it."""

    def sink_of(sink):
        if isinstance(sink, SearchIndex) and alias:
            return dataclasses.replace(sink, alias=alias)
        return dataclasses.replace(sink, prefix=prefix) if isinstance(sink, MediaBucket) and prefix else sink

    return dataclasses.replace(entity, sinks=tuple(map(sink_of, entity.sinks)))


def fill(world, context):
    keys = [str(key) for (key,) in world.legacy("SELECT id FROM content WHERE kind = 'video'")]
    return sync_keys(context, context.origin.key.parse(keys), Order())


def remove(world, *indices, prefix=""):
    for index in indices:
        world.document("DELETE", index)
    if prefix:
        for item in world.client.list_objects_v2(Bucket=world.target_bucket, Prefix=prefix).get("Contents", []):
            world.client.delete_object(Bucket=world.target_bucket, Key=item["Key"])


def of_ownership(stores, entity, level):
    return [n for n in preflight(stores, [entity]) if n.about == "ownership" and n.level == level]


def documents(world, alias):
    return world.document("GET", f"{alias}/_count")["count"]


def test_two_ledgers_on_one_monolith_cluster_and_bucket_let_each_other_alone(world, other, video):
    context = EntityContext.open(renamed(video, "video_b", "video_b"), other)
    assert fill(world, context).files > 0
    world.document("POST", "_refresh")
    before = documents(world, "video")
    for both in (context, world.context("video")):
        assert reconcile(both).findings == []
    assert documents(world, "video_b") == documents(world, "video") == before
    assert of_ownership(other, context.entity, "error") == of_ownership(world.stores, video, "error") == []
    assert len(of_ownership(other, context.entity, "ok")) == 2
    remove(world, "video_b-000001", prefix="video_b/")


@pytest.mark.hazard(99)
def test_an_index_of_another_ledger_is_refused_with_both_names(world, other, video):
    with pytest.raises(OwnershipError) as told:
        EntityContext.open(renamed(video, prefix="video_b"), other)
    assert str(told.value) == (
        f"entity video: {INDEX} belongs to the deployment with ledger {world.stores.ledger_id()},"
        f" ours is {other.ledger_id()}: give the entity's SearchIndex another alias; or, if that deployment is gone for"
        " good and this one takes its place, sync-pipeline ledger take-over video"
    )
    contexts, stopped = open_contexts(other, [renamed(video, prefix="video_b")])
    assert (contexts, [*stopped]) == ([], ["video"])
    (notice,) = of_ownership(other, video, "error")[:1]
    assert INDEX in notice.what
    assert "take-over video" in notice.remedy


@pytest.mark.hazard(99)
def test_without_its_guard_it_is_written_to(world, other, video, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "99")
    EntityContext.open(renamed(video, prefix="video_b"), other)
    remove(world, prefix="video_b/")


@pytest.mark.hazard(100)
@pytest.mark.parametrize("prefix", ["video", "video/inner"])
def test_a_prefix_of_another_ledger_or_within_one_is_refused(world, other, video, prefix):
    with pytest.raises(OwnershipError, match=f"{PREFIX} belongs to the deployment with ledger") as told:
        EntityContext.open(renamed(video, "video_b", prefix), other)
    assert "MediaBucket another prefix" in str(told.value)
    assert world.stores.ledger_id() in str(told.value)
    remove(world, "video_b-000001")


@pytest.mark.hazard(100)
def test_without_its_guard_files_are_put_there(world, other, video, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "100")
    context = EntityContext.open(renamed(video, "video_b"), other)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bucket_of(context.entity).__class__, "target_key", lambda _, source: f"video/{source.key}.other")
        assert fill(world, context).files > 0
    extra = [finding for finding in reconcile(world.context("video")).findings if finding.kind == "extra"]
    assert extra  # which a repair of the first one would delete
    for finding in extra:
        world.client.delete_object(Bucket=world.target_bucket, Key=finding.key)
    remove(world, "video_b-000001")


@pytest.mark.hazard(100)
def test_a_prefix_within_ours_is_not_ours_to_judge(world, video):
    """Of a deployment that was there first."""
    for name in (MARK_OBJECT, "file"):
        world.client.put_object(Bucket=world.target_bucket, Key=f"video/inner/{name}", Body=b"{}")
    world.client.put_object(Bucket=world.target_bucket, Key="video/stray", Body=b"")
    assert [finding.key for finding in reconcile(world.context("video")).findings] == ["video/stray"]
    remove(world, prefix="video/inner/")
    remove(world, prefix="video/stray")


def test_one_that_could_not_look_at_first_stops_before_it_copies(world, other, video, monkeypatch):
    """A bucket that is away when the entity is opened keeps no row back, and is looked at before its first copy."""

    def away(*_):
        raise UnreachableError("SYNC_TARGET_S3_BUCKET is away")

    with monkeypatch.context() as patch:
        patch.setattr(ownership, "_read_prefix", away)
        context = EntityContext.open(renamed(video, "video_b"), other)
    with pytest.raises(OwnershipError, match=PREFIX):
        fill(world, context)
    remove(world, "video_b-000001")


def test_one_whose_cluster_was_away_at_first_sends_no_document(world, other, video, monkeypatch):
    def away(*_):
        raise UnreachableError("SYNC_SEARCH_URL is away")

    with monkeypatch.context() as patch:
        patch.setattr(SearchIndex, "ensure", away)
        context = EntityContext.open(renamed(video, prefix="video_b"), other)
    before = documents(world, "video")
    with pytest.raises(OwnershipError, match=INDEX):
        fill(world, context)
    assert documents(world, "video") == before
    remove(world, prefix="video_b/")


def test_an_index_made_by_others_is_marked_when_it_is_first_opened(world, other, video):
    made = {"mappings": {"_meta": {"team": "search"}}, "aliases": {"video_c": {}}}
    world.document("PUT", "video_c-by-hand", made)
    EntityContext.open(renamed(video, "video_c", "video_c"), other)
    meta = world.document("GET", "video_c/_mapping")["video_c-by-hand"]["mappings"]["_meta"]
    assert meta == {"team": "search", "sync_pipeline": {"ledger": other.ledger_id(), "entity": "video"}}
    remove(world, "video_c-by-hand", prefix="video_c/")


def test_rights_that_are_missing_stop_nothing_and_are_named_by_check(world, other, video, monkeypatch):
    entity = renamed(video, "video_d", "video_d")
    world.document("PUT", "video_d-000001", {"aliases": {"video_d": {}}})

    def refused(*_, **__):
        raise AuthorizationException("forbidden", _Meta(), {})

    def denied(*_, **__):
        raise ClientError({"Error": {"Code": "AccessDenied"}}, "PutObject")

    with monkeypatch.context() as patch:
        patch.setattr(type(other.search.indices), "put_mapping", refused)
        patch.setattr(other.target_s3, "put_object", denied)
        EntityContext.open(entity, other)
    (prefix,) = of_ownership(other, entity, "warning")
    monkeypatch.setattr(type(other.search.security), "has_privileges", lambda *_, **__: {"has_all_requested": False})
    index, prefix = of_ownership(other, entity, "warning")
    assert "index video_d-000001 bears no mark" in index.what
    assert "prefix video_d/ bears no mark" in prefix.what
    meta = json.loads(index.remedy.partition("_mapping ")[2])
    world.document("PUT", "video_d-000001/_mapping", meta)
    (prefix,) = of_ownership(other, entity, "warning")
    remove(world, "video_d-000001", prefix="video_d/")


class _Meta:
    status = 403


def test_a_mark_that_cannot_be_read_is_anothers(world, other, video):
    world.client.put_object(Bucket=world.target_bucket, Key=f"video_e/{MARK_OBJECT}", Body=b"\xff")
    with pytest.raises(OwnershipError, match="ledger unreadable"):
        EntityContext.open(renamed(video, "video_e", "video_e"), other)
    remove(world, "video_e-000001", prefix="video_e/")


def test_of_two_that_mark_at_once_one_is_refused(world, other, video, monkeypatch):
    """Both have looked, and found no mark."""
    read = ownership._read_prefix
    blind = iter([None])
    monkeypatch.setattr(ownership, "_read_prefix", lambda *a: next(blind) if a[1] == "race" and _first() else read(*a))
    seen = []

    def _first():
        seen.append(1)
        return len(seen) == 1

    ownership._mark_prefix(world.stores, "race", only_if_free=True)
    with pytest.raises(OwnershipError, match="prefix race/"):
        MediaBucket(columns=("cover",), prefix="race").open(other, "video")
    remove(world, prefix="race/")


def test_a_new_ledger_takes_over_by_a_command(world, other, video, tmp_path):
    ours, theirs = world.stores.ledger_id(), None
    log = tmp_path / "log"
    settings = {"SYNC_TARGET_DB": other.settings.target_db.replace("+psycopg2", "")}
    assert Command(log, "ledger", "take-over", "video", "--format", "json", **settings).wait() == 0, log.read_text()
    theirs = other.ledger_id()
    assert json.loads(log.read_text()) == {"video": [{"what": INDEX, "ledger": ours}, {"what": PREFIX, "ledger": ours}]}
    EntityContext.open(video, other)
    with pytest.raises(OwnershipError, match=f"ledger {theirs}, ours is {ours}"):
        world.context("video")
    again = tmp_path / "again"
    assert Command(again, "ledger", "take-over", "video", **settings).wait() == 0
    assert again.read_text() == "All of it is this ledger's and these entities' already.\n"


def test_a_rebuilt_index_bears_the_mark_and_what_else_was_noted(world, video):
    kept = {"_meta": {"team": "search", **index_meta(world.stores, video.name)}}
    world.document("PUT", "video-000001/_mapping", kept)
    assert not rebuild_index(world.context("video")).findings
    assert world.document("GET", "video/_mapping")["video-000002"]["mappings"]["_meta"] == kept["_meta"]
    clear(world.stores, video)


def test_keys_that_hold_no_mark_are_all_ours_to_judge():
    listed = dict.fromkeys(["a/1", "a/b/2", f"a/b/{MARK_OBJECT}", f"a/{MARK_OBJECT}", "a/bc"])
    assert [*ownership.without_marks(listed, "a")] == ["a/1", "a/bc"]
