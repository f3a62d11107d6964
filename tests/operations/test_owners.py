"""What belongs to another is left: repair deletes what the ledger knows, or what lies in a place of its own."""

import json
from dataclasses import replace

import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import OwnershipError
from sync_pipeline.operate.repair import Action, carry_out, plan, plan_keys, repair
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.preflight.ownership import check_ownership
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run import garbage
from tests import clips
from tests.sinks import bucket_of, index_of

ROWS = 6
FOREIGN = 900
CREATE = """
    CREATE SCHEMA IF NOT EXISTS catalog;
    CREATE TABLE catalog.clip (id bigint PRIMARY KEY, title text, slug text, body text, file text);
    GRANT ALL ON SCHEMA catalog TO sync_writer;
    ALTER TABLE catalog.clip OWNER TO sync_writer;
    INSERT INTO catalog.clip VALUES (%s, 'another''s')
"""


@pytest.fixture(scope="module", autouse=True)
def monolith(world):
    world.legacy(clips.MONOLITH)


@pytest.fixture
def clip(world):
    """Six clips with a file each, and nothing yet on the new side."""
    for n in range(1, ROWS + 1):
        world.client.put_object(Bucket=world.legacy_bucket, Key=f"p/{n}.jpg", Body=b"good")
    world.legacy(
        "INSERT INTO clips (id, title, file) SELECT n, 'title ' || n, 'p/' || n || '.jpg' FROM generate_series(1, 6) n"
    )
    yield clips.clip()
    clips.emptied(world)
    world.target("DROP TABLE catalog.clip; DROP TABLE IF EXISTS catalog.reel, sync.ledger_reel")
    world.target("DELETE FROM sync.claim; DELETE FROM sync.cursor WHERE entity = 'reel'")
    for index in world.document("GET", "clip*,reel*"):
        world.document("DELETE", index)


@pytest.fixture
def populated(world, clip):
    """Table, index and prefix held something of another program before the entity came."""
    world.target(CREATE, [FOREIGN])
    world.document("PUT", "clip-000001", {"aliases": {"clip": {}}, "mappings": replace(index_of(clip)).mappings})
    world.document("PUT", f"clip/_doc/{FOREIGN}?refresh=true", {"id": FOREIGN, "title": "another's"})
    world.document("PUT", "clip/_doc/logo?refresh=true", {"title": "another's"})
    world.client.put_object(Bucket=world.target_bucket, Key="clip/logo.png", Body=b"another's")
    return clip


def filled(world, entity):
    context = EntityContext.open(entity, world.stores)
    sync_keys(context, context.origin.key.parse(map(str, range(1, ROWS + 1))), Order())
    return context


def found(context):
    return sorted((f.sink, f.kind, f.key) for f in reconcile(context).findings)


def objects(world, prefix="clip/"):
    listed = world.client.list_objects_v2(Bucket=world.target_bucket, Prefix=prefix).get("Contents", [])
    return [item["Key"] for item in listed if not item["Key"].endswith(".sync-pipeline-owner")]


def foreign_things(world):
    rows = world.target("SELECT title FROM catalog.clip WHERE id = %s", [FOREIGN])
    world.document("POST", "clip/_refresh")
    ids = [hit["_id"] for hit in world.document("GET", "clip/_search?size=100")["hits"]["hits"]]
    return rows, sorted({str(FOREIGN), "logo"} & {*ids}), "clip/logo.png" in objects(world)


WHOLE = ([("another's",)], [str(FOREIGN), "logo"], True)


@pytest.mark.hazard(132)
def test_what_was_there_before_the_entity_is_named_and_left(world, populated):
    context = filled(world, populated)
    extra = [
        ("media", "extra", "clip/logo.png"),
        ("relational", "extra", str(FOREIGN)),
        ("search", "extra", str(FOREIGN)),
        ("search", "extra", "logo"),
    ]
    assert found(context) == extra
    steps = plan(context, reconcile(context).findings)
    assert {step.action for step in steps} == {Action.LEAVE}
    assert "table catalog.clip held something before entity clip came" in {s.key: s.reason for s in steps}[str(FOREIGN)]
    repair(context, reconcile(context).findings)
    carry_out(context, plan_keys(context, context.origin.key.parse([str(FOREIGN)])))
    assert foreign_things(world) == WHOLE
    assert found(context) == extra


