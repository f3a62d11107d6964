"""Dead letters: found by cause, told one by one, tried again, or discarded until their rows change."""

import dataclasses
import json
from contextlib import contextmanager

import dagster as dg
import pytest

from assets.observed import observed
from checks.health import DEAD_LETTERS, health_results
from sync_pipeline.batch.order import Order
from sync_pipeline.db.statements import statements
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.ledger import queue_reads, queue_table
from sync_pipeline.ledger.ledger import Ledger
from sync_pipeline.operate.repair import repair
from sync_pipeline.operate.status import status_of
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.queue import dead_letters, due, parking
from sync_pipeline.queue.dead_letters import DeadLetterFilter
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run import live
from sync_pipeline.run.backfill import backfill
from sync_pipeline.run.sweep import sweep
from tests.sinks import index_of
from tests.world import wait_for

SPOIL = "UPDATE content SET attrs = jsonb_build_object('duration', %s::text), updated_at = now() WHERE id = %s"
MEND = "UPDATE content SET attrs = jsonb_build_object('duration', 7), updated_at = now() WHERE id = %s"
WRITES, READS = statements(queue_table.__name__), statements(queue_reads.__name__)
LETTERS = "SELECT key, reason FROM sync.due ORDER BY key, reason"
SECONDS = "SELECT reading_seconds FROM catalog.text WHERE id = %s"


@pytest.fixture(scope="module")
def context(world):
    world.load(60, 0)
    context = world.all_in("text")
    world.target("UPDATE sync.cursor SET filled_at = now()")
    sweep(context)
    return context


@pytest.fixture
def keys(world, context):
    """Three rows that were taken, and that no adapter takes now."""
    found = [
        key for (key,) in world.legacy("SELECT id FROM content WHERE kind = 'text' AND deleted_at IS NULL LIMIT 3")
    ]
    for n, key in enumerate(found):
        world.legacy(SPOIL, (f"no number {n}", key))
    sync(context, *found)
    yield [str(key) for key in found]
    for key in found:
        world.legacy(MEND, (key,))
    sync(context, *found)
    assert world.target(LETTERS) == []


def sync(context, *keys, **order):
    return sync_keys(context, context.origin.key.parse(map(str, keys)), Order(acknowledge=True, **order))


def discard(context, *keys):
    return dead_letters.discard(
        context, DeadLetterFilter("text", keys, reasons=("rejected",)), "me@here", "a test of ours"
    )


@contextmanager
def taking_all(context):
    """The entity with an adapter that takes the rows, too."""

    def adapt(legacy):
        legacy = legacy.assign(duration=legacy["duration"].str.replace(r"^\D.*$", "9", regex=True))
        return context.entity.adapt(legacy)

    yield dataclasses.replace(context, entity=dataclasses.replace(context.entity, adapt=adapt))


def test_they_are_grouped_by_cause_and_chosen(world, context, keys, command):
    world.legacy("INSERT INTO media_files (content_id, kind, bucket_key) VALUES (%s, 'cover', 'no.jpg')", (keys[0],))
    world.legacy(MEND, (keys[0],))
    sync(context, keys[0])
    world.target("UPDATE sync.due SET first_at = now() - interval '2 h' WHERE key = %s", (keys[1],))

    def listed(*words):
        code, out, _ = command("dead-letters", "list", "text", "--format", "json", *words)
        assert code == 0
        return json.loads(out)["text"]

    found = listed()
    assert {(c["state"], c["step"], c["error"], c["letters"]) for c in found["causes"]} == {
        ("parked", "adapt", "ArrowInvalid", 2),
        ("parked", "media", "MediaMissing", 1),
    }
    assert [letter["key"] for letter in found["letters"]] == [keys[1], *sorted({keys[0], keys[2]}, key=int)]
    assert (found["parked"], found["discarded"]) == (3, 0)
    assert set(found["causes"][0]["keys"]) == {keys[1], keys[2]}
    for words, chosen in (
        (("--step", "media"), keys[:1]),
        (("--error", "ArrowInvalid"), keys[1:]),
        (("--older-than", "1h"), keys[1:2]),
        (("--key", keys[2], "--key", keys[1]), keys[1:]),
        (("--discarded",), []),
    ):
        assert {letter["key"] for letter in listed(*words)["letters"]} == set(chosen), words
    assert len(listed("--limit", "1")["letters"]) == 1
    _, out, _ = command("dead-letters", "list")
    assert "no number" in out
    assert "{" not in out
    assert command("dead-letters", "list", "video")[1] == "No dead letters.\n"
    assert command("dead-letters", "list", "--older-than", "soon")[0] == 2
    world.legacy("DELETE FROM media_files")


