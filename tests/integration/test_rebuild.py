"""An index rebuilt beside the live one, step by step: what it is made of, what reaches it, and what keeps it back."""

from dataclasses import replace

import pytest

from sync_pipeline.batch.delivery import send
from sync_pipeline.batch.order import Order
from sync_pipeline.cli import tables
from sync_pipeline.entity import Entity
from sync_pipeline.errors import DeclarationError, SettingError
from sync_pipeline.ledger.rebuilds import alone
from sync_pipeline.operate.status import status_of
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.preflight.preflight import preflight
from sync_pipeline.rebuild import index as story
from sync_pipeline.rebuild.rebuild import abandon, clear, rebuild_index
from sync_pipeline.rebuild.report import COMPARED
from sync_pipeline.run import live
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.search.swap import AliasSwap
from tests.rebuilt import Once
from tests.sinks import index_of
from tests.stalled import stalled
from tests.world import opened

EDIT = "UPDATE content SET title = %s, updated_at = clock_timestamp(), version = version + 1 WHERE id = %s"
DELETE = "UPDATE content SET deleted_at = now(), updated_at = clock_timestamp() WHERE id = %s"
POISON = """UPDATE content SET attrs = '{"duration": "not a number"}', updated_at = clock_timestamp() WHERE id = %s"""


@pytest.fixture(scope="module")
def world(fleet):
    with opened(fleet, "rebuild", SYNC_CHUNK_ROWS="20") as world:
        world.load(180, 10)
        for name in world.contexts:
            world.all_in(name)
        yield world


@pytest.fixture
def context(world):
    """Texts; whatever a scene leaves, the last rebuild of all is of what the file declares, and right."""
    context = world.context("text")
    yield context
    abandon(world.stores, context.entity)
    world.hurry()
    work_off(context)
    assert not rebuild_index(context).findings
    clear(world.stores, context.entity)
    work_off(context)
    assert world.differences() == []


@pytest.fixture
def keys(world, context):
    """Public texts in the order of a fill."""
    return [key for (key,) in world.target("SELECT id FROM catalog.text WHERE is_public ORDER BY id")]


def work_off(context):
    while live.work(context, lambda *_: None):
        pass


def sync(context, *keys, **order):
    return sync_keys(context, context.origin.key.parse(map(str, keys)), Order(**order))


def altered(context, **changes):
    """The context with another search index."""
    index = replace(index_of(context.entity), **changes)
    sinks = tuple(index if isinstance(sink, SearchIndex) else sink for sink in context.entity.sinks)
    return replace(context, entity=replace(context.entity, sinks=sinks))


def behind(world, alias="text"):
    return list(world.document("GET", f"_alias/{alias}"))


def found(world, index, key):
    """A document's version, None where it is not there."""
    (doc,) = world.document("POST", f"{index}/_mget", {"ids": [str(key)]})["docs"]
    return doc.get("_version")


def search_faults(world, entity):
    return [n for n in preflight(world.stores, [entity]) if n.about == "search" and n.level == "error"]


@pytest.mark.hazard(27)
def test_a_changed_mapping_is_served_after_a_rebuild(world, context, keys):
    (former,) = behind(world)
    world.document("PUT", f"{former}/_settings", {"index": {"max_result_window": 20_000}})
    world.document("PUT", f"{former}/_alias/long-ones", {"filter": {"range": {"reading_seconds": {"gte": 60}}}})
    fields = {**index_of(context.entity).fields, "header": {"type": "keyword"}, "price": {"type": "double"}}
    settings = {"refresh_interval": "2s", "analysis": {"analyzer": {"ours": {"type": "standard"}}}}
    changed = altered(context, fields=fields, settings=settings)
    faults = search_faults(world, changed.entity)
    assert len(faults) == 2
    assert all("sync-pipeline rebuild index text" in fault.remedy for fault in faults)

    made = rebuild_index(changed)

    assert (made.former, made.findings) == (former, [])
    assert made.compared == len(keys)
    assert behind(world) == behind(world, "long-ones") == [made.name]
    there = world.document("GET", made.name)[made.name]
    assert there["aliases"] == {"text": {}, "long-ones": {"filter": {"range": {"reading_seconds": {"gte": 60}}}}}
    assert there["mappings"]["properties"]["header"] == {"type": "keyword"}
    kept = there["settings"]["index"]
    assert (kept["max_result_window"], kept["number_of_replicas"], kept["refresh_interval"]) == ("20000", "0", "2s")
    assert kept["analysis"] == {"analyzer": {"ours": {"type": "standard"}}}
    assert "price" in world.document("GET", f"text/_doc/{keys[0]}")["_source"]
    assert search_faults(world, changed.entity) == []

    world.legacy(EDIT, ("after the swap", keys[0]))
    sync(changed, keys[0])
    assert found(world, former, keys[0]) < found(world, "text", keys[0])
    assert clear(world.stores, context.entity) == [former]
    assert former not in world.document("GET", "_aliases")


