"""What is wrong with an index is no document's fault, and one document's fault holds up no other."""

import json
import re
import threading
from contextlib import closing
from dataclasses import replace

import pytest

from sync_pipeline import pipeline
from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import DeclarationError
from sync_pipeline.ledger.cursor import Lease
from sync_pipeline.operate.repair import repair
from sync_pipeline.operate.status import status_of
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.queue import due
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run import document_sender, live
from sync_pipeline.run.background import in_background
from sync_pipeline.run.capture import open_cursor, resumed
from sync_pipeline.run.document_sender import DocumentSender
from sync_pipeline.sinks.search import SearchIndex, declaration
from sync_pipeline.sinks.search.preflight import check_cluster
from sync_pipeline.sinks.search.swap import AliasSwap
from tests import clips
from tests.chaos.interposer import Answer
from tests.index_states import states
from tests.sinks import index_of
from tests.stores_at_fault import search_behind
from tests.world import wait_for

INDEX = "clip-000001"
JSON = (
    ("Content-Type", "application/vnd.elasticsearch+json;compatible-with=9"),
    ("X-Elastic-Product", "Elasticsearch"),
)
LETTERS = "SELECT key::bigint, step, error, message FROM sync.due WHERE reason IN ('rejected', 'compensation')"
OWED = "SELECT reason, error, message FROM sync.due"


STATES = states(INDEX, "clip", "clip-000002")


def notices_of(world, entity):
    """What `check` says of the cluster and of the entity's alias."""
    return [*check_cluster(world.stores), *index_of(entity).preflight(world.stores, entity.name)]


@pytest.fixture(scope="module")
def world(world):
    world.legacy(clips.MONOLITH)
    EntityContext.open(clips.clip(media=False), world.stores)
    return world


@pytest.fixture(params=["forward", "compensate"])
def context(request, world):
    yield from filled(world, clips.clip(media=False, on_refused=request.param))


@pytest.fixture
def plain(world):
    yield from filled(world, clips.clip(media=False))


def filled(world, entity):
    """Thirty clips that are everywhere."""
    world.stores.aliases.recheck("clip")
    context = EntityContext.open(entity, world.stores)
    world.legacy("INSERT INTO clips SELECT n, 'title ' || n FROM generate_series(1, 30) n")
    sync(context)
    assert world.target(OWED) == []
    yield context
    world.stores.aliases.recheck("clip")
    clips.emptied(world)


def sync(context, *keys, **order):
    return sync_keys(context, context.origin.key.parse(map(str, keys or range(1, 31))), Order(**order))


def edit(world, count=12):
    world.legacy("UPDATE clips SET title = title || ' v2', updated_at = clock_timestamp() WHERE id <= %s", [count])


def ask(world, *requests):
    for method, path, body in requests:
        world.document(method, path, body)


def work(world, context, times=4):
    for _ in range(times):
        world.target("UPDATE sync.due SET not_before = now() WHERE reason <> 'rejected'")
        live.work(context, lambda *_: None)


def titles(world, index="clip"):
    world.document("POST", f"{index}/_refresh")
    hits = world.document("GET", f"{index}/_search?size=1000")["hits"]["hits"]
    return {int(hit["_id"]): hit["_source"]["title"] for hit in hits}


def agree(world, context):
    assert world.target(OWED) == []
    assert titles(world) == dict(world.legacy("SELECT id, title FROM clips"))
    assert reconcile(context).status == "clean"


@pytest.mark.hazard(98)
@pytest.mark.parametrize("state", STATES)
def test_what_is_wrong_with_the_index_is_owed_told_and_heals(world, context, state):
    into, out, told = STATES[state]
    ask(world, *into)
    world.stores.aliases.recheck("clip")
    try:
        edit(world)
        world.legacy("DELETE FROM clips WHERE id = 30")
        sync(context)
        work(world, context)
        assert world.target(LETTERS) == []
        assert {reason for reason, *_ in world.target(OWED)} == {"documents"}
        assert told in " ".join(message for *_, message in world.target(OWED))
        assert any(told in alert for alert in status_of(world.stores, context.entity)["alerts"])
        assert world.target("SELECT count(*) FROM catalog.clip WHERE title LIKE '%%v2'") == [(12,)]
        problems = [n for n in notices_of(world, context.entity) if n.level == "error"]
        assert problems
        assert not world.stores.search_breaker.is_open
    finally:
        ask(world, *out)
    world.stores.aliases.recheck("clip")
    work(world, context)
    agree(world, context)


