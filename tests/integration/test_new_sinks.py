"""A sink that is declared later, moves, or is left out for a while: it alone is filled, with the rows there are."""

import dataclasses
import datetime as dt
import threading

import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import DeclarationError
from sync_pipeline.ledger import sinks
from sync_pipeline.ledger.sinks import DeclaredSink, register
from sync_pipeline.model.findings import FindingKind
from sync_pipeline.operate import snapshot
from sync_pipeline.operate.status import status_of
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.preflight.ownership import check_ownership
from sync_pipeline.queue import due
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run import new_sinks
from sync_pipeline.run.live import caught_up, work
from sync_pipeline.run.new_sinks import fill_new_sinks
from sync_pipeline.sinks.search import SearchIndex
from tests.world import opened, wait_for

SUGGEST = SearchIndex("text-suggest", fields={"header": {"type": "text"}}, where="is_public", label="suggest")


@pytest.fixture
def world(fleet, monkeypatch):
    monkeypatch.setattr(new_sinks, "_PAGE", 7)
    with opened(fleet, "new_sinks", SYNC_RECHECK_SECONDS="0", SYNC_SWEEP_SECONDS="1e9") as world:
        world.load(120, 10)
        world.all_in("text")
        yield world


def declared(world, *more):
    """The entity, opened with more sinks than its file has."""
    entity = world.contexts["text"].entity
    return EntityContext.open(dataclasses.replace(entity, sinks=(*entity.sinks, *more)), world.stores)


def fill(context):
    """Queue and do all that a new sink lacks."""
    is_busy = True
    while is_busy:
        is_left = fill_new_sinks(context, threading.Event())
        is_busy = work(context, lambda *_: None) or is_left


def titles(world, alias=SUGGEST.alias):
    found = world.document("POST", f"{alias}/_search", {"size": 10_000, "query": {"match_all": {}}})
    return {int(hit["_id"]): hit["_source"]["header"] for hit in found["hits"]["hits"]}


def versions_of(world):
    world.document("POST", "text/_refresh")
    found = world.document("POST", "text/_search", {"size": 10_000, "version": True, "_source": False})
    return {hit["_id"]: hit["_version"] for hit in found["hits"]["hits"]}


def public(world):
    return dict(world.target("SELECT id, header FROM catalog.text WHERE is_public"))


def refreshed(world, alias=SUGGEST.alias):
    world.document("POST", f"{alias}/_refresh")
    return titles(world, alias)


def test_it_alone_is_written(world):
    before = world.target("SELECT id, written FROM sync.ledger_text ORDER BY 1")
    versions = versions_of(world)
    context = declared(world, SUGGEST)
    fill(context)
    assert refreshed(world) == public(world) != {}
    assert world.target("SELECT id, written FROM sync.ledger_text ORDER BY 1") == before
    assert versions_of(world) == versions != {}
    assert reconcile(context).findings == []


def test_what_is_gone_later_goes_there_as_well(world):
    """The ledger knows of each key that the new sink holds it."""
    context = declared(world, SUGGEST)
    fill(context)
    ((key,),) = world.target("SELECT min(id) FROM catalog.text WHERE is_public")
    world.legacy("UPDATE content SET deleted_at = now(), updated_at = now() WHERE id = %s", [key])
    sync_keys(context, context.origin.key.parse([str(key)]), Order(acknowledge=True))
    assert key not in refreshed(world)
    assert reconcile(context).findings == []


def test_until_it_is_filled_nothing_is_certified(world):
    context = declared(world, SUGGEST)
    assert [(f.sink, f.kind) for f in reconcile(context).findings if f.kind is FindingKind.UNKNOWN] == [
        ("suggest", FindingKind.UNKNOWN)
    ]
    with world.stores.target() as cursor:
        world.target("UPDATE sync.cursor SET applied_through = now(), swept_from = now(), filled_at = now()")
        assert sinks.filling(cursor, "text", ["suggest"]) != []
    assert not caught_up(context, context.stores.legacy_now() - dt.timedelta(hours=1))
    assert "suggest: new, or at another place" in " ".join(status_of(context.stores, context.entity)["alerts"])
    fill(context)
    assert "suggest: new" not in " ".join(status_of(context.stores, context.entity)["alerts"])


def test_a_follower_fills_it_beside_the_live_delta(world):
    context = declared(world, SUGGEST)
    with world.following([context]):
        wait_for(lambda: refreshed(world) == public(world), 60)


def test_no_more_is_queued_than_there_is_room_for(world, monkeypatch):
    monkeypatch.setattr(new_sinks, "_MOST_QUEUED", 10)
    context = declared(world, SUGGEST)
    assert fill_new_sinks(context, threading.Event())
    assert world.target("SELECT sum(cardinality(keys)) FROM sync.due WHERE sink = 'suggest'")[0][0] < 10 + 7
    fill(context)
    assert refreshed(world) == public(world)


def test_one_that_moves_is_filled_where_it_is_now(world):
    fill(declared(world, SUGGEST))
    context = declared(world, dataclasses.replace(SUGGEST, alias="text-other"))
    fill(context)
    assert refreshed(world, "text-other") == public(world)