def test_all_of_one_is_told(world, context, keys, command):
    code, out, _ = command("dead-letters", "show", "text", keys[1])
    assert code == 0
    assert f"text {keys[1]} is parked: refused at step adapt, ArrowInvalid" in out
    assert "no number 1" in out
    assert "there, as it was refused." in out
    assert f"sync-pipeline dead-letters replay text --key {keys[1]}" in out
    world.legacy(SPOIL, ("another", keys[1]))
    found = json.loads(command("dead-letters", "show", "text", keys[1], "--format", "json")[1])
    assert (found["changed"], found["attempts"], found["row"]["duration"]) == (True, 1, "another")
    code, _, said = command("dead-letters", "show", "text", "x")
    assert code == 2
    assert "a key of entity text is id bigint" in said
    assert "is no dead letter" in command("dead-letters", "show", "text", "999999")[2]


def test_a_letter_is_tried_again_by_itself_when_its_row_changes(world, context, keys):
    with world.following([context]):
        world.legacy(MEND, (keys[0],))
        wait_for(lambda: keys[0] not in {key for key, _ in world.target(LETTERS)})
    assert world.target(SECONDS, (keys[0],)) == [(7,)]
    assert {key for key, _ in world.target(LETTERS)} == set(keys[1:])


def test_a_replay_says_what_went_through(world, context, keys, command):
    world.legacy("UPDATE content SET attrs = '{}' WHERE id = %s", (keys[0],))  # without a stamp: nothing tells of it

    def replayed(*words):
        code, out, _ = command("dead-letters", "replay", "text", "--format", "json", *words)
        assert code == 0
        return tuple(json.loads(out)["text"].values())

    assert replayed("--key", keys[1]) == (1, 0, 1)
    assert replayed("--step", "row") == (0, 0, 0)
    assert replayed() == (3, 1, 2)
    assert {key for key, _ in world.target(LETTERS)} == set(keys[1:])


def test_a_replay_ends_though_others_have_more_to_do_all_the_time(context, keys, command, monkeypatch):
    work = live.work
    monkeypatch.setattr(live, "work", lambda *arguments: work(*arguments) or True)
    code, out, _ = command("dead-letters", "replay", "text", "--format", "json")
    assert (code, json.loads(out)["text"]) == (0, {"replayed": 3, "through": 0, "parked": 3})


def test_a_discarded_one_is_not_tried_until_its_row_changes(world, context, keys, command):
    code, out, _ = command("dead-letters", "discard", "text", "--key", keys[0], "--reason", "a test row", "--by", "ann")
    assert (code, out.split(";")[0]) == (0, "1 rows of text are discarded")
    shown = json.loads(command("dead-letters", "show", "text", keys[0], "--format", "json")[1])
    assert (shown["state"], shown["discarded_by"], shown["discarded_why"]) == ("discarded", "ann", "a test row")
    with taking_all(context) as mended:  # would be taken, were they tried
        sync(mended, keys[0])  # an event, of a change that concerns us not
        assert sweep(mended).changed == 2
        assert not live.work(mended, lambda *_: None)  # they are as they were refused, by the same version
        dead_letters.replay(mended, DeadLetterFilter("text", keys[1:], reasons=("rejected",)))
        while live.work(mended, lambda *_: None):
            pass
        for partition in context.entity.partitions.names()[-2:]:
            backfill(mended, partition)
        command("dead-letters", "replay", "text")
    assert world.target(LETTERS) == [(keys[0], "discarded")]
    assert world.target(SECONDS, (keys[0],)) != [(9,)]

    ((stamp,),) = world.legacy("SELECT updated_at FROM content WHERE id = %s", (keys[0],))
    world.legacy(SPOIL, ("no number either", keys[0]))
    sync(context, keys[0])
    assert world.target(LETTERS) == [(keys[0], "discarded"), (keys[0], "rejected")]
    assert json.loads(command("dead-letters", "show", "text", keys[0], "--format", "json")[1])["state"] == "parked"
    world.legacy(SPOIL, ("no number 0", keys[0]))
    world.legacy("UPDATE content SET updated_at = %s WHERE id = %s", (stamp, keys[0]))
    sync(context, keys[0])
    assert world.target(LETTERS) == [(keys[0], "discarded")]  # as it was when somebody set it aside

    world.legacy(MEND, (keys[0],))
    with world.following([context]):
        wait_for(lambda: world.target(LETTERS) == [])
    assert world.target(SECONDS, (keys[0],)) == [(7,)]