# how the index is not there as it was, and what is said of it
LOST = {
    "deleted": ([], "there is no alias clip|no such index|index_not_found"),
    "made anew with another mapping": (
        [("PUT", INDEX, {"mappings": {"properties": {"title": {"type": "long"}}}, "aliases": {"clip": {}}})],
        "maps field title as",
    ),
    "made anew without fields": (
        [("PUT", INDEX, {"mappings": {"dynamic": "strict"}, "aliases": {"clip": {}}})],
        "maps field title as nothing",
    ),
}


@pytest.mark.hazard(98)
@pytest.mark.parametrize("state", LOST)
def test_an_index_that_is_lost_parks_nothing_and_is_mended(world, context, state):
    """What was in it is found missing by reconciliation; what changed meanwhile is owed."""
    into, told = LOST[state]
    ask(world, ("DELETE", INDEX, None), *into)
    world.stores.aliases.recheck("clip")
    try:
        edit(world)
        sync(context)
        work(world, context, 2)
        assert world.target(LETTERS) == []
        assert world.target("SELECT count(*) FROM catalog.clip WHERE title LIKE '%%v2'") == [(12,)]
        assert {reason for reason, *_ in world.target(OWED)} == {"documents"}
        assert re.search(told, " ".join(message for *_, message in world.target(OWED)))
    finally:
        for index in world.document("GET", "clip-*"):
            world.document("DELETE", index)
        world.stores.aliases.recheck("clip")
        world.stores.ensured.clear()
    again = EntityContext.open(context.entity, world.stores)
    work(world, again)
    repair(again, reconcile(again).findings)
    agree(world, again)


@pytest.mark.hazard(98)
def test_without_its_guard_a_closed_index_parks_documents(world, plain, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "98,96")
    ask(world, *STATES["closed"][0])
    try:
        edit(world, 3)
        sync(plain)
        assert len(world.target(LETTERS)) == 3
    finally:
        ask(world, *STATES["closed"][1])


@pytest.mark.hazard(96)
def test_what_went_to_another_index_before_that_was_noticed_is_sent_again(world, plain):
    """The alias was well when it was looked at last, and a rollover came in between."""
    into, out, _ = STATES["rolled over"]
    sync(plain, 1, documents=True)  # looks at the alias
    ask(world, *into)
    try:
        edit(world, 5)
        world.legacy("DELETE FROM clips WHERE id = 30")
        sync(plain)
        work(world, plain, 1)
        world.stores.aliases.recheck("clip")
        sync(plain, 1, documents=True)
        owed = {key for (keys,) in world.target("SELECT keys FROM sync.due WHERE reason = 'documents'") for key in keys}
        assert owed >= {"1", "2", "3", "4", "5", "30"}
    finally:
        ask(world, *out)
    world.stores.aliases.recheck("clip")
    work(world, plain)
    agree(world, plain)


@pytest.mark.hazard(96)
def test_without_its_guard_a_deleted_row_stays_in_search(world, plain, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "96")
    into, out, _ = STATES["rolled over"]
    ask(world, *into)
    try:
        world.legacy("DELETE FROM clips WHERE id = 30")
        sync(plain)
        assert world.target(OWED) == []
    finally:
        ask(world, *out)
    assert 30 in titles(world)


def limited(limit, answer=413):
    """A proxy that takes no body above so many bytes."""
    sizes = []

    def rule(request, forward):
        if "_bulk" in request.path:
            sizes.append(len(request.body))
            if len(request.body) > limit:
                return Answer(answer, b"<html>413 Request Entity Too Large</html>", (("Content-Type", "text/html"),))
        return forward(request)

    rule.sizes = sizes
    return rule


@pytest.mark.hazard(97)
def test_a_document_that_is_too_large_is_parked_alone_with_its_size(world, plain):
    rule = limited(100_000)
    with search_behind(world.stores, rule) as stores:
        other = EntityContext.open(plain.entity, stores)
        edit(world)
        world.legacy("UPDATE clips SET body = repeat('x', 200000) WHERE id = 7")
        sync(other)
        ((key, step, error, message),) = world.target(LETTERS)
        assert (key, step, error) == (7, "document", "DocumentTooLarge")
        assert "200," in message
        assert {k: t for k, t in titles(world).items() if k != 7} == dict(
            world.legacy("SELECT id, title FROM clips WHERE id <> 7")
        )
        assert [reason for reason, *_ in world.target(OWED)] == ["rejected"]
        world.legacy("UPDATE clips SET body = NULL, updated_at = clock_timestamp() WHERE id = 7")
        sync(other)
        agree(world, plain)


