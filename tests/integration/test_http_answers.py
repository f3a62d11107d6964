"""What an endpoint's answers do: to single objects, to all of them, or where the pipeline is turned away."""

import dataclasses
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sync_pipeline.batch.delivery import send
from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import OwnershipError
from sync_pipeline.ledger.ledger import migrate, next_revision
from sync_pipeline.model.reasons import Reason
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.queue import due
from sync_pipeline.run.live import work
from sync_pipeline.sinks.http import HttpEndpoint
from sync_pipeline.sinks.http.compare import read_objects
from tests.clips import MONOLITH, clip
from tests.world import opened


class Scripted(BaseHTTPRequestHandler):
    """Answers as its server's rule says, and remembers what it was asked."""

    protocol_version = "HTTP/1.1"
    timeout = 10

    def _answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.lock:
            self.server.asked.append((self.command, self.path, dict(self.headers), body))
            answer = self.server.rule(self.command, self.path, body)
        if answer is None:  # half open: taken, and never answered
            self.server.over.wait(10)
            return
        status, *rest = answer
        data = json.dumps(rest[0]).encode() if rest else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in rest[1].items() if len(rest) > 1 else ():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


for method in ("PUT", "POST", "PATCH", "DELETE", "GET", "OPTIONS"):
    setattr(Scripted, f"do_{method}", Scripted._answer)


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Scripted) as server:
        server.lock, server.asked, server.over = threading.Lock(), [], threading.Event()
        server.rule = lambda *_: (200,)
        server.url = f"http://127.0.0.1:{server.server_address[1]}/items"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def module_world(fleet):
    with opened(fleet, "http_answers", SYNC_RECHECK_SECONDS="0", SYNC_FAULT_ROWS="3") as world:
        world.legacy(MONOLITH)
        yield world


@pytest.fixture
def world(module_world):
    module_world.legacy("TRUNCATE clips")
    migrate(module_world.stores)
    module_world.target("TRUNCATE sync.due, sync.claim")
    module_world.target("DROP TABLE IF EXISTS sync.ledger_clip, catalog.clip")
    return module_world


def opened_with(world, server, **declared):
    url = f"{server.url}/{{key}}" if declared.get("batch", 1) == 1 else server.url
    endpoint = HttpEndpoint(url, ("title",), **declared)
    entity = clip(media=False)
    return EntityContext.open(dataclasses.replace(entity, sinks=(entity.table, endpoint)), world.stores)


def sync(world, context, *keys, **order):
    for key in keys:
        world.legacy("INSERT INTO clips (id, title) VALUES (%s, %s) ON CONFLICT (id) DO NOTHING", (key, f"title {key}"))
    return sync_keys(context, context.origin.key.parse(map(str, keys)), Order(acknowledge=True, **order))


def try_again(world, context):
    with world.stores.target() as cursor:
        due.replay(cursor, due.QueueFilter(context.entity.name))
    while work(context, lambda *_: None):
        pass


def owed(world, reason):
    return world.target("SELECT coalesce(key, keys[1]), error, message FROM sync.due WHERE reason = %s", [reason])


def test_each_request_bears_revision_and_idempotency_key(world, server):
    context = opened_with(world, server, headers={"X-Team": "catalogue"})
    sync(world, context, 7)
    ((method, path, headers, body),) = server.asked
    ((written,),) = world.target("SELECT written FROM sync.ledger_clip WHERE id = 7")
    assert (method, path, json.loads(body)) == ("PUT", "/items/7", {"title": "title 7"})
    assert headers["Sync-Revision"] == str(written)
    assert headers["Idempotency-Key"] == f"clip/7/{written}"
    assert headers["X-Team"] == "catalogue"
    world.legacy("DELETE FROM clips")
    sync_keys(context, context.origin.key.parse(["7"]), Order(acknowledge=True))
    assert server.asked[-1][0] == "DELETE"
    assert int(server.asked[-1][2]["Sync-Revision"]) > written


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_is_not_taken_now_is_tried_again(world, server, status):
    context = opened_with(world, server)
    server.rule = lambda _, path, __: (status, {"message": "not now"}) if path.endswith("/2") else (200,)
    outcome = sync(world, context, 1, 2, 3)
    assert (outcome.documents, outcome.documents_owed) == (2, 1)
    ((key, _, message),) = owed(world, Reason.DOCUMENTS)
    assert key == "2"
    assert f"{status} " in message
    assert "not now" in message
    server.rule = lambda *_: (200,)
    try_again(world, context)
    assert owed(world, Reason.DOCUMENTS) == []