def test_what_changed_before_it_was_discarded_comes_through(world, context, keys):
    world.legacy(MEND, (keys[0],))  # nobody has looked yet
    assert discard(context, keys[0]) == [keys[0]]
    sync(context, keys[0])
    assert world.target(SECONDS, (keys[0],)) == [(7,)]
    assert keys[0] not in {key for key, _ in world.target(LETTERS)}


def test_it_counts_apart_and_is_no_drift(world, context, keys):
    discard(context, *keys)
    status = status_of(world.stores, context.entity)
    assert status["due"] == {"discarded": 3}
    verdict = reconcile(context)
    assert verdict.status == "clean"
    assert {f.kind for f in verdict.findings} == {"discarded"}
    assert {f.key for f in verdict.findings} == set(keys)
    assert repair(context, verdict.findings) == []
    assert live.caught_up(context, "epoch")


def test_what_stands_behind_dead_letters_is_named_and_then_drift(world, context, keys):
    """A try that fails again does not begin the time anew."""
    verdict = reconcile(context)
    assert (verdict.status, {(f.kind, f.key) for f in verdict.findings}) == (
        "clean",
        {("pending", key) for key in keys},
    )
    limit = world.stores.settings.due_limit_seconds
    world.target("UPDATE sync.due SET first_at = first_at - %s * interval '1 s'", [limit + 1])
    assert (reconcile(context).status, reconcile(context).overdue) == ("drift", 3)
    sync(context, *keys)
    assert reconcile(context).status == "drift"
    discard(context, *keys)
    assert reconcile(context).status == "clean"


@pytest.mark.parametrize("word", ["--key", "--discarded"])
def test_a_replay_takes_a_discard_back(world, context, keys, command, word):
    discard(context, *keys)
    assert json.loads(command("dead-letters", "replay", "text", "--format", "json")[1])["text"]["replayed"] == 0
    wanted = [part for key in keys for part in ("--key", key)] if word == "--key" else [word]
    assert json.loads(command("dead-letters", "replay", "text", "--format", "json", *wanted)[1])["text"]["parked"] == 3
    assert world.target(LETTERS) == sorted((key, "rejected") for key in keys)
    discard(context, *keys)
    with taking_all(context) as mended:
        dead_letters.replay(mended, DeadLetterFilter("text", reasons=("discarded",)))
        while live.work(mended, lambda *_: None):
            pass
    assert world.target(LETTERS) == []
    assert [world.target(SECONDS, (key,)) for key in keys] == [[(9,)]] * 3
    assert reconcile(context).status == "drift"  # by the old adapter; by the new one it is clean


def test_one_that_cannot_be_read_stays_discarded(world, context, keys):
    world.legacy("UPDATE content SET attrs = '{}' WHERE id = %s", (keys[0],))
    failing = f"CASE c.id WHEN {keys[0]} THEN (1 / (c.id - {keys[0]}))::text ELSE c.attrs ->> 'duration' END"
    sql = context.entity.origin.sql.replace("c.attrs ->> 'duration'", failing)
    origin = dataclasses.replace(context.entity.origin, sql=sql)
    context = EntityContext.open(dataclasses.replace(context.entity, origin=origin), context.stores)
    sync(context, keys[0])
    assert world.target("SELECT step FROM sync.due WHERE key = %s", (keys[0],)) == [("read",)]
    discard(context, keys[0])
    sync(context, keys[0])  # it is refused before anybody can tell that it is the same row
    sweep(context)
    while live.work(context, lambda *_: None):
        pass
    assert (keys[0], "discarded") in world.target(LETTERS)
    assert (keys[0], "rejected") not in world.target(LETTERS)