@pytest.mark.hazard(97)
def test_bodies_become_smaller_for_a_proxy_that_takes_less(world, plain):
    rule = limited(70_000)
    with search_behind(world.stores, rule) as stores:
        other = EntityContext.open(plain.entity, stores)
        world.legacy("UPDATE clips SET body = repeat('x', 10000), updated_at = clock_timestamp()")
        sync(other)
        agree(world, plain)
        refused = len([size for size in rule.sizes if size > 70_000])
        rule.sizes.clear()
        sync(other, force=True)
        assert len([size for size in rule.sizes if size > 70_000]) < refused
        agree(world, plain)


@pytest.mark.hazard(97)
def test_without_its_guard_one_large_document_holds_up_all(world, plain, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "97")
    with search_behind(world.stores, limited(100_000)) as stores:
        other = EntityContext.open(plain.entity, stores)
        edit(world)
        world.legacy("UPDATE clips SET body = repeat('x', 200000) WHERE id = 7")
        sync(other)
        assert [reason for reason, *_ in world.target(OWED)] == ["documents"]
        assert "v2" not in "".join(titles(world).values())


@pytest.mark.hazard(97)
@pytest.mark.parametrize("status", [404, 405, 406, 410, 418])
def test_whatever_else_a_bulk_is_answered_is_owed(world, plain, status):
    def rule(request, forward):
        return Answer(status, b"{}", JSON) if "_bulk" in request.path else forward(request)

    with search_behind(world.stores, rule) as stores:
        other = EntityContext.open(plain.entity, stores)
        edit(world)
        sync(other)
        work(world, other, 1)
        assert {row[:2] for row in world.target(OWED)} == {("documents", "UnreachableError")}
    work(world, plain)
    agree(world, plain)


def items_refused(kind, reason, ids=(), status=400):
    """Items of some documents are answered like this; the others as the cluster does."""

    def rule(request, forward):
        if "_bulk" not in request.path:
            return forward(request)
        path = re.sub(r"filter_path=[^&]*", "", request.path)
        answer = json.loads(forward(replace(request, path=path)).body)
        for item in answer["items"]:
            (outcome,) = item.values()
            if not ids or outcome["_id"] in ids:
                answer["errors"] = True
                outcome |= {"status": status, "error": {"type": kind, "reason": reason}}
        return Answer(200, json.dumps(answer).encode(), JSON)

    return rule


@pytest.mark.hazard(98)
@pytest.mark.parametrize(
    ("kind", "reason", "status"),
    [
        ("document_parsing_exception", "failed to parse field", 400),
        ("strict_dynamic_mapping_exception", "not allowed", 400),
        ("illegal_argument_exception", "Document contains at least one immense term in field", 400),
        ("never_heard_of_exception", "who knows", 400),
    ],
)
def test_what_is_one_document_s_parks_it_alone(world, plain, kind, reason, status):
    with search_behind(world.stores, items_refused(kind, reason, {"7"}, status)) as stores:
        other = EntityContext.open(plain.entity, stores)
        edit(world)
        sync(other)
        assert [row[:3] for row in world.target(LETTERS)] == [(7, "document", kind)]
        assert [reason for reason, *_ in world.target(OWED)] == ["rejected"]


@pytest.mark.hazard(98)
@pytest.mark.parametrize(
    ("kind", "reason", "status"),
    [
        ("illegal_argument_exception", "Limit of total fields [1000] has been exceeded", 400),
        ("illegal_argument_exception", "pipeline with id [x] does not exist", 400),
        ("unavailable_shards_exception", "primary shard is not active", 503),
        ("index_closed_exception", "closed", 400),
        ("never_heard_of_exception", "of all documents alike", 400),
    ],
)
def test_what_is_the_index_s_is_owed(world, plain, kind, reason, status):
    with search_behind(world.stores, items_refused(kind, reason, (), status)) as stores:
        other = EntityContext.open(plain.entity, stores)
        edit(world, 30)
        sync(other)
        assert world.target(LETTERS) == []
        ((owed, _, message),) = world.target(OWED)
        assert owed == "documents"
        assert reason.split(" [")[0] in message
    work(world, plain)
    agree(world, plain)


def break_documents(monkeypatch):
    """Have what makes documents fail, by an error that no code foresaw, for each page that holds row 7."""
    real = declaration.json_objects

    def json_objects(contents, json_fields):
        if "title 7 v2" in contents.column("title").to_pylist():
            raise ZeroDivisionError("odd")
        return real(contents, json_fields)

    monkeypatch.setattr(declaration, "json_objects", json_objects)


def break_batches(monkeypatch):
    """Have each batch that holds row 7 fail, by an error that no code foresaw."""
    real = pipeline.prepare

    def prepare(context, revision, keys, rows, order):
        if 7 in rows.table.column("id").to_pylist():
            raise ZeroDivisionError("odd")
        return real(context, revision, keys, rows, order)

    monkeypatch.setattr(pipeline, "prepare", prepare)


