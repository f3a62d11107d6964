"""The story of one object, read backwards from the ledger through the log."""

import json

import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.explain.history import history
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.queue import dead_letters
from sync_pipeline.queue.dead_letters import DeadLetterFilter
from sync_pipeline.sinks.search import SearchIndex
from tests.kin import EPISODE, MONOLITH, SERIES
from tests.world import wait_for

SPOIL = "UPDATE content SET attrs = jsonb_build_object('duration', 'no number'), updated_at = now() WHERE id = %s"
MEND = "UPDATE content SET attrs = jsonb_build_object('duration', 7), updated_at = now() WHERE id = %s"
EDIT = "UPDATE content SET title = 'anew', updated_at = now() WHERE id = %s"
PICK = "SELECT id FROM content WHERE kind = 'text' AND deleted_at IS NULL AND status {} 'published' ORDER BY id"


@pytest.fixture(scope="module")
def context(world):
    world.load(60, 12)
    return world.filled("text")


@pytest.fixture(scope="module")
def keys(world, context):
    """Published ones; each test takes its own."""
    return iter([str(key) for (key,) in world.legacy(PICK.format("="))])


def sync(context, key, **order):
    return sync_keys(context, context.origin.key.parse([str(key)]), Order(acknowledge=True, **order))


def told(context, key):
    """What happened, and whose doing it was."""
    return [(happening.what, happening.cause) for happening in history(context, str(key), 50).happenings]


def month(world, key):
    ((at,),) = world.legacy("SELECT to_char(created_at, 'YYYY-MM') FROM content WHERE id = %s", (key,))
    return f"backfill {at}"


def is_request(what):
    return what.startswith("bulk request sync/text/") and "answered" in what


def test_one_untouched_since_the_backfill(world, context, keys):
    key = next(keys)
    (written, cause), (request, _) = told(context, key)
    assert (written, cause) == ("written: row and document", month(world, key))
    assert is_request(request)
    story = history(context, key, 50)
    assert story.whole
    ((revision,),) = world.target("SELECT written FROM sync.ledger_text WHERE id = %s", (key,))
    assert story.happenings[0].revision == revision
    assert story.happenings[0].worker == context.stores.worker
    assert f"sync/text/{revision}" in request


def test_one_that_failed_was_mended_and_replayed(world, context, keys, command):
    key = next(keys)
    world.legacy(SPOIL, (key,))
    for _ in range(3):  # the same fault again is no news
        sync(context, key)
    dead_letters.discard(context, DeadLetterFilter("text", [key]), "ann", "a test row")
    command("dead-letters", "replay", "text", "--key", key)
    world.legacy("UPDATE content SET attrs = '{}' WHERE id = %s", (key,))
    command("dead-letters", "replay", "text", "--key", key)
    said = told(context, key)[2:]
    fault = next(what for what, _ in said if what.startswith("parked"))
    assert fault.startswith("parked at step adapt: ArrowInvalid: ")
    assert [what for what, _ in said if not is_request(what)] == [
        "looked at, and set aside",
        fault,
        "looked at, and set aside",
        "looked at, and set aside",
        "discarded at step adapt: ann: a test row",
        "replayed",
        "tried again, and set aside",
        fault,
        "replayed",
        "written: row and document",
        "went through at step adapt",
    ]
    assert ("written: row and document", "due: rejected") in said
    assert is_request(said[-1][0])


def test_one_deleted(world, context, keys):
    key = next(keys)
    world.legacy("UPDATE content SET deleted_at = now(), updated_at = now() WHERE id = %s", (key,))
    with world.following([context]) as follower:
        wait_for(lambda: world.target("SELECT 1 FROM catalog.text WHERE id = %s", (key,)) == [])
        wait_for(lambda: is_request(told(context, key)[-1][0]))
        wait_for(lambda: history(context, key, 50).facts.state == "deleted")
        name = follower.name
    said = history(context, key, 50).happenings
    deleted = next(happening for happening in said if happening.what == "deleted: gone from the monolith")
    assert (deleted.cause, deleted.worker) == ("poll", name)
    assert deleted.position.startswith("stamps since") or deleted.position == "all stamps"
    assert said.index(deleted) == len(said) - 2  # then the cluster has answered


def test_one_filtered_out_of_search(world, context):
    ((key,), *_) = world.legacy(PICK.format("<>"))
    assert told(context, key) == [("written: row", month(world, key))]


def test_one_that_never_existed(context):
    assert told(context, 999_999) == []
    sync(context, 999_999)
    assert told(context, 999_999) == [("looked at, and unchanged", "keys")]


def test_one_parked_for_its_parent(world):
    world.legacy(MONOLITH)
    series, episode = (EntityContext.open(entity, world.stores) for entity in (SERIES, EPISODE))
    world.legacy("INSERT INTO episode VALUES (1, 'pilot', 7)")
    sync(episode, 1)
    sync(episode, 1)
    world.target("UPDATE sync.due SET first_at = now() - interval '1 day'")
    sync(episode, 1)
    wait = "refers to series 7, which is not in the new side"
    assert [what for what, _ in told(episode, 1) if "looked at" not in what] == [
        f"waits at step row: {wait}",
        f"parked at step row: {wait}",
    ]
    world.legacy("INSERT INTO series VALUES (7, 'series')")
    with world.following([series, episode]):
        wait_for(lambda: world.target("SELECT 1 FROM catalog.episode"))
        wait_for(lambda: history(episode, "1", 50).facts.state == "committed")
    said = [what for what, _ in told(episode, 1)]
    assert said.index("written: row and document") < said.index("went through at step row")


def test_a_story_is_cut_at_its_limit_and_says_where_the_log_ends(world, context, keys, command):
    key = next(keys)
    for _ in range(3):
        sync(context, key, force=True)
    assert len(history(context, key, 2).happenings) == 2
    world.target("DELETE FROM sync.batch WHERE cause LIKE 'backfill%%'")
    story = history(context, key, 50)
    assert not story.whole
    assert sum(happening.what.startswith("written") for happening in story.happenings) == 3
    code, out, _ = command("history", "text", key)
    assert code == 0
    assert "What was before is not in the log" in out
    assert f"Now: text {key} is up to date since revision" in out
    code, out, _ = command("history", "text", key, "--limit", "1", "--format", "json")
    assert (code, len(json.loads(out)["history"])) == (0, 1)
    assert command("history", "text", "x7")[0] == 2


def test_the_cluster_knows_a_request_by_its_revisions(world, context, keys, monkeypatch):
    key, named = next(keys), []
    write = SearchIndex.write

    def look(index, client, *documents, **refusing):
        # the cluster gives back what it will log
        named.append(client.cluster.health().meta.headers["x-opaque-id"])
        return write(index, client, *documents, **refusing)

    monkeypatch.setattr(SearchIndex, "write", look)
    sync(context, key, force=True)
    ((revision,),) = world.target("SELECT written FROM sync.ledger_text WHERE id = %s", (key,))
    assert named == [f"sync/text/{revision}"]
    assert f"bulk request {named[0]} answered" in told(context, key)[-1][0]
