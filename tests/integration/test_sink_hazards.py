"""What breaks the writing and comparing of the new side, step by step; nobody follows."""

import threading
from contextlib import closing
from dataclasses import replace

import pandas as pd
import psycopg2
import pyarrow as pa
import pytest
from elasticsearch import Elasticsearch

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.errors import UnreachableError
from sync_pipeline.ledger.ledger import PLAN_COLUMNS, next_draw
from sync_pipeline.operate.status import status_of
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.pipeline import sync_keys, sync_page
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run.sweep import sweep
from sync_pipeline.settings import Bucket
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.search.bulk import BulkResult
from sync_pipeline.sinks.search.requests import look_up
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.table import Table
from sync_pipeline.stores.stores import Stores
from tests.world import opened, wait_for

EDIT = "UPDATE content SET title = %s, updated_at = clock_timestamp(), version = version + 1 WHERE id = %s"
ODD = Entity(
    name="odd",
    owner="team:tests",
    origin=LegacyQuery("SELECT id, extra FROM odd", key=("id",)),
    tables=(Table("odd", key=("id",)),),
    adapt=lambda legacy: pd.DataFrame({"id": legacy["id"], "extra": legacy["extra"]}),
    sinks=(RelationalTable("catalog.odd", key=("id",), columns={"id": "bigint", "extra": "jsonb"}),),
    partitions=KeyRanges(1),
)


@pytest.fixture(scope="module")
def world(fleet):
    with opened(fleet, "sink_hazards", SYNC_RECHECK_SECONDS="0") as world:
        world.load(60, 20)
        world.all_in("text")
        world.target("UPDATE sync.cursor SET filled_at = now()")
        yield world


@pytest.fixture
def context(world):
    context = world.context("text")
    yield context
    assert reconcile(context).findings == []


@pytest.fixture
def key(world):
    return world.target("SELECT min(id) FROM catalog.text WHERE is_public")[0][0]


def sync(context, *keys, **order):
    return sync_keys(context, context.origin.key.parse(map(str, keys)), Order(**order))


def all_keys(world):
    return [key for (key,) in world.target("SELECT id FROM catalog.text ORDER BY 1")]


def written(world):
    """Every row, document, and file that a row names."""
    rows = world.target("SELECT t::text FROM catalog.text t ORDER BY id")
    world.document("POST", "text/_refresh")
    hits = world.document("GET", "text/_search?size=1000")["hits"]["hits"]
    files = world.target("SELECT key, source_key, target_key FROM sync.media_ref WHERE entity = 'text' ORDER BY 1, 2")
    return rows, {hit["_id"]: hit["_source"] for hit in hits}, files


@pytest.mark.hazard(18)
def test_history_and_live_delta_write_the_same(world, context, monkeypatch):
    """By plain COPY into empty tables here, and by events, a few rows at a time, there."""
    keys = all_keys(world)
    tables = "catalog.text, sync.ledger_text, sync.media_ref"
    world.target(f"TRUNCATE {tables}")
    with monkeypatch.context() as patch:
        patch.setattr("sync_pipeline.batch.write._FIRST_LOAD_ROWS", 1)
        sync_page(context, None, None, "true", Order())
    history = written(world)
    world.target(f"TRUNCATE {tables}")
    for first in range(0, len(keys), 3):
        sync(context, *keys[first : first + 3], acknowledge=True)
    assert written(world) == history
    assert all(history)
    assert sync_page(context, None, None, "true", Order()).written == 0


@pytest.mark.hazard(26)
def test_what_no_refresh_has_shown_yet_is_counted(world, context, key):
    world.document("PUT", "text/_settings", {"index.refresh_interval": "-1"})
    try:
        world.legacy(EDIT, ("not refreshed", key))
        sync(context, key)
        assert reconcile(context).findings == []
        world.document("PUT", "text/_doc/88888888", {"header": "nobody's"})
        assert [(f.sink, f.kind, f.key) for f in reconcile(context).findings] == [("search", "extra", "88888888")]
    finally:
        world.document("DELETE", "text/_doc/88888888")
        world.document("PUT", "text/_settings", {"index.refresh_interval": None})


