"""Size and SHA-256 of files as columns of their rows and fields of their documents."""

import hashlib
from dataclasses import replace

import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.explain.why import why
from sync_pipeline.operate.repair import repair
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run import live
from sync_pipeline.run.sweep import sweep
from sync_pipeline.sinks.media import MediaBucket
from tests import clips
from tests.sinks import bucket_of, index_of

BODY = {"p/a.jpg": b"one", "p/b.jpg": b"two two", "p/empty.jpg": b""}
FACTS = {"file_bytes": "bigint", "file_sha256": "text"}
FIELDS = {"file_bytes": {"type": "long"}, "file_sha256": {"type": "keyword"}}


def sha256(body):
    return hashlib.sha256(body).hexdigest()


def described(name, *, lists=False):
    """A clip whose row says how large its file is."""
    whole = clips.clip()
    kinds = {"file": "text[]", "file_bytes": "bigint[]", "file_sha256": "text[]"} if lists else FACTS
    media = MediaBucket(columns=("file",), prefix=name, size="file_bytes", sha256="file_sha256")
    table = replace(whole.table, name=f"catalog.{name}", columns={**whole.table.columns, **FACTS, **kinds})
    index = replace(index_of(whole), alias=name, fields={**index_of(whole).fields, **FIELDS})
    query = "SELECT id, title, slug, body, string_to_array(file, '|') AS file FROM clips" if lists else whole.origin.sql
    origin = replace(whole.origin, sql=query)
    return replace(whole, name=name, origin=origin, sinks=(table, index, media))


@pytest.fixture(scope="module", autouse=True)
def monolith(world):
    world.legacy(clips.MONOLITH)
    for key, body in BODY.items():
        world.client.put_object(Bucket=world.legacy_bucket, Key=key, Body=body)


@pytest.fixture(autouse=True)
def _no_clips(world):
    yield
    world.legacy("TRUNCATE clips")


def synced(world, entity, *files):
    world.legacy("TRUNCATE clips")
    for n, file in enumerate(files, 1):
        world.legacy("INSERT INTO clips (id, title, file) VALUES (%s, 't', %s)", [n, file])
    context = EntityContext.open(entity, world.stores)
    sync_keys(context, context.origin.key.parse(map(str, range(1, len(files) + 1))), Order())
    return context


def facts(world, name):
    return world.target(f"SELECT file_bytes, file_sha256 FROM catalog.{name} ORDER BY id")


def test_a_row_and_its_document_say_how_large_its_file_is(world):
    context = synced(world, described("sized"), "p/a.jpg", "p/b.jpg", None, "p/empty.jpg", "p/a.jpg")
    one, two, none = (3, sha256(b"one")), (7, sha256(b"two two")), (0, sha256(b""))
    assert facts(world, "sized") == [one, two, (None, None), none, one]
    found = world.document("GET", "sized/_doc/2")["_source"]
    assert (found["file_bytes"], found["file_sha256"]) == two
    assert reconcile(context).status == "clean"


def test_lists_of_files_have_lists_of_sizes(world):
    context = synced(world, described("listed", lists=True), "p/a.jpg|p/b.jpg", None, "p/b.jpg")
    one, two = sha256(b"one"), sha256(b"two two")
    assert facts(world, "listed") == [([3, 7], [one, two]), (None, None), ([7], [two])]
    assert reconcile(context).status == "clean"


def test_an_overwritten_file_has_another_size(world):
    world.client.put_object(Bucket=world.legacy_bucket, Key="p/changed.jpg", Body=b"before")
    context = synced(world, described("changed"), "p/changed.jpg")
    assert facts(world, "changed") == [(6, sha256(b"before"))]
    world.client.put_object(Bucket=world.legacy_bucket, Key="p/changed.jpg", Body=b"afterwards")
    repair(context, reconcile(context).findings)
    assert facts(world, "changed") == [(10, sha256(b"afterwards"))]
    assert reconcile(context).status == "clean"


def test_a_wrong_size_is_corrupt_and_mended(world):
    context = synced(world, described("wrong"), "p/a.jpg")
    world.target("UPDATE catalog.wrong SET file_bytes = 4")
    assert [f.message for f in reconcile(context).findings] == ["file_bytes: 3 wanted, 4 found"]
    repair(context, reconcile(context).findings)
    assert facts(world, "wrong") == [(3, sha256(b"one"))]