@pytest.mark.hazard(132)
def test_of_a_place_with_other_things_what_the_ledger_knows_is_removed(world, populated):
    """A row that the monolith has no more, and that came back, is ours by the ledger."""
    context = filled(world, populated)
    world.legacy("DELETE FROM clips WHERE id = 1")
    sync_keys(context, context.origin.key.parse(["1"]), Order(acknowledge=True))
    world.target("INSERT INTO catalog.clip VALUES (1, 'back')")
    world.document("PUT", "clip/_doc/1?refresh=true", {"id": 1})
    repair(context, reconcile(context).findings)
    assert world.target("SELECT id FROM catalog.clip ORDER BY 1") == [(2,), (3,), (4,), (5,), (6,), (FOREIGN,)]
    assert foreign_things(world) == WHOLE
    assert len(found(context)) == 4


@pytest.mark.hazard(132)
def test_without_its_guard_repair_deletes_what_is_anothers(world, populated, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "132")
    context = filled(world, populated)
    repair(context, reconcile(context).findings)
    assert foreign_things(world) == ([], [], False)


def test_once_it_is_taken_over_all_of_it_is_the_entity_s(world, populated, command, monkeypatch):
    monkeypatch.setenv("SYNC_ENTITIES", "tests.clip_entities")
    context = filled(world, populated)
    code, printed, _ = command("repair", "clip")
    assert (code, foreign_things(world)) == (0, WHOLE)
    assert "4 left alone" in printed
    warned = [n.what for n in check_ownership(world.stores, [populated]) if n.level == "warning"]
    assert [what.partition(" held")[0] for what in warned] == ["alias clip", "prefix clip/", "table catalog.clip"]
    code, printed, _ = command("ledger", "take-over", "clip")
    assert code == 0
    assert all(place in printed for place in ("table catalog.clip", "alias clip", "prefix clip/", "not its own alone"))
    assert [n for n in check_ownership(world.stores, [populated]) if n.level == "warning"] == []
    assert command("repair", "clip")[0] == 0
    assert foreign_things(world) == ([], [], False)
    assert found(context) == []


def test_what_is_put_into_a_place_of_its_own_is_removed(world, clip):
    """Ids that are no keys, or are written otherwise, too."""
    context = filled(world, clip)
    world.target("INSERT INTO catalog.clip VALUES (900, 'stray')")
    for name in ("logo", "07", "+5", "1.0", "1e0", "9" * 30, "a/b?c=1 d", "ü", "x" * 512):
        context.stores.search.index(index="clip", id=name, document={"title": "stray"}, refresh=True)
    context.stores.search.index(
        index="clip", id="high", version=10**17, version_type="external", document={}, refresh=True
    )
    world.client.put_object(Bucket=world.target_bucket, Key="clip/stray.jpg", Body=b"stray")
    assert len(found(context)) == 12
    repair(context, reconcile(context).findings)
    assert found(context) == []
    assert world.document("GET", "clip/_count")["count"] == ROWS


def test_a_dry_run_lists_and_does_nothing(world, clip, command, monkeypatch):
    monkeypatch.setenv("SYNC_ENTITIES", "tests.clip_entities")
    context = filled(world, clip)
    ((copied,),) = world.target("SELECT file FROM catalog.clip WHERE id = 3")
    world.target("UPDATE catalog.clip SET title = 'other' WHERE id = 1; DELETE FROM catalog.clip WHERE id = 2")
    world.target("INSERT INTO catalog.clip SELECT n, 'stray' FROM generate_series(1001, 1150) n")
    world.document("PUT", "clip/_doc/logo?refresh=true", {"title": "stray"})
    world.client.put_object(Bucket=world.target_bucket, Key=copied, Body=b"other bytes")
    before = found(context)
    code, printed, _ = command("repair", "clip", "--dry-run", "--format", "json")
    report = json.loads(printed)["clip"]
    assert code == 0
    assert report["counts"] == [
        {"place": "alias clip", "action": "delete", "count": 1},
        {"place": "prefix clip/", "action": "copy", "count": 1},
        {"place": "table catalog.clip", "action": "delete", "count": 150},
        {"place": "table catalog.clip", "action": "write", "count": 2},
    ]
    assert len(report["steps"]) == 100
    steps = {(step["place"], step["key"]): step for step in report["steps"]}
    assert steps["table catalog.clip", "1"]["reason"] == "corrupt: title: title 1 wanted, other found"
    assert steps["prefix clip/", copied]["action"] == "copy"
    code, printed, _ = command("repair", "clip", "--dry-run")
    assert "table catalog.clip" in printed
    assert "and 134 more" in printed
    assert found(context) == before
    assert command("repair", "clip")[0] == 0
    assert found(context) == []
    assert "nothing to repair" in command("repair", "clip", "--dry-run")[1]


