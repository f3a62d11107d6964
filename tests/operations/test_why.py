"""Why an object is, or is not, in each sink: what people ask of one of a million."""

import dataclasses
import json
import re

import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.explain.why import why
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.queue import dead_letters
from sync_pipeline.queue.dead_letters import DeadLetterFilter
from tests.kin import EPISODE, MONOLITH, SERIES

SPOIL = "UPDATE content SET attrs = jsonb_build_object('duration', 'no number'), updated_at = now() WHERE id = %s"
MEND = "UPDATE content SET attrs = jsonb_build_object('duration', 7), updated_at = now() WHERE id = %s"
EDIT = "UPDATE content SET title = 'anew', updated_at = now() WHERE id = %s"
PICK = "SELECT id FROM content WHERE kind = 'text' AND deleted_at IS NULL AND status {} 'published' ORDER BY id LIMIT 1"


@pytest.fixture(scope="module")
def context(world):
    world.load(60, 12)
    return world.filled("text")


@pytest.fixture
def key(world, context):
    """A published one."""
    ((found,),) = world.legacy(PICK.format("="))
    yield str(found)
    world.legacy(MEND, (found,))
    sync(context, found)


def sync(context, key, **order):
    return sync_keys(context, context.origin.key.parse([str(key)]), Order(acknowledge=True, **order))


def asked(context, key):
    return why(context, str(key)).as_dict()


def test_one_untouched_since_the_backfill_is_up_to_date(world, context, key):
    told = asked(context, key)
    ((written,),) = world.target("SELECT written FROM sync.ledger_text WHERE id = %s", (key,))
    assert (told["word"], told["state"]) == ("up to date", "committed")
    assert told["verdict"].startswith(f"text {key} is up to date since revision {written} of 20")
    assert told["sinks"]["relational"] == f"in catalog.text, as revision {written} wrote it"
    assert told["sinks"]["search"] == f"in text, of revision {written}"
    assert told["to_do"] == ""


def test_one_that_failed_was_mended_and_replayed(world, context, key, command):
    world.legacy(SPOIL, (key,))
    sync(context, key)
    told = asked(context, key)
    assert (told["word"], told["state"]) == ("parked", "failed")
    assert "is parked at step adapt since" in told["verdict"]
    assert "ArrowInvalid" in told["verdict"]
    assert "and behind: it is parked" in told["sinks"]["relational"]  # it keeps its last good state
    assert told["to_do"].endswith(f"sync-pipeline dead-letters replay text --key {key}")
    world.legacy("UPDATE content SET attrs = '{}' WHERE id = %s", (key,))
    assert command("dead-letters", "replay", "text", "--key", key)[0] == 0
    assert (asked(context, key)["word"], asked(context, key)["state"]) == ("up to date", "committed")


def test_one_that_was_discarded_says_who_and_why(world, context, key):
    world.legacy(SPOIL, (key,))
    sync(context, key)
    dead_letters.discard(context, DeadLetterFilter("text", [key], reasons=("rejected",)), "ann", "a test row")
    told = asked(context, key)
    assert (told["word"], told["state"]) == ("discarded", "discarded")
    assert "was discarded by ann on" in told["verdict"]
    assert told["verdict"].endswith(": a test row.")
    world.legacy(EDIT, (key,))
    assert (asked(context, key)["word"], asked(context, key)["state"]) == ("on its way", "discarded")


def test_one_deleted_and_one_that_never_was(world, context):
    ((key,),) = world.legacy(PICK.format("=").replace("ORDER BY id", "ORDER BY id DESC"))
    world.legacy("UPDATE content SET deleted_at = now() WHERE id = %s", (key,))
    told = asked(context, key)
    assert (told["word"], told["state"]) == ("on its way", "pending")
    assert "is gone from the monolith, which nobody has noticed yet" in told["verdict"]
    sync(context, key)
    ((revision,),) = world.target("SELECT written FROM sync.ledger_text WHERE id = %s", (key,))
    told = asked(context, key)
    assert (told["word"], told["state"]) == ("gone", "deleted")
    assert re.fullmatch(
        rf"text {key} is gone from the monolith; revision {revision} of [-\d: ]+ deleted it\.", told["verdict"]
    )
    assert told["sinks"]["relational"].startswith("not in catalog.text: it is gone from the monolith")
    assert told["sinks"]["search"].startswith("not in text: it is gone from the monolith")
    for _ in range(2):
        never = asked(context, 999_999)
        assert (never["word"], never["state"]) == ("never existed", "absent")
        assert "it never existed" in never["sinks"]["search"]
        sync(context, 999_999)  # an event of a row that came and went: somebody has looked, and that is all