def test_a_whole_first_load_has_them(world):
    """Five hundred rows and more go by plain COPY."""
    world.legacy("INSERT INTO clips (id, title, file) SELECT n, 't', 'p/a.jpg' FROM generate_series(1, 600) n")
    context = EntityContext.open(described("loaded"), world.stores)
    sync_keys(context, context.origin.key.parse(map(str, range(1, 601))), Order())
    assert {*facts(world, "loaded")} == {(3, sha256(b"one"))}


def test_an_entity_that_comes_to_name_them_gets_them_with_its_next_version(world):
    """The files are there already, and are not copied again."""
    later = described("later")
    plain = replace(bucket_of(later), size="", sha256="")
    synced(world, replace(later, sinks=(later.table, index_of(later), plain), adapt=without_facts), "p/a.jpg")
    assert facts(world, "later") == [(None, None)]
    context = EntityContext.open(replace(later, version=2), world.stores)
    assert sync_keys(context, context.origin.key.parse(["1"]), Order()).files == 0
    assert facts(world, "later") == [(3, sha256(b"one"))]


def without_facts(legacy):
    made = clips.adapt(legacy)
    return {**made, "file_bytes": made["file"].isna().map(lambda _: None), "file_sha256": made["slug"]}


def lenient(name, *, lists=False):
    """The same, whose rows are written without files that are not there."""
    whole = described(name, lists=lists)
    return replace(whole, sinks=(whole.table, index_of(whole), replace(bucket_of(whole), missing="null")))


def row(world, name, key=1):
    return world.target(f"SELECT title, file, file_bytes FROM catalog.{name} WHERE id = %s", [key])[0]


@pytest.mark.hazard(137)
def test_a_row_whose_file_is_missing_is_written_without_it_and_heals(world):
    context = synced(world, lenient("lenient"), "p/late.jpg", "p/a.jpg", "n" * 2000)
    assert row(world, "lenient") == ("t", None, None)
    assert row(world, "lenient", 3) == ("t", None, None)
    assert world.target("SELECT 1 FROM sync.due") == []
    assert reconcile(context).status == "clean"
    world.legacy("UPDATE clips SET title = 'edited', updated_at = clock_timestamp() WHERE id = 1")
    sync_keys(context, context.origin.key.parse(["1"]), Order(acknowledge=True))
    assert row(world, "lenient") == ("edited", None, None)
    assert sweep(context).files == 0
    world.client.put_object(Bucket=world.legacy_bucket, Key="p/late.jpg", Body=b"late")
    try:
        assert [(f.kind, f.key) for f in reconcile(context).findings] == [("stale", "p/late.jpg")]
        assert sweep(context).files == 1
        while live.work(context, lambda *_: None):
            pass
        assert row(world, "lenient")[2] == 4
        assert row(world, "lenient")[1].startswith("lenient/")
        assert reconcile(context).status == "clean"
    finally:
        world.client.delete_object(Bucket=world.legacy_bucket, Key="p/late.jpg")
    assert sweep(context).files == 1
    while live.work(context, lambda *_: None):
        pass
    assert row(world, "lenient") == ("edited", None, None)
    assert sweep(context).files == 0
    assert reconcile(context).status == "clean"


def test_in_a_list_its_place_stays(world):
    context = synced(world, lenient("gaps", lists=True), "p/a.jpg|p/none.jpg|p/b.jpg")
    _, files, sizes = row(world, "gaps")
    assert ([file is None for file in files], sizes) == ([False, True, False], [3, None, 7])
    assert world.document("GET", "gaps/_doc/1")["_source"]["file_bytes"] == [3, None, 7]
    assert reconcile(context).status == "clean"


def test_repair_brings_a_file_that_has_come(world):
    context = synced(world, lenient("coming"), "p/come.jpg")
    world.client.put_object(Bucket=world.legacy_bucket, Key="p/come.jpg", Body=b"come")
    repair(context, reconcile(context).findings)
    assert row(world, "coming")[2] == 4
    assert reconcile(context).status == "clean"


def test_a_first_load_with_missing_files(world):
    world.legacy(
        "INSERT INTO clips (id, title, file) SELECT n, 't', 'p/' || n || '.jpg' FROM generate_series(1, 600) n"
    )
    context = EntityContext.open(lenient("bare"), world.stores)
    assert sync_keys(context, context.origin.key.parse(map(str, range(1, 601))), Order()).written == 600
    assert {*facts(world, "bare")} == {(None, None)}
    assert not why(context, "1").as_dict()["sinks"]["relational"].startswith("unknown")


def test_without_it_the_row_is_parked(world):
    synced(world, described("strict"), "p/none.jpg", "p/a.jpg")
    assert world.target("SELECT key, step FROM sync.due") == [("1", "media")]
    world.target("TRUNCATE sync.due")