def test_who_has_one_written_by_force_has_it_tried(world, context, keys, command):
    discard(context, *keys)
    assert command("repair", "text", "--key", keys[0])[0] == 0
    assert world.target(LETTERS) == sorted([(keys[0], "rejected"), (keys[1], "discarded"), (keys[2], "discarded")])
    assert sweep(context).changed == 1  # and it is tried again like any other
    while live.work(context, lambda *_: None):
        pass
    assert (keys[0], "rejected") in world.target(LETTERS)


def test_a_document_that_is_owed_does_not_bring_one_back(world, context, keys):
    discard(context, *keys)
    sync(context, *keys, documents=True)
    sync_keys(context, context.origin.key.parse(keys), Order(documents=True))
    assert world.target(LETTERS) == sorted((key, "discarded") for key in keys)
    assert sweep(context).changed == 0
    while live.work(context, lambda *_: None):
        pass
    assert world.target(LETTERS) == sorted((key, "discarded") for key in keys)


def test_a_file_that_is_gone_does_not_bring_a_discarded_one_back(world, context, keys):
    world.client.put_object(Bucket=world.legacy_bucket, Key="gone.jpg", Body=b"soon gone")
    world.legacy("INSERT INTO media_files (content_id, kind, bucket_key) VALUES (%s, 'cover', 'gone.jpg')", (keys[0],))
    world.legacy(MEND, (keys[0],))
    sync(context, keys[0])
    world.client.delete_object(Bucket=world.legacy_bucket, Key="gone.jpg")

    def look():
        sweep(context)
        while live.work(context, lambda *_: None):
            pass
        return [reason for key, reason in world.target(LETTERS) if key == keys[0]]

    assert look() == ["rejected"]
    discard(context, keys[0])
    assert look() == ["discarded"]
    assert {f.kind for f in reconcile(context).findings if f.sink == "media"} <= {"discarded"}
    world.legacy("DELETE FROM media_files WHERE bucket_key = 'gone.jpg'")


def test_a_document_that_the_index_refuses_can_be_discarded(world, context, keys, command):
    refused = {"updated_at": {"type": "date", "format": "epoch_second"}}  # all else is mapped as declared
    mapping = {"properties": {**index_of(context.entity).fields, **refused}}
    world.document("PUT", "text-refuses", {"mappings": {"dynamic": False, **mapping}})
    swap = [{"remove": {"index": "text-000001", "alias": "text"}}, {"add": {"index": "text-refuses", "alias": "text"}}]
    world.document("POST", "_aliases", {"actions": swap})
    try:
        world.legacy("UPDATE content SET status = 'published', attrs = '{}' WHERE id = %s", (keys[0],))
        sync(context, keys[0])
    finally:
        back = [{"add": {"index": "text-000001", "alias": "text"}}, {"remove_index": {"index": "text-refuses"}}]
        world.document("POST", "_aliases", {"actions": back})
    assert world.target("SELECT step FROM sync.due WHERE key = %s", (keys[0],)) == [("document",)]
    discard(context, keys[0])
    sync(context, keys[0])
    assert (keys[0], "discarded") in world.target(LETTERS)
    (found,) = [f for f in reconcile(context).findings if f.sink == "search" and f.key == keys[0]]
    assert found.kind == "discarded"
    command("dead-letters", "replay", "text", "--key", keys[0])
    assert keys[0] not in {key for key, _ in world.target(LETTERS)}
    assert [f for f in reconcile(context).findings if f.key == keys[0]] == []


def test_a_row_that_goes_takes_its_letter_along(world, context, keys):
    discard(context, keys[0])
    world.legacy("UPDATE content SET deleted_at = now() WHERE id = %s", (keys[0],))
    try:
        sweep(context)
        while live.work(context, lambda *_: None):
            pass
        assert keys[0] not in {key for key, _ in world.target(LETTERS)}
        assert world.target(SECONDS, (keys[0],)) == []
    finally:
        world.legacy("UPDATE content SET deleted_at = NULL WHERE id = %s", (keys[0],))


def test_what_is_to_be_discarded_must_be_said(keys, command):
    assert "say which" in command("dead-letters", "discard", "text", "--reason", "all of them")[2]
    assert "must say why" in command("dead-letters", "discard", "text", "--key", keys[0], "--reason", " ")[2]
    assert command("dead-letters", "discard", "text", "--key", keys[0])[0] == 2