def test_a_service_that_takes_nothing_is_left_alone(world, server):
    """Nothing is parked, and after three failures nobody asks for a while."""
    context = opened_with(world, server)
    server.rule = lambda *_: (503, {"message": "down for maintenance"})
    for key in (1, 2, 3):
        assert sync(world, context, key).documents_owed == 1
    (endpoint,) = context.entity.outer_sinks
    assert endpoint.breaker(world.stores).is_open
    asked = len(server.asked)
    sync(world, context, 4)
    assert len(server.asked) == asked
    assert owed(world, Reason.REJECTED) == []


def test_one_that_is_refused_is_a_dead_letter_with_the_services_words(world, server):
    context = opened_with(world, server)
    server.rule = lambda _, path, __: (422, {"detail": "a title is too short"}) if path.endswith("/2") else (200,)
    sync(world, context, 1, 2, 3, 4)
    ((key, error, message),) = owed(world, Reason.REJECTED)
    assert (key, error) == ("2", "Http422")
    assert message.endswith("a title is too short")
    assert world.target("SELECT sink, step FROM sync.due WHERE reason = 'rejected'") == [("http", "document")]


def test_where_most_are_refused_none_is_parked(world, server):
    context = opened_with(world, server)
    server.rule = lambda *_: (400, {"message": "unknown field title"})
    sync(world, context, *range(1, 9))
    assert owed(world, Reason.REJECTED) == []
    ((_, _, message),) = owed(world, Reason.DOCUMENTS)
    assert "refuses 8 of 8 objects, so none is parked: 400 Bad Request: unknown field title" in message


@pytest.mark.parametrize(("status", "word"), [(401, "401 Unauthorized"), (403, "403 Forbidden"), (302, "302 Found")])
def test_a_service_that_turns_us_away_parks_nothing(world, server, status, word):
    context = opened_with(world, server)
    server.rule = lambda *_: (status,)
    sync(world, context, 1, 2)
    assert owed(world, Reason.REJECTED) == []
    ((_, _, message),) = owed(world, Reason.DOCUMENTS)
    assert word in message


def test_a_half_open_connection_holds_up_one_object(world, server):
    context = opened_with(world, server, timeout_seconds=0.3)
    server.rule = lambda _, path, __: None if path.endswith("/2") else (200,)
    outcome = sync(world, context, 1, 2, 3)
    assert (outcome.documents, outcome.documents_owed) == (2, 1)
    ((key, _, message),) = owed(world, Reason.DOCUMENTS)
    assert key == "2"
    assert "no answer" in message


def test_one_that_nobody_listens_for_is_given_up_after_a_few_requests(world, server):
    context = opened_with(world, server, timeout_seconds=0.2, connections=1)
    server.rule = lambda *_: None
    sync(world, context, *range(1, 21))
    assert len(server.asked) == 3  # one connection; each of them is in vain
    assert len(world.target("SELECT unnest(keys) FROM sync.due WHERE reason = 'documents'")) == 20


def test_a_revision_that_somebody_else_has_used_is_written_over(world, server):
    """The receiver holds a higher revision than the ledger has given, as after the new side has lost commits."""
    context = opened_with(world, server)
    above = next_revision(world.stores) + 5_000
    server.rule = lambda *_: (409, {"revision": above})
    sync(world, context, 1)
    assert [key for key, *_ in owed(world, Reason.OVERTAKEN)] == ["1"]
    server.rule = lambda *_: (200,)
    try_again(world, context)
    assert int(server.asked[-1][2]["Sync-Revision"]) > above


def test_a_request_of_several_is_answered_for_each(world, server):
    context = opened_with(world, server, batch=10, method="POST")

    def rule(_, __, body):
        keys = [each["key"] for each in json.loads(body)["operations"]]
        return 207, {"results": [{"key": key, "status": 422 if key == "2" else 200, "message": "no"} for key in keys]}

    server.rule = rule
    sync(world, context, 1, 2, 3)
    assert len(server.asked) == 1
    assert [key for key, *_ in owed(world, Reason.REJECTED)] == ["2"]


def test_of_several_that_are_refused_together_the_one_at_fault_is_found(world, server):
    context = opened_with(world, server, batch=10, method="POST")

    def rule(_, __, body):
        keys = [each["key"] for each in json.loads(body)["operations"]]
        return (400, {"message": "bad"}) if "5" in keys else (200,)

    server.rule = rule
    sync(world, context, *range(1, 9))
    assert [key for key, *_ in owed(world, Reason.REJECTED)] == ["5"]