@pytest.mark.hazard(32)
def test_nothing_is_derived_from_a_listing_that_fails(world, context):
    """What a sweep has seen until then is worth nothing."""
    bucket = Bucket(context.stores.settings.legacy_bucket.endpoint, "nowhere")
    swept = "SELECT swept_at FROM sync.cursor WHERE entity = 'text'"
    before = world.target(swept)
    elsewhere = Stores(replace(context.stores.settings, legacy_bucket=bucket))
    with closing(elsewhere), pytest.raises(UnreachableError, match="listed to its end"):
        sweep(replace(context, stores=elsewhere))
    assert world.target("SELECT 1 FROM sync.due WHERE entity = 'text'") == []
    assert world.target(swept) == before
    assert any("listed to its end" in alert for alert in status_of(context.stores, context.entity)["alerts"])
    sweep(context)
    assert status_of(context.stores, context.entity)["alerts"] == []


@pytest.mark.parametrize("refusing", [False, True])
def test_a_bulk_tells_what_was_refused_and_leaves_the_rest_as_it_was_sent(world, monkeypatch, refusing):
    index, client = SearchIndex(f"bulk_{refusing}".lower(), fields={"n": {"type": "long"}}), world.stores.search
    index.ensure(client)
    ids, asked, send = ["1", "2", "3", "4"], [], Elasticsearch.bulk
    monkeypatch.setattr(Elasticsearch, "bulk", lambda *args, **named: asked.append(named) or send(*args, **named))

    def write(versions, documents):
        documents = pa.array(documents, pa.string())
        return index.write(client, pa.array(ids), pa.array(versions, pa.int64()), documents, refusing=refusing)

    assert write([5] * 4, ['{"n": 1}'] * 4) == BulkResult()
    assert len(asked) == 1
    result = write([6, 4, 6, 6], ['{"n": 2}', '{"n": 2}', '{"n": "two"}', None])
    assert len(asked) == (2 if refusing else 3)
    assert result.conflicts == [1]
    assert [(n, kind) for n, (kind, _) in result.rejected.items()] == [(2, "document_parsing_exception")]
    assert result.retriable == []
    now = look_up(client, index.alias, ids)
    assert [(doc["found"], doc.get("_version"), doc.get("_source")) for doc in now] == [
        (True, 6, {"n": 2}),
        (True, 5, {"n": 1}),
        (True, 5, {"n": 1}),
        (False, None, None),
    ]


@pytest.mark.hazard(143)
@pytest.mark.parametrize("operations", ["deletes", "writes", "both"])
def test_nothing_that_is_sent_to_a_missing_alias_makes_an_index(world, operations):
    """Of deletes alone too: the cluster requires an alias of writes only."""
    index, client = SearchIndex(f"missing_{operations}", fields={"n": {"type": "long"}}), world.stores.search
    documents = {"deletes": [None, None], "writes": ["{}", "{}"], "both": [None, "{}"]}[operations]
    ids, versions = pa.array(["1", 'кл"юч']), pa.array([5, 5], pa.int64())
    result = index.write(client, ids, versions, pa.array(documents, pa.string()))
    assert not client.indices.exists(index=index.alias)
    assert (result.retriable, result.rejected, result.conflicts) == ([0, 1], {}, [])
    index.ensure(client)
    assert index.write(client, ids, versions, pa.array(documents, pa.string())).is_clean


@pytest.mark.hazard(143)
def test_without_the_guard_deletes_alone_make_an_index_of_the_alias_s_name(world, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "143")
    index, client = SearchIndex("missing_unguarded", fields={"n": {"type": "long"}}), world.stores.search
    index.write(client, pa.array(["1"]), pa.array([5], pa.int64()), pa.array([None], pa.string()))
    assert client.indices.exists(index=index.alias)


@pytest.mark.hazard(143)
def test_deletes_alone_of_documents_that_are_newer_are_refused_and_leave_them_as_they_are(world):
    index, client = SearchIndex("newer", fields={"n": {"type": "long"}}), world.stores.search
    index.ensure(client)
    ids, none = pa.array(["1", "2"]), pa.array([None, None], pa.string())
    assert index.write(client, ids, pa.array([9, 5], pa.int64()), pa.array(['{"n": 1}', '{"n": 2}'])).is_clean
    assert index.write(client, ids, pa.array([7, 7], pa.int64()), none).conflicts == [0]
    now = look_up(client, index.alias, ids.to_pylist())
    assert [(doc["found"], doc.get("_version"), doc.get("_source")) for doc in now] == [
        (True, 9, {"n": 1}),
        (False, None, None),
    ]