def test_they_show_in_dagster(world, context, keys):
    discard(context, keys[0])
    table = dg.AssetKey(["catalog", "text"])

    def look():
        return next(
            found for found in health_results(world.stores, context.entity, table) if found.check_name == DEAD_LETTERS
        )

    found = look()
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert found.description == "2 rows are parked, 1 are discarded"
    page = found.metadata["causes"].value
    assert "| adapt: ArrowInvalid | 2 |" in page
    assert "| adapt: ArrowInvalid (discarded) | 1 |" in page
    assert "sync-pipeline dead-letters replay text --step adapt" in page
    assert "{" not in page
    assert observed(world.stores, context.entity)[table]["dead letters"].value == page
    discard(context, *keys)
    assert look().passed
    for key in keys:
        world.legacy(MEND, (key,))
    sync(context, *keys)
    assert "causes" not in look().metadata
    assert "dead letters" not in observed(world.stores, context.entity)[table]


WAITS = "SELECT extract(epoch FROM not_before - last_at)::float, attempts FROM sync.due WHERE reason = 'rejected'"


@pytest.mark.hazard(85)
def test_they_are_tried_again_after_ever_longer(world, context, keys):
    """Minutes, then hours, since what refused them may have changed; a sweep has nothing new to say of them."""
    for tries, seconds in ((1, 60), (2, 120), (3, 240)):
        found = world.target(WAITS)
        assert {attempts for _, attempts in found} == {tries}
        assert all(seconds * 0.75 <= wait <= seconds * 1.25 for wait, _ in found), found
        assert sweep(context).changed == 3
        assert not live.work(context, lambda *_: None)
        world.target("UPDATE sync.due SET not_before = now()")
        assert live.work(context, lambda *_: None)
    world.target("UPDATE sync.due SET not_before = now(), attempts = 30")
    assert live.work(context, lambda *_: None)
    assert all(4.5 * 3600 <= wait <= 7.5 * 3600 for wait, _ in world.target(WAITS))


@pytest.mark.hazard(85)
def test_a_try_of_many_is_one_batch_and_no_news(world, context, keys):
    """What the log gains does not go by how many are refused again."""
    batches, events = "SELECT count(*) FROM sync.batch", "SELECT count(*) FROM sync.event"
    before = world.target(batches)[0][0], world.target(events)[0][0]
    world.target("UPDATE sync.due SET not_before = now()")
    while live.work(context, lambda *_: None):
        pass
    after = world.target(batches)[0][0], world.target(events)[0][0]
    assert (after[0] - before[0], after[1] - before[1]) == (1, 0)


@pytest.mark.hazard(85)
def test_another_version_of_the_entity_has_them_tried_at_once(world, context, keys):
    entity = dataclasses.replace(context.entity, version=context.entity.version + 1)
    with context.stores.target() as cursor:
        ledger = Ledger.open(cursor, "text", context.origin.key, entity.version, context.origin.digest_version)
    with taking_all(dataclasses.replace(context, entity=entity, ledger=ledger)) as mended:
        sweep(mended)
        while live.work(mended, lambda *_: None):
            pass
    assert world.target(LETTERS) == []
    assert [world.target(SECONDS, (key,)) for key in keys] == [[(9,)]] * 3
    for key in keys:  # written under the version that counts
        sync(context, key, force=True)


@pytest.mark.hazard(85)
def test_one_that_has_changed_unseen_is_tried_by_the_next_sweep(world, context, keys):
    world.legacy("UPDATE content SET attrs = '{}' WHERE id = %s", (keys[0],))  # without a stamp
    sweep(context)
    while live.work(context, lambda *_: None):
        pass
    assert {key for key, _ in world.target(LETTERS)} == set(keys[1:])


@pytest.mark.hazard(85)
def test_one_that_is_again_as_it_was_written_last_is_tried_by_the_next_sweep(world, context, keys):
    """Ledger and monolith agree on it then, so that the comparison of keys and digests has nothing to say."""
    world.legacy(MEND, (keys[0],))
    sync(context, keys[0])
    ((attrs, stamp),) = world.legacy("SELECT attrs::text, updated_at FROM content WHERE id = %s", (keys[0],))
    world.legacy(SPOIL, ("no number", keys[0]))
    sync(context, keys[0])
    assert {key for key, _ in world.target(LETTERS)} == set(keys)
    world.legacy("UPDATE content SET attrs = %s, updated_at = %s WHERE id = %s", (attrs, stamp, keys[0]))
    assert sweep(context).changed == 2  # the other two letters
    while live.work(context, lambda *_: None):
        pass
    assert {key for key, _ in world.target(LETTERS)} == set(keys[1:])