def test_one_that_keeps_no_order_shows_the_last_revision_in_the_end(world, server):
    """What was overtaken while it was sent is sent once more."""
    context, held = opened_with(world, server, ordering="none"), {}

    def rule(method, path, body):
        held[path] = json.loads(body)["title"] if method == "PUT" else None
        return (200,)

    server.rule = rule
    late = []
    sync(world, context, 1, hand_over=late.append)
    world.legacy("UPDATE clips SET title = 'second', updated_at = clock_timestamp() WHERE id = 1")
    sync(world, context, 1)
    send(context, late[0])
    assert held["/items/1"] == "title 1"
    try_again(world, context)
    assert held["/items/1"] == "second"


def notices(context, world):
    (endpoint,) = context.entity.outer_sinks
    return {notice.level: notice for notice in endpoint.preflight(world.stores, "clip")}


def test_check_says_what_the_endpoint_gives_up(world, server):
    context = opened_with(world, server, ordering="none")
    found = [notice.what for notice in context.entity.outer_sinks[0].preflight(world.stores, "clip")]
    assert any("answers" in what for what in found)
    assert any("ordering='none'" in what for what in found)
    assert any("reconciliation does not cover it" in what for what in found)
    assert server.asked == [("OPTIONS", "/items/sync-pipeline-check", server.asked[0][2], b"")]


def test_check_says_who_turns_us_away(world, server):
    context = opened_with(world, server, read_url=f"{server.url}/{{key}}")
    server.rule = lambda *_: (403, {"message": "no token"})
    assert "turns us away: 403 Forbidden: no token" in notices(context, world)["error"].what


def test_a_whole_number_is_read_with_all_its_digits(world, server):
    """One of more than 64 bits, which would equal its neighbours as a float."""
    context = opened_with(world, server, read_url=f"{server.url}/{{key}}")
    server.rule = lambda *_: (200, {"title": 2**70 + 1})
    held = read_objects(context.of_sinks, context.entity.outer_sinks[0], ["1"])
    assert held["1"].fields == {"title": 2**70 + 1}


def test_two_entities_cannot_have_one_endpoint(world, server):
    opened_with(world, server)
    entity = dataclasses.replace(
        clip(media=False),
        name="other",
        sinks=(
            dataclasses.replace(clip().table, name="catalog.other"),
            HttpEndpoint(f"{server.url}/{{key}}", ("title",)),
        ),
    )
    with pytest.raises(OwnershipError, match="items/"):
        EntityContext.open(entity, world.stores)


def test_a_conflict_of_another_kind_is_a_dead_letter(world, server):
    """The receiver keeps no order, so a 409 of its is about the object."""
    context = opened_with(world, server, ordering="none")
    server.rule = lambda *_: (409, {"message": "the slug is taken"})
    sync(world, context, 1)
    ((key, error, message),) = owed(world, Reason.REJECTED)
    assert (key, error) == ("1", "Http409")
    assert "the slug is taken" in message


def test_a_service_that_falls_silent_is_given_up_for_now(world, server):
    context = opened_with(world, server, timeout_seconds=0.2, connections=1)
    server.rule = lambda _, path, __: (200,) if path.endswith("/1") else None
    outcome = sync(world, context, *range(1, 21))
    assert len(server.asked) == 1 + 3
    assert (outcome.documents, outcome.documents_owed) == (1, 19)


def test_a_token_that_no_header_may_hold_is_named_and_not_shown(world, server, monkeypatch):
    monkeypatch.setenv("SYNC_CATALOG_TOKEN", "secret\x07more")
    context = opened_with(world, server, headers={"Authorization": "Bearer $SYNC_CATALOG_TOKEN"})
    sync(world, context, 1)
    ((_, _, message),) = owed(world, Reason.DOCUMENTS)
    assert "SYNC_CATALOG_TOKEN holds a character" in message
    assert "secret" not in message
    monkeypatch.setenv("SYNC_CATALOG_TOKEN", "secret\n")
    try_again(world, context)
    assert server.asked[-1][2]["Authorization"] == "Bearer secret"


def test_a_setting_that_is_missing_holds_up_this_sink_alone(world, server, monkeypatch):
    monkeypatch.delenv("SYNC_CATALOG_TOKEN", raising=False)
    context = opened_with(world, server, headers={"Authorization": "Bearer $SYNC_CATALOG_TOKEN"})
    sync(world, context, 1)
    assert world.target("SELECT title FROM catalog.clip") == [("title 1",)]
    ((_, _, message),) = owed(world, Reason.DOCUMENTS)
    assert "SYNC_CATALOG_TOKEN is not set" in message


def test_an_answer_without_end_is_cut_off(world, server):
    context = opened_with(world, server, timeout_seconds=5.0)
    server.rule = lambda *_: (500, {"message": "x" * (17 << 20)})
    sync(world, context, 1)
    ((_, _, message),) = owed(world, Reason.DOCUMENTS)
    assert "the answer has more than 16,777,216 bytes" in message