def test_one_that_was_left_out_for_a_while_catches_up(world):
    fill(declared(world, SUGGEST))
    without = declared(world)
    (notice,) = [n for n in check_ownership(world.stores, [without.entity]) if "declares its sink" in n.what]
    assert "entity text declares its sink suggest no longer: alias text-suggest stays as it is" in notice.what
    ((key,),) = world.target("SELECT min(id) FROM catalog.text WHERE is_public")
    ((gone,),) = world.target("SELECT max(id) FROM catalog.text WHERE is_public")
    world.legacy("UPDATE content SET title = 'changed meanwhile', updated_at = now() WHERE id = %s", [key])
    world.legacy("UPDATE content SET deleted_at = now(), updated_at = now() WHERE id = %s", [gone])
    sync_keys(without, without.origin.key.parse([str(key), str(gone)]), Order(acknowledge=True))
    context = declared(world, SUGGEST)
    fill(context)
    assert refreshed(world) == public(world)
    assert refreshed(world)[key] == "changed meanwhile"


def test_a_bit_is_never_given_twice(world):
    first = declared(world, SUGGEST).bits["suggest"]
    other = declared(world, dataclasses.replace(SUGGEST, alias="text-more", label="more")).bits["more"]
    assert first != other
    assert declared(world, SUGGEST).bits["suggest"] == first


def test_a_ledger_that_has_known_too_many_sinks_says_so(world):
    table = DeclaredSink("relational", True, (), "table catalog.text")
    many = [table, *(DeclaredSink(f"sink_{n}", True, (), f"alias sink-{n}") for n in range(20))]
    with pytest.raises(DeclarationError, match="has no bit left for 'sink_"), world.stores.target() as cursor:
        register(cursor, "text", "sync.ledger_text", many)


def test_a_ledger_that_is_made_again_from_the_log_knows_what_a_new_sink_holds(world):
    context = declared(world, SUGGEST)
    fill(context)
    query = "SELECT id, held FROM sync.ledger_text WHERE digest IS NOT NULL ORDER BY 1"
    held = world.target(query)
    world.target("UPDATE sync.ledger_text SET held = 0")
    snapshot.rebuild(context)
    assert world.target(query) == held


def test_what_is_owed_to_one_that_was_left_out_is_dropped(world):
    context = declared(world, SUGGEST)
    fill_new_sinks(context, threading.Event())
    assert world.target("SELECT count(*) FROM sync.due WHERE sink = 'suggest'") != [(0,)]
    without = declared(world)
    while work(without, lambda *_: None):
        pass
    assert world.target("SELECT count(*) FROM sync.due WHERE entity = 'text'") == [(0,)]
    fill(declared(world, SUGGEST))
    assert refreshed(world) == public(world)


def test_a_ledger_from_before_there_was_a_registry_is_opened_as_it_is(world):
    """The migration knows no places; rows are there, and no sink lacks any."""
    world.target("UPDATE sync.sink SET place = NULL")
    context = declared(world)
    with world.stores.target() as cursor:
        assert sinks.filling(cursor, "text", context.entity.sink_names) == []
    assert world.target("SELECT count(*) FROM sync.sink WHERE place IS NULL AND entity = 'text'") == [(0,)]
    assert declared(world, SUGGEST).bits["relational"] == 1


def test_a_program_with_an_older_file_takes_nothing_from_a_newer_one(world):
    """Both run while a release is rolled out: the older one leaves records and bits of a sink that it does not know."""
    older = declared(world)
    newer = declared(world, SUGGEST)
    fill(newer)
    ((key,),) = world.target("SELECT min(id) FROM catalog.text WHERE is_public")
    with world.stores.target() as cursor:
        due.owe_to(cursor, "text", "suggest", [str(key)])
    work(older, lambda *_: None)
    assert world.target("SELECT sink FROM sync.due WHERE entity = 'text'") == [("suggest",)]
    world.legacy("UPDATE content SET title = 'by the older one', updated_at = now() WHERE id = %s", [key])
    sync_keys(older, older.origin.key.parse([str(key)]), Order(acknowledge=True))
    bit = newer.bits["suggest"]
    assert world.target(f"SELECT held & {bit} FROM sync.ledger_text WHERE id = %s", [key]) == [(bit,)]
    declared(world)  # and it begins once more, which leaves the sink out
    world.hurry()
    fill(newer)
    assert refreshed(world) == public(world)
    assert refreshed(world)[key] == "by the older one"


def test_the_bit_of_rows_is_the_first_tables_for_good(world):
    entity = world.contexts["text"].entity
    labelled = dataclasses.replace(entity.table, label="texts")
    changed = tuple(labelled if sink is entity.table else sink for sink in entity.sinks)
    with pytest.raises(DeclarationError, match="first table is 'texts' now, and its ledger knows 'relational'"):
        EntityContext.open(dataclasses.replace(entity, sinks=changed), world.stores)
