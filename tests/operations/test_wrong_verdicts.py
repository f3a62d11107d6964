"""What a comparison could take for right because it never came to look at it."""

import dataclasses

import pandas as pd
import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.errors import UnreachableError
from sync_pipeline.operate import repair as mending
from sync_pipeline.operate.repair import repair
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run.backfill import backfill
from sync_pipeline.run.sweep import sweep
from sync_pipeline.sinks.media import MediaBucket
from sync_pipeline.sinks.search import SearchIndex, walk
from sync_pipeline.sinks.search.requests import look_up
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.table import Table

ROWS = 6
COLUMNS = {"id": "bigint", "title": "text", "is_public": "boolean", "area": "box"}
QUERY = """
    SELECT id, title, status = 'published' AS is_public, box(point(0, 0), point(id, 1)) AS area,
        (SELECT min(bucket_key) FROM media_files f WHERE f.content_id = c.id) AS poster
    FROM content c WHERE kind = 'text'
"""


def adapt(legacy):
    return pd.DataFrame({name: legacy[name] for name in (*COLUMNS, "poster")})


def entity(name, *, media=True, **changes):
    """A title, an area and, with `media`, one file, in a column that may be NULL."""
    columns = {**COLUMNS, "poster": "text"} if media else COLUMNS
    table = RelationalTable(f"catalog.{name}", key=("id",), columns=columns)
    declared = Entity(
        name=name,
        owner="team:tests",
        origin=LegacyQuery(QUERY, key=("id",)),
        tables=(Table("content", key=("id",), stamp="updated_at"),),
        adapt=adapt,
        sinks=(MediaBucket(columns=("poster",), prefix=name), table) if media else (table,),
        partitions=KeyRanges(1),
    )
    return dataclasses.replace(declared, **changes)


def filled(world, declared):
    context = EntityContext.open(declared, world.stores)
    for partition in declared.partitions.names():
        backfill(context, partition)
    assert found(context) == []
    return context


def found(context):
    return sorted((f.sink, f.kind) for f in reconcile(context).findings)


@pytest.fixture(scope="module", autouse=True)
def _content(world):
    world.legacy(
        "INSERT INTO content (kind, title, status) SELECT 'text', 'title ' || n,"
        f" CASE WHEN n %% 2 = 0 THEN 'published' ELSE 'draft' END FROM generate_series(1, {ROWS}) n"
    )
    world.legacy(
        "INSERT INTO media_files (content_id, kind, bucket_key) SELECT id, 'cover', 'poster/' || id || '.jpg'"
        " FROM content WHERE kind = 'text'"
    )
    for (key,) in world.legacy("SELECT bucket_key FROM media_files"):
        world.client.put_object(Bucket=world.legacy_bucket, Key=key, Body=key.encode())


def test_files_that_were_never_looked_for_are_missed(world):
    """The rows read alike: the new column is empty, and the ledger names no file to fill it with."""
    filled(world, entity("gaining", media=False))
    world.target("ALTER TABLE catalog.gaining ADD COLUMN poster text")
    context = EntityContext.open(entity("gaining", version=2), world.stores)
    assert found(context) == [("relational", "stale")] * ROWS
    repair(context, reconcile(context).findings)
    assert found(context) == []