@pytest.mark.hazard(35)
def test_json_that_the_new_side_cannot_hold_is_parked_alone_with_the_reason(world):
    world.legacy("CREATE TABLE odd (id bigint PRIMARY KEY, extra json); GRANT SELECT ON odd TO sync_reader")
    for n, extra in enumerate((r'{"a": "b"}', r'{"a": "\u0000"}', r'{"a": "\ud800"}')):
        world.legacy("INSERT INTO odd VALUES (%s, %s)", (n, extra))
    context = EntityContext.open(ODD, world.stores)
    assert sync(context, 0, 1, 2).parked == 2
    assert world.target("SELECT id FROM catalog.odd") == [(0,)]
    parked = world.target("SELECT key, step, message FROM sync.due WHERE entity = 'odd' ORDER BY key")
    assert [(key, step) for key, step, _ in parked] == [("1", "row"), ("2", "row")]
    assert all(r"\u0000" in message or "surrogate" in message for *_, message in parked)


def test_a_constraint_that_is_looked_at_with_the_commit_parks_the_row_that_breaks_it(world):
    table = replace(ODD.table, name="catalog.unlike")
    entity = replace(
        ODD, name="unlike", origin=LegacyQuery("SELECT id, extra FROM unlike", key=("id",)), sinks=(table,)
    )
    world.legacy("CREATE TABLE unlike (id bigint PRIMARY KEY, extra json); GRANT SELECT ON unlike TO sync_reader")
    world.legacy("INSERT INTO unlike VALUES (1, '[1]'), (2, '[2]'), (3, '[1]'), (4, '[4]')")
    context = EntityContext.open(replace(entity, tables=(Table("unlike", key=("id",)),)), world.stores)
    world.target("ALTER TABLE catalog.unlike ADD CONSTRAINT none_alike UNIQUE (extra) DEFERRABLE INITIALLY DEFERRED")
    assert sync(context, 1, 2, 3, 4).parked == 1
    assert world.target("SELECT id FROM catalog.unlike ORDER BY 1") == [(1,), (2,), (4,)]
    ((key, message),) = world.target("SELECT key, message FROM sync.due WHERE entity = 'unlike'")
    assert key == "3"
    assert "none_alike" in message


@pytest.mark.hazard(37)
def test_what_arrives_during_a_comparison_is_no_drift(world, context, key):
    """It differs when the rows are walked, and no longer when the suspects are looked at again."""
    world.legacy(EDIT, ("on its way", key))
    assert [(f.kind, f.key) for f in reconcile(context).findings] == [("stale", str(key))] * 2
    assert reconcile(context, lambda _: sync(context, key)).findings == []


@pytest.mark.hazard(47)
@pytest.mark.parametrize("new", [False, True])
def test_a_batch_that_waits_for_a_key_holds_none_above_it(world, context, new):
    """So two batches wait for each other in no order of their keys."""
    low, high = (1_000_001, 1_000_002) if new else all_keys(world)[:2]
    take = "SELECT 1 FROM sync.ledger_text WHERE id = %s FOR UPDATE NOWAIT"
    if new:
        take = "INSERT INTO sync.ledger_text (id, seen, written, basis, held) VALUES (%s, 0, 0, 0, 0)"
    plan = pa.table({"id": [high, low]})
    for name in PLAN_COLUMNS:
        kind = pa.int64() if name == "_digest" else pa.int16()
        plan = plan.append_column(name, pa.array([0, 0], kind))

    def apply():
        with context.stores.target() as cursor:
            context.ledger.apply(cursor, plan, next_draw(context.stores), context.bits.all)
            cursor.execute("ROLLBACK; BEGIN")

    with closing(psycopg2.connect(world.target_url)) as first, closing(psycopg2.connect(world.target_url)) as second:
        first.cursor().execute(take, (low,))
        batch = threading.Thread(target=apply)
        batch.start()
        try:
            waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            wait_for(lambda: world.target(waits))
            second.cursor().execute("SET lock_timeout = '1s'")
            second.cursor().execute(take, (high,))
        finally:
            first.rollback()
            second.rollback()
            batch.join()


@pytest.mark.hazard(48)
def test_rows_of_an_older_adapter_are_counted_and_filled_again(world, context):
    """Their source has not changed, so no digest tells."""

    def louder(legacy):
        return {**context.entity.adapt(legacy), "header": legacy["title"].str.upper()}

    rows = len(all_keys(world))
    assert sweep(context).outdated == 0
    newer = EntityContext.open(replace(context.entity, version=2, adapt=louder), world.stores)
    swept = sweep(newer)
    assert (swept.outdated, swept.changed) == (rows, 0)
    assert {finding.kind for finding in reconcile(newer).findings} == {"stale"}
    assert status_of(world.stores, newer.entity)["backfill"]["done"] == 0
    assert sync_page(newer, None, None, "true", Order()).written == rows
    assert sweep(newer).outdated == 0
    assert reconcile(newer).findings == []
    sync_page(context, None, None, "true", Order())