def test_one_that_search_filters_out(world, context):
    ((key,),) = world.legacy(PICK.format("<>"))
    told = asked(context, key)
    assert (told["word"], told["state"]) == ("filtered", "committed")
    assert told["sinks"]["search"] == "not in text: is_public is not true, and only rows that have it true are there"
    assert told["sinks"]["relational"].startswith("in catalog.text, as revision")
    table = dataclasses.replace(context.entity.table, where="is_public")
    sinks = tuple(table if sink is context.entity.table else sink for sink in context.entity.sinks)
    narrow = dataclasses.replace(context, entity=dataclasses.replace(context.entity, sinks=sinks))
    try:
        sync(narrow, key, force=True)
        told = asked(narrow, key)
        assert told["word"] == "filtered"
        assert told["sinks"]["relational"].startswith("not in catalog.text: is_public is not true")
    finally:
        sync(context, key, force=True)


def test_a_change_on_its_way(world, context, key):
    world.legacy(EDIT, (key,))
    told = asked(context, key)
    assert (told["word"], told["state"]) == ("on its way", "pending")
    assert "has changed in the monolith since revision" in told["verdict"]
    assert "nobody follows text" in told["to_do"]
    assert "and behind: it has changed" in told["sinks"]["search"]
    sync(context, key)
    assert asked(context, key)["word"] == "up to date"


def test_a_document_that_is_owed(world, context, key):
    world.legacy(EDIT, (key,))
    sync(context, key, hand_over=lambda operations: None)  # whoever was to send it was killed
    told = asked(context, key)
    assert (told["word"], told["state"]) == ("owed", "row written")
    assert "its document is owed" in told["verdict"]
    assert "behind" not in told["sinks"]["relational"]
    assert "and behind: it is owed" in told["sinks"]["search"]
    world.target("DELETE FROM sync.due")
    sync(context, key, documents=True)
    assert asked(context, key)["word"] == "up to date"


def test_a_file_that_is_not_there(world, context, key):
    world.legacy("INSERT INTO media_files (content_id, kind, bucket_key) VALUES (%s, 'cover', 'no.jpg')", (key,))
    sync(context, key)
    told = asked(context, key)
    assert (told["word"], told["state"]) == ("parked", "failed")
    assert "no.jpg" in told["sinks"]["media"]
    assert "upload the file" in told["to_do"]
    world.legacy("DELETE FROM media_files WHERE bucket_key = 'no.jpg'")
    sync(context, key)
    ((named,),) = world.target("SELECT key FROM sync.media_ref WHERE entity = 'text' LIMIT 1")
    told = asked(context, named)
    assert told["sinks"]["media"].endswith("files, all there")
    world.client.delete_object(Bucket=world.target_bucket, Key=told["files"][0]["target_key"])
    told = asked(context, named)
    assert told["word"] == "drift"
    assert told["to_do"] == f"sync-pipeline repair text --key {named}"


def test_a_batch_that_was_killed_after_its_files(world, context, key):
    body = {"Bucket": world.legacy_bucket, "Key": "yes.jpg", "Body": b"yes"}
    world.client.put_object(**body)
    world.legacy("INSERT INTO media_files (content_id, kind, bucket_key) VALUES (%s, 'cover', 'yes.jpg')", (key,))
    assert asked(context, key)["state"] == "pending"
    with pytest.raises(ZeroDivisionError):
        sync(context, key, commit=lambda *_: 1 / 0)
    assert (asked(context, key)["state"], asked(context, key)["word"]) == ("media copied", "on its way")
    sync(context, key)
    assert (asked(context, key)["state"], asked(context, key)["word"]) == ("committed", "up to date")


def test_what_somebody_else_has_changed(world, context, key):
    world.target("DELETE FROM catalog.text WHERE id = %s", (key,))
    told = asked(context, key)
    assert told["word"] == "drift"
    assert "its row is gone" in told["verdict"]
    sync(context, key, force=True)
    assert asked(context, key)["word"] == "up to date"


def test_one_that_waits_for_its_parent(world):
    world.legacy(MONOLITH)
    series, episode = (EntityContext.open(entity, world.stores) for entity in (SERIES, EPISODE))
    world.legacy("INSERT INTO episode VALUES (1, 'pilot', 7)")
    sync(episode, 1)
    told = asked(episode, 1)
    assert (told["word"], told["state"]) == ("waits", "pending")
    assert "refers to series 7, which is not in the new side" in told["verdict"]
    assert "not in catalog.episode: it waits since" in told["sinks"]["relational"]
    assert told["to_do"] == "sync-pipeline why series 7"
    assert asked(series, 7)["word"] == "never existed"
    world.target("UPDATE sync.due SET first_at = now() - interval '1 day'")
    sync(episode, 1)
    assert (asked(episode, 1)["word"], asked(episode, 1)["state"]) == ("parked", "failed")


def test_the_command_speaks_to_people_and_programs(context, key, command):
    code, out, said = command("why", "text", key)
    assert (code, said) == (0, "")
    assert out.startswith(f"text {key} is up to date since revision")
    assert "  document: in text, of revision" in out
    assert "{" not in out
    code, out, _ = command("why", "text", key, "--format", "json")
    assert (code, json.loads(out)["word"]) == (0, "up to date")
    code, out, said = command("why", "text", "x7")
    assert (code, out) == (2, "")
    assert said.startswith("Setting: a key of entity text is id bigint")