def test_drafts_that_an_older_declaration_has_published_are_extra(world):
    """The ledger wants their documents, which are there; the declaration no longer does."""
    index = SearchIndex("leaking", fields={"id": {"type": "long"}, "title": {"type": "text"}})
    sinks = entity("leaking", media=False).sinks
    filled(world, entity("leaking", media=False, sinks=(*sinks, index)))
    closed = dataclasses.replace(index, where="is_public")
    context = EntityContext.open(entity("leaking", media=False, sinks=(*sinks, closed), version=2), world.stores)
    assert found(context) == [("search", "extra")] * (ROWS // 2)
    repair(context, reconcile(context).findings)
    assert found(context) == []


@pytest.fixture(scope="module")
def pictures(world):
    return filled(world, entity("pictures"))


@pytest.fixture
def lost(world, pictures):
    """A file of the new bucket that somebody has deleted, and whose row it was."""
    target, source, key = world.target(
        "SELECT target_key, source_key, key FROM sync.media_ref WHERE entity = 'pictures' ORDER BY key LIMIT 1"
    )[0]
    world.client.delete_object(Bucket=world.target_bucket, Key=target)
    return target, source, key


def test_a_repair_that_was_killed_leaves_its_files_missing(world, pictures, lost, monkeypatch):
    """The ledger had to forget the copy before it could be made anew."""

    def killed(*_):
        raise UnreachableError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(mending, "sync_keys", killed)
        with pytest.raises(UnreachableError):
            repair(pictures, reconcile(pictures).findings)
    assert found(pictures) == [("media", "missing")]
    world.target("UPDATE sync.cursor SET filled_at = now() WHERE entity = 'pictures'")
    assert sweep(pictures).files == 1
    world.target("DELETE FROM sync.due")
    repair(pictures, reconcile(pictures).findings)
    assert found(pictures) == []


def test_a_damaged_file_that_a_killed_repair_forgot_is_corrupt_and_not_extra(world, pictures, monkeypatch):
    target = world.target("SELECT max(target_key) FROM sync.media_ref WHERE entity = 'pictures'")[0][0]
    world.client.put_object(Bucket=world.target_bucket, Key=target, Body=b"damaged")
    world.target("DELETE FROM sync.media WHERE target_key = %s", (target,))
    assert found(pictures) == [("media", "corrupt")]
    repair(pictures, reconcile(pictures).findings)
    assert found(pictures) == []


def test_a_file_that_can_no_longer_be_repaired_is_pending_and_not_clean(world, pictures, lost):
    _, source, _ = lost
    world.client.delete_object(Bucket=world.legacy_bucket, Key=source)
    repair(pictures, reconcile(pictures).findings)
    assert found(pictures) == [("media", "pending")]
    world.client.put_object(Bucket=world.legacy_bucket, Key=source, Body=source.encode())
    parked = [key for (key,) in world.target("SELECT key FROM sync.due")]
    sync_keys(pictures, pictures.origin.key.parse(parked), Order(force=True))
    assert found(pictures) == []


def test_what_is_copied_after_it_was_called_extra_stays(world, pictures):
    """A bucket that is older than its ledger holds the copies that are yet to be made."""
    target, key = world.target("SELECT target_key, key FROM sync.media_ref WHERE entity = 'pictures' LIMIT 1")[0]
    forgotten = "DELETE FROM {} WHERE target_key = %s"
    for table in ("sync.media_ref", "sync.media"):
        world.target(forgotten.format(table), (target,))
    findings = [finding for finding in reconcile(pictures).findings if finding.kind == "extra"]
    assert [finding.key for finding in findings] == [target]
    sync_keys(pictures, pictures.origin.key.parse([key]), Order(force=True))
    repair(pictures, findings)
    assert world.client.head_object(Bucket=world.target_bucket, Key=target)
    assert found(pictures) == []


@pytest.mark.parametrize("name", ["", "x" * 1_025])
def test_a_name_that_no_file_can_bear_parks_its_row_alone(world, pictures, name):
    """A client refuses to ask for it, or a server to answer: neither says that the bucket is down."""
    ((key,),) = world.legacy("INSERT INTO content (kind, title) VALUES ('text', 'odd') RETURNING id::text")
    world.legacy("INSERT INTO media_files (content_id, kind, bucket_key) VALUES (%s, 'cover', %s)", (key, name))
    assert sync_keys(pictures, pictures.origin.key.parse([key]), Order()).parked == 1
    assert "MediaMissing" in world.target("SELECT error FROM sync.due WHERE key = %s", (key,))[0][0]
    world.legacy("DELETE FROM content WHERE id = %s", (key,))
    world.target("DELETE FROM sync.due")


def test_an_area_of_the_same_size_is_another_area(world, pictures):
    """PostgreSQL calls boxes equal whose areas are."""
    moved = (
        "UPDATE catalog.pictures SET area = area + point(100, 100) WHERE id = (SELECT min(id) FROM catalog.pictures)"
    )
    world.target(moved)
    assert found(pictures) == [("relational", "corrupt")]
    repair(pictures, reconcile(pictures).findings)
    assert found(pictures) == []


@pytest.fixture
def halved(world):
    """Makes an index of two shards answer by one; twenty documents are in both."""
    world.document("PUT", "halved", {"settings": {"number_of_shards": 2, "number_of_replicas": 0}})
    for key in range(20):
        world.document("PUT", f"halved/_doc/{key}", {"id": key})

    def halve():
        node = next(iter(world.document("GET", "_nodes")["nodes"].values()))["name"]
        world.document("PUT", "_cluster/settings", {"transient": {"cluster.routing.allocation.enable": "none"}})
        cancel = {"index": "halved", "shard": 0, "node": node, "allow_primary": True}
        world.document("POST", "_cluster/reroute", {"commands": [{"cancel": cancel}]})

    yield halve
    world.document("PUT", "_cluster/settings", {"transient": {"cluster.routing.allocation.enable": None}})
    world.document("DELETE", "halved")


def test_half_of_an_index_is_not_taken_for_all_of_it(world, halved, monkeypatch):
    monkeypatch.setattr(walk, "_WALK", 2)
    pages = walk.all_ids(world.stores.search, "halved")
    next(pages)
    halved()
    with pytest.raises(UnreachableError):
        list(pages)


def test_a_document_that_could_not_be_looked_at_is_neither_there_nor_missing(world, halved):
    halved()
    with pytest.raises(UnreachableError):
        look_up(world.stores.search, "halved", [str(key) for key in range(20)])


def test_a_row_that_does_not_fit_is_pending_and_hides_no_other(world):
    """Nor does it fit where rows are laid beside the table's."""
    narrow = dataclasses.replace(
        entity("narrow", media=False),
        sinks=(RelationalTable("catalog.narrow", key=("id",), columns=COLUMNS | {"title": "varchar(10)"}),),
    )
    context = filled(world, narrow)
    ((key,),) = world.legacy("INSERT INTO content (kind, title) VALUES ('text', 'longer than ten') RETURNING id::text")
    sync_keys(context, context.origin.key.parse([key]), Order())
    world.target("DELETE FROM catalog.narrow WHERE id = (SELECT min(id) FROM catalog.narrow)")
    assert found(context) == [("relational", "missing"), ("relational", "pending")]
    world.legacy("DELETE FROM content WHERE id = %s", (key,))
    world.target("DELETE FROM sync.due")