def test_a_dry_run_of_keys_lists_them(world, clip, command, monkeypatch):
    monkeypatch.setenv("SYNC_ENTITIES", "tests.clip_entities")
    filled(world, clip)
    world.target("UPDATE catalog.clip SET title = 'other'")
    code, printed, _ = command("repair", "clip", "--key", "2", "--dry-run", "--format", "json")
    assert (code, [step["key"] for step in json.loads(printed)["clip"]["steps"]]) == (0, ["2"])
    assert world.target("SELECT count(*) FROM catalog.clip WHERE title = 'other'") == [(ROWS,)]


def reel(clip, *, table="catalog.reel", alias="reel", prefix="reel", shared=False):
    """A copy of the clip's file under another name, with another condition."""
    sinks = (
        replace(clip.table, name=table),
        replace(index_of(clip), alias=alias),
        replace(bucket_of(clip), prefix=prefix, shared=shared),
    )
    return replace(clip, name="reel", sinks=sinks)


@pytest.mark.hazard(131)
@pytest.mark.parametrize("place", [{"table": "catalog.clip"}, {"alias": "clip"}, {"prefix": "clip"}], ids=str)
def test_an_entity_of_another_package_that_names_our_place_is_refused(world, clip, place):
    """Both are loaded apart, so that only the ledger sees both."""
    filled(world, clip)
    with pytest.raises(OwnershipError, match=r"entity reel: .* is entity clip's in this ledger"):
        EntityContext.open(reel(clip, **place), world.stores)
    assert found(EntityContext.open(clip, world.stores)) == []


@pytest.mark.hazard(131)
def test_without_its_guard_two_entities_have_one_table(world, clip, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "131")
    filled(world, clip)
    EntityContext.open(reel(clip, table="catalog.clip"), world.stores)


def test_a_shared_prefix_holds_one_copy_of_a_file_for_both(world, clip):
    """It is kept until no row of either names it, whichever entity's collector comes by."""
    ours = replace(clip, sinks=(clip.table, index_of(clip), replace(bucket_of(clip), prefix="media", shared=True)))
    contexts = [filled(world, ours), filled(world, reel(clip, prefix="media", shared=True))]
    assert len(objects(world, "media/")) == ROWS
    files = [world.target(f"SELECT file FROM catalog.{name} ORDER BY id") for name in ("clip", "reel")]
    assert files[0] == files[1]
    assert [found(context) for context in contexts] == [[], []]
    object.__setattr__(world.stores.settings, "garbage_grace_seconds", 0.0)
    try:
        world.legacy("DELETE FROM clips WHERE id = 1")
        sync_keys(contexts[0], contexts[0].origin.key.parse(["1"]), Order(acknowledge=True))
        world.target("UPDATE sync.garbage SET look_at = now()")
        garbage.collect(world.stores)
        assert len(objects(world, "media/")) == ROWS
        assert found(contexts[0]) == []
        sync_keys(contexts[1], contexts[1].origin.key.parse(["1"]), Order(acknowledge=True))
        world.target("UPDATE sync.garbage SET look_at = now()")
        garbage.collect(world.stores)
        assert len(objects(world, "media/")) == ROWS - 1
    finally:
        object.__setattr__(world.stores.settings, "garbage_grace_seconds", 86_400.0)
    assert [found(context) for context in contexts] == [[], []]


def test_a_damaged_file_of_a_shared_prefix_is_mended_by_either(world, clip):
    ours = replace(clip, sinks=(clip.table, index_of(clip), replace(bucket_of(clip), prefix="media", shared=True)))
    contexts = [filled(world, ours), filled(world, reel(clip, prefix="media", shared=True))]
    damaged, stray = objects(world, "media/")[0], "media/stray.jpg"
    world.client.put_object(Bucket=world.target_bucket, Key=damaged, Body=b"other bytes")
    world.client.put_object(Bucket=world.target_bucket, Key=stray, Body=b"stray")
    assert all(("media", "corrupt", damaged) in found(context) for context in contexts)
    repair(contexts[1], reconcile(contexts[1]).findings)
    assert [found(context) for context in contexts] == [[], []]
    assert stray not in objects(world, "media/")