def bring_by_sweep(world, context):
    with context.stores.target() as cursor:
        due.owe(cursor, "clip", "sweep", [str(n) for n in range(1, 31)], 0)
    live.work(context, lambda *_: None)


def bring_by_poll(world, context):
    """Poll as a follower does, until a page is owed because it failed."""
    open_cursor(context)
    lease = Lease.take(context.stores, "clip", "test")
    try:
        with closing(resumed(context)) as source:
            wait_for(lambda: live.poll(context, lease, source, lambda *_: None, keep_idle=True) and world.target(OWED))
    finally:
        world.target("DELETE FROM sync.cursor WHERE entity = 'clip'")


@pytest.mark.hazard(95)
def test_a_document_that_nobody_foresaw_parks_one_and_the_entity_goes_on(world, plain, monkeypatch):
    break_documents(monkeypatch)
    edit(world)
    sent = DocumentSender(plain, lambda *_: None)
    with in_background(sent.run, "documents"):
        sync(plain, hand_over=sent.take)
    ((key, step, error, message),) = world.target(LETTERS)
    assert (key, step, error) == (7, "document", "ZeroDivisionError")
    assert "ZeroDivisionError: odd (unforeseen, at test_index_faults.py" in message
    assert titles(world)[8] == "title 8 v2"


@pytest.mark.hazard(95)
def test_an_error_in_sending_leaves_documents_due_and_sends_the_next(world, plain, monkeypatch):
    real, failed = document_sender.send, threading.Event()

    def send(*arguments):
        if not failed.is_set():
            failed.set()
            raise ZeroDivisionError("once")
        return real(*arguments)

    monkeypatch.setattr(document_sender, "send", send)
    sent = DocumentSender(plain, lambda *_: None)
    edit(world, 1)
    with in_background(sent.run, "documents"):
        sync(plain, 1, hand_over=sent.take)
        assert failed.wait(10)
        edit(world, 2)
        sync(plain, 2, hand_over=sent.take)
    work(world, plain, 2)
    agree(world, plain)


@pytest.mark.hazard(95)
@pytest.mark.parametrize("bring", [bring_by_sweep, bring_by_poll])
def test_what_nobody_foresaw_in_a_batch_parks_one_object_with_its_traceback(world, plain, monkeypatch, bring):
    break_batches(monkeypatch)
    edit(world, 30)
    bring(world, plain)
    for _ in range(20):
        live.work(plain, lambda *_: None)
    ((key, step, error, message),) = world.target(LETTERS)
    assert (key, step, error) == (7, "batch", "ZeroDivisionError")
    assert "unforeseen, at" in message
    assert len([title for title in titles(world).values() if title.endswith("v2")]) == 29


@pytest.mark.hazard(95)
@pytest.mark.parametrize(
    ("break_it", "bring"),
    [
        (break_batches, bring_by_sweep),
        (break_batches, bring_by_poll),
        (break_documents, lambda _, context: sync(context)),
    ],
    ids=["a batch of a sweep", "a batch of a poll", "a document"],
)
def test_without_its_guard_one_object_holds_up_all(world, plain, monkeypatch, break_it, bring):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "95")
    break_it(monkeypatch)
    edit(world, 30)
    with pytest.raises(ZeroDivisionError):
        bring(world, plain)
    assert world.target(LETTERS) == []
    assert "v2" not in "".join(titles(world).values())


def test_check_names_a_template_that_makes_data_streams(world):
    world.document(
        "PUT", "_index_template/media-streams", {"index_patterns": ["dotty*"], "data_stream": {}, "priority": 500}
    )
    try:
        index = SearchIndex("dotty", fields=clips.FIELDS)
        entity = clips.clip(media=False)
        object.__setattr__(entity, "sinks", (entity.table, index))
        notices = [n for n in notices_of(world, entity) if n.level == "error"]
        assert "media-streams" in str(notices)
    finally:
        world.document("DELETE", "_index_template/media-streams")


def test_a_rebuild_names_a_template_that_makes_data_streams(world, plain):
    template = {"index_patterns": ["clip-0*"], "data_stream": {}, "priority": 500}
    world.document("PUT", "_index_template/media-streams", template)
    try:
        successor = AliasSwap(index_of(plain.entity), "clip-000002", INDEX)
        with pytest.raises(DeclarationError, match=r"clip-000002 cannot be made: template media-streams .*: narrow"):
            successor.make(world.stores.search)
    finally:
        world.document("DELETE", "_index_template/media-streams")