@pytest.mark.hazard(85)
def test_many_make_no_look_for_work_longer(world, context):
    """They lie in indices of their own: whoever looks for work reads a few blocks, however many there are."""
    world.target(
        "INSERT INTO sync.due (entity, reason, key, revision, priority, not_before, step, error, digest, basis)"
        " SELECT 'text', 'rejected', 'n' || n, 0, 9, now() + n * interval '1 s' + interval '1 h', 'adapt', 'E', n, 1"
        " FROM generate_series(1, 20000) n"
    )
    world.target("ANALYZE sync.due")
    plans = []
    with context.stores.target() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = on")
        values = {
            "entity": "text",
            "useless": [],
            "useless_sinks": [],
            "limit": 1,
            "refused_limit": 100,
            "claim_seconds": 120,
        }
        values |= {"asked": due.ASKED, "again": due.AGAIN}
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {WRITES['claim_all']}", values)
        plans += [cursor.fetchone()[0][0]["Plan"]]
        work = f"SELECT FROM sync.due WHERE entity = 'text' AND {queue_reads.IS_WORK}"
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {work}")
        plans += [cursor.fetchone()[0][0]["Plan"]]
    try:
        for plan in plans:
            assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 40, json.dumps(plan)
        assert live.caught_up(context, "epoch")
    finally:
        world.target("DELETE FROM sync.due WHERE left(key, 1) = 'n'")


@pytest.mark.hazard(85)
def test_what_looks_for_some_of_many_letters_reads_past_no_others(world, context):
    """Each look is for a few of 60,000 letters, and reads a few blocks of an index of its own."""
    kinds = {
        "UniqueViolation": "now() + interval '1 h', 'row', 'UniqueViolation', 'one_slug', NULL",
        "MediaMissing": "'infinity', 'media', 'MediaMissing', NULL, NULL",
        "ParentMissing": "'infinity', 'row', 'ParentMissing', NULL, 'series'",
        "CheckViolation": "now() + interval '1 h', 'row', 'CheckViolation', NULL, NULL",
    }
    for kind, values in kinds.items():
        world.target(
            "INSERT INTO sync.due (entity, reason, key, revision, priority, not_before, step, error, refused_by,"
            f" waits_for, message, last_at) SELECT 'text', 'rejected', 'n{kind}' || n, 0, 9, {values}, 'm',"
            " now() - n * interval '1 s' FROM generate_series(1, 15000) n"
        )
    world.target("ANALYZE sync.due")
    looks = {
        "repeating": (WRITES["wake_repeating"], {"entity": "text", "limit": 10}),
        "untimed": (WRITES["wake_untimed"], {"entity": "text", "limit": 10}),
        "partners": (READS["refused_by"], {"constraints": ["one_slug", "other"], "entity": "text", "limit": 10}),
    }
    try:
        with context.stores.target() as cursor:
            for name, (look, values) in looks.items():
                cursor.execute("SAVEPOINT look")
                cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {look}", values)
                plan = cursor.fetchone()[0][0]["Plan"]
                cursor.execute("ROLLBACK TO SAVEPOINT look")
                assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 400, (name, json.dumps(plan))
            found = parking.refused_by(cursor, "text", ["one_slug", "other"])
            assert found[:2] == ["nUniqueViolation1", "nUniqueViolation2"]
            assert len(found) == 100
    finally:
        world.target("DELETE FROM sync.due WHERE left(key, 1) = 'n'")


@pytest.mark.hazard(85)
def test_whoever_asks_for_one_does_not_wait_for_all_others(world, context, keys):
    world.target("UPDATE sync.due SET not_before = now() - interval '1 h'")
    dead_letters.replay(context, DeadLetterFilter("text", keys[2:]))
    with context.stores.target() as cursor:
        (asked,) = due.claim(cursor, "text")
        assert asked.keys == [keys[2]]
        (others,) = due.claim(cursor, "text")
        assert sorted(others.keys) == sorted(keys[:2])
        assert due.claim(cursor, "text") == []
        queue_table.unclaim_entity(cursor, "text")