def test_changes_reach_both_indices_and_unchanged_documents_only_the_new_one(world, context, keys):
    (former,) = behind(world)
    writes = world.document("GET", f"{former}/_stats/indexing")["_all"]["total"]["indexing"]["index_total"]

    def edit():
        world.legacy(EDIT, ("filled before", keys[0]))
        world.legacy(EDIT, ("filled later", keys[-1]))
        sync(context, keys[0], keys[-1], acknowledge=True)
        assert found(world, former, keys[0]) == found(world, "text-next", keys[0]) is not None
        assert found(world, former, keys[-1]) == found(world, "text-next", keys[-1])

    made = rebuild_index(context, Once(edit))
    assert made.findings == []
    after = world.document("GET", f"{former}/_stats/indexing")["_all"]["total"]["indexing"]["index_total"]
    assert after - writes == 2


def test_what_is_deleted_during_the_fill_stays_deleted(world, context, keys):
    filled, coming, read = keys[0], keys[-1], keys[len(keys) // 2]
    late = []

    def delete():
        for key in (filled, coming):
            sync(context, key, documents=True, hand_over=late.append)
            world.legacy(DELETE, [key])
        sync(context, filled, coming, acknowledge=True)
        with stalled(context, read, Order(documents=True)):
            world.legacy(DELETE, [read])
            sync(context, read, acknowledge=True)
        # as if these requests were so late that no tombstone refuses them any more
        (new,) = behind(world, "text-next")
        world.document("PUT", f"{new}/_settings", {"index": {"gc_deletes": "0ms"}})
        world.document("POST", f"{new}/_refresh")
        for operations in late:
            send(context, operations)

    made = rebuild_index(context, Once(delete))
    assert made.findings == []
    work_off(context)
    assert [found(world, "text", key) for key in (filled, coming, read)] == [None] * 3


def test_who_was_on_the_way_when_it_began_writes_the_new_index_too(world, context, keys):
    """The key is gone; a copy of its document is in the new index, and only the batch that knows of none deletes it."""
    late = []
    world.legacy(DELETE, [keys[0]])
    sync(context, keys[0], acknowledge=True, hand_over=late.append)

    def arrive():
        world.document("PUT", f"text-next/_doc/{keys[0]}?version=1&version_type=external", {"header": "carried over"})
        send(context, late[0])
        assert world.target("SELECT count(*) FROM sync.due WHERE keys = ARRAY[%s]", [str(keys[0])]) == [(1,)]

    assert rebuild_index(context, Once(arrive)).findings == []
    assert found(world, "text", keys[0]) is None


def test_documents_of_parked_and_unswept_rows_are_carried_over(world, context, keys):
    parked, unswept = keys[:2]
    world.legacy(POISON, [parked])
    sync(context, parked, acknowledge=True)
    world.legacy("DELETE FROM content_tags WHERE content_id = %s", [unswept])
    world.legacy("DELETE FROM media_files WHERE content_id = %s", [unswept])
    world.legacy("DELETE FROM content WHERE id = %s", [unswept])
    before = [world.document("GET", f"text/_doc/{key}") for key in (parked, unswept)]
    made = rebuild_index(context)
    assert (made.carried_over, made.findings) == (2, [])
    after = [world.document("GET", f"text/_doc/{key}") for key in (parked, unswept)]
    assert [doc["_index"] for doc in after] == [made.name] * 2
    assert [(doc["_version"], doc["_source"]) for doc in after] == [(d["_version"], d["_source"]) for d in before]
    world.legacy(DELETE, [parked])
    sync(context, parked, unswept)


@pytest.mark.hazard(27)
def test_a_planted_document_refuses_the_swap(world, context, keys, capsys):
    (former,) = behind(world)
    newer = world.target("SELECT last_value + 1000 FROM sync.revision")[0][0]

    def plant():
        for key, version in (("999999", 1), (keys[0], newer), ("no-key", 1)):
            where = f"text-next/_doc/{key}?version={version}&version_type=external_gte"
            world.document("PUT", where, {"header": "planted"})

    made = rebuild_index(context, Once(plant))
    assert {(finding.key, finding.kind) for finding in made.findings} == {
        ("999999", "extra"),
        ("no-key", "extra"),
        (str(keys[0]), "corrupt"),
    }
    assert behind(world) == [former]
    assert found(world, "text", keys[0]) < newer
    tables.rebuilt([made])
    assert f"Readers of text stay with {former}" in capsys.readouterr().out
    assert {finding.key for finding in rebuild_index(context).findings} == {"999999", "no-key", str(keys[0])}
    assert abandon(world.stores, context.entity) == made.name
    assert behind(world) == [former]
    assert made.name not in world.document("GET", "_aliases")


def test_what_the_new_mapping_refuses_is_named_with_its_reason(world, context, keys):
    changed = altered(context, fields={**index_of(context.entity).fields, "header": {"type": "long"}})
    made = rebuild_index(changed)
    assert {finding.kind for finding in made.findings} == {"missing"}
    assert len(made.findings) > len(keys) / 2
    assert "document_parsing_exception" in made.findings[0].detail
    assert status_of(world.stores, context.entity)["alerts"] == [
        f"the rebuild of {made.name} was cut off: sync-pipeline rebuild index goes on with it,"
        " rebuild abandon gives it up"
    ]
    with pytest.raises(DeclarationError, match="its file has changed"):
        rebuild_index(context)


@pytest.mark.parametrize("swapped", [False, True])
def test_what_the_former_index_refused_is_taken_by_the_new_one_or_stays_owed(world, context, keys, swapped):
    parked = "SELECT count(*) FROM sync.due WHERE reason = 'rejected' AND step = 'document' AND key = %s"
    left = (
        "SELECT count(*) FROM sync.due WHERE step = 'document' AND key = %s OR reason = 'documents' AND %s = ANY(keys)"
    )
    (former,) = behind(world)
    world.document("PUT", f"{former}/_mapping", {"properties": {"body": {"type": "text"}, "version": {"type": "ip"}}})
    changed = altered(context, fields={**index_of(context.entity).fields, "version": {"type": "integer"}})
    refusing = altered(context, fields={**index_of(context.entity).fields, "version": {"type": "ip"}})
    world.legacy(EDIT, ("refused", keys[0]))
    sync(refusing, keys[0])
    assert world.target(parked, [str(keys[0])]) == [(1,)]
    if swapped:
        assert rebuild_index(changed).findings == []
        world.hurry()
        work_off(changed)
        assert world.document("GET", f"text/_doc/{keys[0]}")["_source"]["header"] == "refused"
    else:
        rebuild_index(changed, Once(lambda: world.document("PUT", "text-next/_doc/999999", {}), COMPARED))
        abandon(world.stores, context.entity)
    assert world.target(left, [str(keys[0]), str(keys[0])]) == [(0 if swapped else 1,)]


def test_one_at_a_time_and_it_is_shown(world, context):
    def look():
        shown = status_of(world.stores, context.entity)["rebuild"]
        assert (shown["state"], shown["rows"], shown["at_work"]) == ("filling", 20, True)
        assert status_of(world.stores, context.entity)["alerts"] == []
        for other in (rebuild_index, lambda context: abandon(context.stores, context.entity)):
            with pytest.raises(SettingError, match="another process is at work"):
                other(context)

    rebuild_index(context, Once(look))
    assert status_of(world.stores, context.entity)["rebuild"] is None
    with alone(world.stores, "text"), alone(world.stores, "video"):
        pass


def test_the_swap_waits_for_documents_that_are_owed(world, context, keys, monkeypatch):
    """What readers have seen and the new index has not is still owed: it comes first, then the swap."""
    (former,) = behind(world)
    swaps, tries = story.NewIndex.swap, []

    def withheld(coming, rebuild):
        version = found(world, former, keys[0])
        world.document("DELETE", f"{rebuild.name}/_doc/{keys[0]}?version={version}&version_type=external_gte")
        with context.stores.target() as cursor:
            cursor.execute(
                "INSERT INTO sync.due (entity, reason, keys, revision, priority)"
                " VALUES ('text', 'documents', ARRAY[%s], 0, 1)",
                (str(keys[0]),),
            )
        return swaps(coming, rebuild)

    def work(*arguments):
        tries.append(behind(world))
        return live.work(*arguments)

    monkeypatch.setattr(story.NewIndex, "swap", withheld)
    monkeypatch.setattr(story, "work", work)
    made = rebuild_index(context)
    assert tries
    assert set(map(tuple, tries)) == {(former,)}
    assert found(world, made.name, keys[0]) == found(world, former, keys[0])


def test_an_entity_without_an_index_has_none_to_rebuild(world, context):
    sinks = tuple(sink for sink in context.entity.sinks if not isinstance(sink, SearchIndex))
    bare: Entity = replace(context.entity, sinks=sinks)
    with pytest.raises(SettingError, match="has no search index"):
        rebuild_index(replace(context, entity=bare))


@pytest.mark.parametrize("alias", [None, "article"])
def test_what_is_left_of_rebuilds_goes_where_the_file_has_no_such_index_any_more(world, context, alias):
    made = rebuild_index(context)

    def give_up():
        raise SettingError("given up")

    with pytest.raises(SettingError, match="given up"):
        rebuild_index(context, Once(give_up))
    if alias:
        entity = altered(context, alias=alias).entity
    else:
        entity = replace(context.entity, sinks=tuple(s for s in context.entity.sinks if not isinstance(s, SearchIndex)))
    assert abandon(world.stores, entity)
    assert clear(world.stores, entity) == [made.former]
    assert behind(world) == [made.name]
    assert list(world.document("GET", "text-*")) == [made.name]


def test_what_readers_have_seen_shows_after_the_swap(world, context, keys, monkeypatch):
    """Written to both indices, and shown by the former one, while the new one refreshes only when it is told to."""
    swaps = story.NewIndex.swap

    def seen(coming, rebuild):
        world.legacy(EDIT, ("seen", keys[0]))
        sync(context, keys[0], acknowledge=True)
        world.document("POST", f"{rebuild.former}/_refresh")
        return swaps(coming, rebuild)

    monkeypatch.setattr(story.NewIndex, "swap", seen)
    made = rebuild_index(altered(context, settings={"refresh_interval": "-1"}))
    body = {"query": {"ids": {"values": [str(keys[0])]}}, "version": True}
    hits = world.document("POST", "text/_search", body)["hits"]["hits"]
    assert [hit["_version"] for hit in hits] == [found(world, made.former, keys[0])]
    world.document("PUT", "text/_settings", {"index": {"refresh_interval": None}})


def test_the_former_index_stands_still_in_the_swap(world, context, keys, monkeypatch):
    swap = AliasSwap.swap

    def meanwhile(successor, client):
        before = found(world, successor.former, keys[0])
        world.legacy(EDIT, ("in the swap", keys[0]))
        sync(context, keys[0], acknowledge=True)
        assert found(world, successor.former, keys[0]) == before
        swap(successor, client)

    monkeypatch.setattr(AliasSwap, "swap", meanwhile)
    assert rebuild_index(context).findings == []
    world.hurry()
    work_off(context)
    assert world.document("GET", f"text/_doc/{keys[0]}")["_source"]["header"] == "in the swap"
