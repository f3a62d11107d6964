"""Documents that the index refuses for good: an entity that says so has its rows put back as they were, whole."""

import dataclasses
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import count

import dagster as dg
import psycopg2
import pyarrow as pa
import pytest

from checks.health import DEAD_LETTERS, health_results
from sync_pipeline.batch import prepare
from sync_pipeline.batch.delivery import send
from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import SettingError
from sync_pipeline.explain.history import history
from sync_pipeline.explain.why import why
from sync_pipeline.ledger.states import State
from sync_pipeline.operate import snapshot
from sync_pipeline.operate.status import status_of
from sync_pipeline.pipeline import sync_keys, sync_roots
from sync_pipeline.queue import dead_letters, due
from sync_pipeline.queue.dead_letters import DeadLetterFilter
from sync_pipeline.rebuild.rebuild import abandon, clear, rebuild_table
from sync_pipeline.rebuild.report import FILLED
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run import live
from sync_pipeline.run.garbage import collect
from sync_pipeline.run.sweep import sweep
from sync_pipeline.sinks.search.send import make
from sync_pipeline.stores.stores import Stores
from tests.refusing._notes import AWKWARD, MONOLITH
from tests.sinks import index_of
from tests.world import opened, wait_for

PUT = (
    "INSERT INTO note (id, title, weight, cover) VALUES (%s, %s, %s, %s) ON CONFLICT (id) DO UPDATE"
    " SET title = excluded.title, weight = excluded.weight, cover = excluded.cover, updated_at = clock_timestamp()"
)
SHOWN = "UPDATE note SET shown = %s, weight = %s, updated_at = clock_timestamp() WHERE id = %s"
LETTERS = "SELECT key, reason, step, error, undone_at IS NOT NULL FROM sync.due WHERE entity = %s AND key IS NOT NULL"
LETTERS += " ORDER BY key, reason"
ODD = {
    "amount": "1.500",
    "share": "0.1000",
    "ratio": "-0",
    "small": "0.1",
    "at": "infinity",
    "day": "20000-01-01",
    "span": "1 mon -1 day 00:00:00.000001",
    "bytes": "\\x00ff",
    "body": '{"b": 1.0,  "a": 1e400}',
    "facts": '{"a": 1.10}',
    "name": "ab",
    "names": '{NULL,"NULL","a b",""}',
    "range": "[1,5)",
    "bits": "101",
    'it\'s "odd"': "",
}
NUMBERS = count(1)


@pytest.fixture(scope="module")
def world(fleet):
    settings = {"SYNC_ENTITIES": "tests.refusing", "SYNC_RECHECK_SECONDS": "0"}
    with opened(fleet, "compensation", **settings) as world:
        world.legacy(MONOLITH)
        for name in ("old.png", "new.png"):
            world.client.put_object(Bucket=world.legacy_bucket, Key=name, Body=name.encode())
        for context in world.contexts.values():
            sweep(context)
        world.target("UPDATE sync.cursor SET filled_at = now()")
        yield world


@pytest.fixture
def context(world):
    context = world.contexts["note"]
    yield context
    world.legacy("DELETE FROM remark")
    world.legacy("DELETE FROM note")
    for name in ("remark", "note", "memo"):
        sweep(world.contexts[name])
        work(world, world.contexts[name])
        assert reconcile(world.contexts[name]).findings == []
    assert world.target("SELECT entity, reason FROM sync.due") == []
    assert world.target("SELECT key FROM sync.before") == []


@pytest.fixture
def key(world, context):
    """A note that both entities have taken whole."""
    number = next(NUMBERS)
    put(world, number, "first", "1", "old.png")
    sync(context, number)
    sync(world.contexts["memo"], number)
    return number


def put(world, key, title, weight, cover=None):
    world.legacy(PUT, (key, title, weight, cover))


def sync(context, *keys, **order):
    return sync_keys(context, context.origin.key.parse(map(str, keys)), Order(acknowledge=True, **order))


def work(world, context):
    """Do what is owed, also what waits for its next try."""
    world.hurry()
    while live.work(context, lambda *_: None):
        pass


def refuse(world, context, key, title="refused", cover=None):
    put(world, key, title, "heavy", cover)
    sync(context, key)


def held(world, context, key):
    """What readers have of a note: title in table and index, and how many files it refers to."""
    name = context.entity.name
    found = world.document("POST", f"{name}/_mget", {"ids": [str(key)]})["docs"][0]
    rows = world.target(f"SELECT title FROM catalog.{name} WHERE id = %s", (key,))
    files = world.target("SELECT target_key FROM sync.media_ref WHERE (entity, key) = (%s, %s)", (name, str(key)))
    return (rows[0][0] if rows else None, found["_source"]["title"] if found["found"] else None, len(files))


def letters(world, name="note"):
    return world.target(LETTERS, (name,))


def letter(key, undone=True, error="document_parsing_exception"):
    return (str(key), "rejected", "document", error, undone)


def told(context, key):
    return why(context, str(key)).as_dict()


def test_row_references_and_document_are_as_they_were_and_the_twin_goes_on(world, context, key):
    listed = ", ".join('"' + name.replace('"', '""') + '"' for name in ODD)
    assert ODD.keys() == AWKWARD.keys()
    values = ", ".join(["%s"] * len(ODD))
    world.target(f"UPDATE catalog.note SET ({listed}) = ({values}) WHERE id = %s", (*ODD.values(), key))
    world.target("CREATE TABLE aside AS SELECT * FROM catalog.note WHERE id = %s", (key,))
    refs = world.target("SELECT * FROM sync.media_ref WHERE entity = 'note'")
    document = world.document("GET", f"note/_doc/{key}")
    for twin in (context, world.contexts["memo"]):
        refuse(world, twin, key, cover="new.png")
        assert held(world, twin, key) == ("refused", "first", 1)
        assert world.target("SELECT entity FROM sync.before") == ([("note",)] if twin is context else [])
        work(world, twin)
    assert world.target("SELECT t *= a FROM catalog.note t, aside a WHERE t.id = a.id") == [(True,)]
    assert world.target("SELECT * FROM sync.media_ref WHERE entity = 'note'") == refs
    assert world.document("GET", f"note/_doc/{key}") == document
    assert held(world, world.contexts["memo"], key) == ("refused", "first", 1)
    assert letters(world) == [letter(key)]
    assert letters(world, "memo") == [letter(key, undone=False)]
    assert world.target("SELECT entity FROM sync.before") == []
    world.target("DROP TABLE aside")


def test_it_is_left_alone_until_its_row_changes(world, context, key):
    refuse(world, context, key)
    work(world, context)
    before = world.target("SELECT written FROM sync.ledger_note WHERE id = %s", (key,))
    assert sync(context, key).written == 0  # an event that tells nothing new
    assert sweep(context).changed == 0
    sync(context, key, documents=True)  # whoever wants its document would have it without its row
    work(world, context)
    assert world.target("SELECT written FROM sync.ledger_note WHERE id = %s", (key,)) == before
    assert held(world, context, key) == ("first", "first", 1)
    assert {(f.sink, f.kind) for f in reconcile(context).findings} <= {
        (s, "pending") for s in ("relational", "search", "media")
    }
    put(world, key, "mended", "2", "new.png")
    sync(context, key)
    assert held(world, context, key) == ("mended", "mended", 1)
    assert letters(world) == []


def test_an_insert_is_undone(world, context):
    key = next(NUMBERS)
    refuse(world, context, key, cover="new.png")
    assert held(world, context, key) == ("refused", None, 1)
    work(world, context)
    assert held(world, context, key) == (None, None, 0)
    assert letters(world) == [letter(key)]
    put(world, key, "mended", "2")
    sync(context, key)
    assert held(world, context, key) == ("mended", "mended", 0)


def test_a_delete_is_undone(world, context, key):
    world.legacy(SHOWN, (False, "heavy", key))  # the table no longer wants it, and the index not as it is
    sync(context, key)
    assert held(world, context, key)[0] is None
    work(world, context)
    assert held(world, context, key) == ("first", "first", 1)
    world.legacy(SHOWN, (False, "3", key))
    sync(context, key)
    assert held(world, context, key)[0] is None


def test_a_newer_revision_wins(world, context, key):
    refuse(world, context, key)
    put(world, key, "newer", "2")
    sync(context, key)
    work(world, context)
    assert held(world, context, key) == ("newer", "newer", 0)
    assert letters(world) == []


def test_of_a_row_that_changes_before_it_is_put_back_the_change_is_written(world, context, key):
    refuse(world, context, key)
    put(world, key, "newer", "2")
    work(world, context)
    assert held(world, context, key) == ("newer", "newer", 0)
    assert letters(world) == []


def test_a_late_compensation_is_overtaken_and_owed_again(world, context, key):
    refuse(world, context, key)
    with closing(psycopg2.connect(world.target_url)) as later:
        cursor = later.cursor()
        cursor.execute("SELECT FROM sync.ledger_note WHERE id = %s FOR UPDATE", (key,))
        worker = threading.Thread(target=live.work, args=(context, lambda *_: None))
        worker.start()
        waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        wait_for(lambda: world.target(waiting))
        cursor.execute("UPDATE sync.ledger_note SET seen = nextval('sync.revision') WHERE id = %s", (key,))
        later.commit()  # a later batch has looked at it, and found it unchanged
        worker.join()
    assert held(world, context, key) == ("refused", "first", 0)
    assert world.target("SELECT keys FROM sync.due WHERE reason = 'compensation'") == [([str(key)],)]
    work(world, context)
    assert held(world, context, key) == ("first", "first", 1)


def test_two_that_compensate_the_same_key(world, context, key):
    refuse(world, context, key)
    with context.stores.target() as cursor:
        due.owe(cursor, "note", "compensation", [str(key)], 0)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: live.work(context, lambda *_: None), range(2)))
    work(world, context)
    assert held(world, context, key) == ("first", "first", 1)
    assert world.target("SELECT count(*) FROM sync.event WHERE key = %s AND kind = 'compensated'", (str(key),)) == [
        (1,)
    ]


def test_what_readers_last_saw_whole_is_put_back(world, context, key):
    sent = []
    put(world, key, "second", "2")
    sync(context, key, hand_over=sent.append)
    refuse(world, context, key, "third")
    work(world, context)
    assert held(world, context, key) == ("first", "first", 1)
    send(context, sent[0])  # the second one's document was on its way all the time
    work(world, context)
    assert held(world, context, key) == ("first", "first", 1)


@pytest.mark.parametrize("noted", [True, False])
def test_one_whose_document_came_late_was_whole(world, context, key, noted):
    sent = []
    put(world, key, "second", "2")
    sync(context, key, hand_over=sent.append)
    refuse(world, context, key, "third")
    if noted:
        send(context, sent[0])
    else:  # whoever sent it was killed before it noted that it was taken
        operations, index = sent[0].operations, index_of(context.entity)
        documents = make(operations, index).documents
        index.write(context.stores.search, operations.ids, operations.versions, documents)
    work(world, context)
    assert held(world, context, key) == ("second", "second", 0)
    send(context, sent[0])
    work(world, context)
    assert held(world, context, key) == ("second", "second", 0)


def test_a_newer_write_whose_document_is_still_to_be_sent_is_not_undone(world, context, key):
    sent = []
    refuse(world, context, key)
    put(world, key, "mended", "2")
    sync(context, key, hand_over=sent.append)
    work(world, context)
    assert held(world, context, key) == ("mended", "first", 0)
    send(context, sent[0])
    work(world, context)
    assert held(world, context, key) == ("mended", "mended", 0)
    assert letters(world) == []


def refused_and_written_again(world, context, key):
    """Two writes of a row; their documents, of which the index refuses the first, are still to be sent."""
    sent = []
    for title, weight in (("second", "heavy"), ("third", "3")):
        put(world, key, title, weight)
        sync(context, key, hand_over=sent.append)
    return sent


@pytest.mark.parametrize("name", ["note", "memo"])
def test_a_refusal_is_no_news_where_a_later_document_is_coming(world, context, key, name):
    context = world.contexts[name]
    sent = refused_and_written_again(world, context, key)
    send(context, sent[0], lambda: {str(key)})
    work(world, context)
    send(context, sent[1])
    work(world, context)
    assert held(world, context, key) == ("third", "third", 0)
    assert letters(world, name) == []


def test_a_refusal_that_is_told_again_after_its_row_is_put_back_is_no_news(world, context, key):
    """Two had claimed the document, one after the other; once the mapping takes it, both parts are to be there."""
    sent = []
    put(world, key, "refused", "heavy")
    sync(context, key, hand_over=sent.append)
    send(context, sent[0])
    work(world, context)
    assert held(world, context, key) == ("first", "first", 1)
    send(context, sent[0])
    work(world, context)
    assert letters(world) == [letter(key)]
    with taking_all(world, "note"):
        dead_letters.replay(context, DeadLetterFilter("note", [str(key)]))
        work(world, context)
        assert held(world, context, key) == ("refused", "refused", 0)
    put(world, key, "mended", "2")
    sync(context, key)


def test_who_wants_its_document_and_looked_before_it_was_put_back_leaves_it_alone(world, context, key, monkeypatch):
    refuse(world, context, key)
    work(world, context)
    with monkeypatch.context() as patch:  # put back between the look at it and the locks
        patch.setattr(prepare, "_reverted", lambda *_: pa.array([], pa.string()))
        with taking_all(world, "note"):
            sync(context, key, documents=True)
            assert held(world, context, key) == ("first", None, 1)
    assert letters(world) == [letter(key)]


@pytest.mark.parametrize("name", ["note", "memo"])
def test_a_refusal_that_comes_after_a_newer_write_is_no_more(world, context, key, name):
    context = world.contexts[name]
    sent = refused_and_written_again(world, context, key)
    send(context, sent[0])
    send(context, sent[1])
    work(world, context)
    assert held(world, context, key) == ("third", "third", 0)
    assert letters(world, name) == []


def test_one_that_others_rely_on_by_now_is_due_and_told_until_it_can_be_undone(world, context, key, command):
    """A note that came in, and that a remark refers to by the time its document turns out to be refused."""
    child = next(NUMBERS)
    refuse(world, context, child)
    world.legacy("INSERT INTO remark VALUES (%s, %s)", (child, child))
    sync(world.contexts["remark"], child)
    refuse(world, context, key)
    with context.stores.target() as cursor:  # one record, of which one fails
        cursor.execute("DELETE FROM sync.due WHERE reason = 'compensation'")
        due.owe(cursor, "note", "compensation", [str(child), str(key)], 0)
    work(world, context)
    assert held(world, context, key)[0] == "first"
    assert held(world, context, child)[0] == "refused"
    assert letters(world) == sorted([letter(key), letter(child, undone=False, error="CompensationFailed")])
    ((attempts, error, later),) = world.target(
        "SELECT attempts, error, not_before > now() FROM sync.due WHERE reason = 'compensation'"
    )
    assert (attempts, error, later) == (1, "CompensationError", True)
    said = told(context, child)
    assert said["state"] == "failed"
    assert f"CompensationFailed: CompensationError: remark {child} refers to {child} in the new side" in said["verdict"]
    assert "its document was refused" in said["verdict"]
    assert "what keeps the former row" in said["to_do"]
    assert any("could not be put back" in alert for alert in status_of(world.stores, context.entity)["alerts"])
    assert "CompensationFailed" in command("dead-letters", "list", "note")[1]
    assert "CompensationError" in command("due", "list", "note")[1]
    asset = dg.AssetKey(["catalog", "note"])
    found = next(f for f in health_results(world.stores, context.entity, asset) if f.check_name == DEAD_LETTERS)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "1 rows could not be put back" in found.description

    world.legacy("DELETE FROM remark")
    sync(world.contexts["remark"], child)
    work(world, context)
    assert held(world, context, child) == (None, None, 0)
    assert letters(world) == sorted([letter(key), letter(child)])
    assert "could not be put back" not in str(status_of(world.stores, context.entity)["alerts"])


@pytest.mark.parametrize("fault", ["right", "constraint"])
def test_a_compensation_that_the_table_refuses_is_tried_again(world, context, key, fault):
    refuse(world, context, key)
    role = world.stores.settings.target_db.partition("//")[2].partition(":")[0]
    break_it, mend_it = {
        "right": (f"REVOKE UPDATE ON catalog.note FROM {role}", f"GRANT UPDATE ON catalog.note TO {role}"),
        "constraint": (
            "ALTER TABLE catalog.note ADD CONSTRAINT unlike CHECK (title <> 'first') NOT VALID",
            "ALTER TABLE catalog.note DROP CONSTRAINT unlike",
        ),
    }[fault]
    world.target(break_it)
    try:
        work(world, context)
        assert held(world, context, key) == ("refused", "first", 0)
        assert letters(world) == [letter(key, undone=False, error="CompensationFailed")]
    finally:
        world.target(mend_it)
    work(world, context)
    assert held(world, context, key) == ("first", "first", 1)
    assert letters(world) == [letter(key)]


@contextmanager
def taking_all(world, index):
    """Behind the alias is another index, which takes any weight; the former one again afterwards."""
    mapping = {"properties": {"title": {"type": "keyword"}, "weight": {"type": "keyword"}}}
    world.document("PUT", f"{index}-takes", {"mappings": {"dynamic": False, **mapping}})
    try:
        _point(world, index, f"{index}-000001", f"{index}-takes")
        yield
    finally:
        _point(world, index, f"{index}-takes", f"{index}-000001")
        world.document("DELETE", f"{index}-takes")


def _point(world, alias, before, after):
    acts = [{"remove": {"index": before, "alias": alias}}, {"add": {"index": after, "alias": alias}}]
    world.document("POST", "_aliases", {"actions": acts})


def test_a_replay_tries_row_and_document_again(world, context, key, command):
    refuse(world, context, key)
    work(world, context)
    assert json.loads(command("dead-letters", "replay", "note", "--format", "json")[1])["note"]["parked"] == 1
    assert held(world, context, key) == ("first", "first", 1)
    assert letters(world) == [letter(key)]
    with taking_all(world, "note"):
        command("dead-letters", "replay", "note")
        assert held(world, context, key) == ("refused", "refused", 0)
        assert letters(world) == []
    put(world, key, "mended", "2")
    sync(context, key)


def test_one_that_another_index_has_taken_meanwhile_is_whole(world, context, key):
    refuse(world, context, key)
    with taking_all(world, "note"):
        ((written,),) = world.target("SELECT written FROM sync.ledger_note WHERE id = %s", (key,))
        document = {"id": key, "title": "refused", "weight": "heavy"}
        world.document("PUT", f"note/_doc/{key}?version={written}&version_type=external", document)
        work(world, context)
        assert held(world, context, key) == ("refused", "refused", 0)
        dead_letters.replay(context, DeadLetterFilter("note", [str(key)]))
        work(world, context)
        assert letters(world) == []
    put(world, key, "mended", "2")
    sync(context, key)


def test_a_repair_tries_it_again_and_it_is_put_back_again(world, context, key, command):
    refuse(world, context, key)
    work(world, context)
    assert command("repair", "note", "--key", str(key))[0] == 0
    assert held(world, context, key)[0] == "refused"
    work(world, context)
    assert held(world, context, key) == ("first", "first", 1)
    assert command("repair", "note")[0] == 0  # what is pending is left alone
    assert held(world, context, key) == ("first", "first", 1)


def test_a_discarded_one_stays_as_it_was_before(world, context, key, command):
    refuse(world, context, key)
    work(world, context)
    dead_letters.discard(context, DeadLetterFilter("note", [str(key)], reasons=("rejected",)), "ann", "nobody needs it")
    sync(context, key)
    sync(context, key, documents=True)
    sweep(context)
    work(world, context)
    assert held(world, context, key) == ("first", "first", 1)
    assert letters(world) == [(str(key), "discarded", "document", "document_parsing_exception", True)]
    assert {f.kind for f in reconcile(context).findings} == {"discarded"}
    assert told(context, key)["state"] == State.DISCARDED
    with taking_all(world, "note"):
        command("dead-letters", "replay", "note", "--discarded")
        assert held(world, context, key) == ("refused", "refused", 0)
    put(world, key, "mended", "2")
    sync(context, key)


def test_it_is_told(world, context, key, command):
    refuse(world, context, key)
    assert told(context, key)["state"] == "failed"
    work(world, context)
    said = told(context, key)
    assert (said["word"], said["state"]) == ("parked", "compensated")
    assert said["verdict"].endswith("; so row, files and document were put back as they were before.")
    assert "and behind: it is parked at step document" in said["sinks"]["relational"]
    lines = [h.what for h in history(context, str(key), 50).happenings]
    assert "compensated at step document: row, files and document are as they were before" in lines
    assert "undone: as it was before" in lines
    out = command("dead-letters", "show", "note", str(key))[1]
    assert "Put back as it was before, at " in out


def test_the_ledger_is_made_again_from_the_log(world, context, key):
    new = next(NUMBERS)
    snapshot.take(world.stores, "note")
    for refused in (key, new):
        refuse(world, context, refused)
    work(world, context)
    before = world.target("SELECT * FROM sync.ledger_note ORDER BY id")
    snapshot.rebuild(context)
    assert world.target("SELECT * FROM sync.ledger_note ORDER BY id") == before


def test_a_file_that_a_row_may_go_back_to_is_no_garbage(world, context, key):
    refuse(world, context, key)
    with closing(Stores(dataclasses.replace(context.stores.settings, garbage_grace_seconds=0))) as stores:
        collect(stores)
    work(world, context)
    assert held(world, context, key) == ("first", "first", 1)
    ((name,),) = world.target("SELECT target_key FROM sync.media_ref WHERE entity = 'note'")
    world.client.head_object(Bucket=world.target_bucket, Key=name)


@pytest.mark.hazard(84)
def test_a_file_that_no_row_may_go_back_to_any_more_is_garbage(world, context, key):
    """The row has lost its name before; the image from before the refusal is the last one that has it."""
    ((name,),) = world.target("SELECT target_key FROM sync.media_ref WHERE entity = 'note'")
    refuse(world, context, key)
    with closing(Stores(dataclasses.replace(context.stores.settings, garbage_grace_seconds=0))) as stores:
        collect(stores)
        world.client.head_object(Bucket=world.target_bucket, Key=name)
        put(world, key, "third", "3")
        sync(context, key)
        assert held(world, context, key) == ("third", "third", 0)
        collect(stores)
    assert world.client.list_objects_v2(Bucket=world.target_bucket, Prefix=name)["KeyCount"] == 0


def test_a_rewritten_file_does_not_bring_one_back(world, context, key):
    """The sweep finds that the file is another one by now; the row that would name it is refused."""
    refuse(world, context, key, cover="old.png")
    work(world, context)
    world.client.put_object(Bucket=world.legacy_bucket, Key="old.png", Body=b"other bytes")
    assert sweep(context).files == 0
    world.client.put_object(Bucket=world.legacy_bucket, Key="old.png", Body=b"old.png")


def test_one_whose_row_is_refused_next_is_tried_when_it_is_back(world, context, key):
    """Refused and put back; then its file is missing; then it is as it was when its document was refused."""
    refuse(world, context, key)
    work(world, context)
    put(world, key, "refused", "heavy", "missing.png")
    sync(context, key)
    assert [error for *_, error, _ in letters(world)] == ["MediaMissing"]
    put(world, key, "refused", "heavy")
    sync(context, key)
    work(world, context)
    assert letters(world) == [letter(key)]
    assert held(world, context, key) == ("first", "first", 1)


def test_a_part_of_a_row_is_put_back_alone(world):
    context = world.contexts["line"]
    line = "INSERT INTO line VALUES (%s, %s, %s, %s) ON CONFLICT (note_id, lang) DO UPDATE SET title = excluded.title,"
    line += " weight = excluded.weight"
    number = next(NUMBERS)

    def titles():
        return world.target("SELECT lang, title FROM catalog.line WHERE id = %s ORDER BY lang", (number,))

    def replace(weight):
        for lang in ("de", "en"):
            world.legacy(line, (number, lang, "anew", "1" if lang == "de" else weight))
        sync_roots(context, context.origin.root.parse([str(number)]), Order(acknowledge=True))

    for lang in ("de", "en"):
        world.legacy(line, (number, lang, "first", "1"))
    sync_roots(context, context.origin.root.parse([str(number)]), Order(acknowledge=True))
    replace("heavy")
    work(world, context)
    assert titles() == [("de", "anew"), ("en", "first")]
    assert letters(world, "line") == [letter(f'["{number}","en"]')]
    replace("2")
    assert titles() == [("de", "anew"), ("en", "anew")]
    assert letters(world, "line") == []


NEXT = "SET ROLE sync_writer; CREATE TABLE catalog.note_next (LIKE catalog.note INCLUDING ALL); ALTER TABLE "
NEXT += "catalog.note_next "
LONG = "first, and long"


def when_filled(act):
    """A report that acts once the new table is filled."""
    acts = [act]

    def report(step, _):
        if step == FILLED and acts:
            acts.pop()()

    return report


def in_both(world, key):
    """A note's title in the live table, and in the one that is filled beside it."""
    found = [world.target(f"SELECT title FROM catalog.{t} WHERE id = %s", (key,)) for t in ("note", "note_next")]
    return tuple(rows[0][0] if rows else None for rows in found)


def test_while_a_table_is_filled_beside_rows_are_put_back_in_both(world, context, key, monkeypatch):
    """One that was put back before, one that is while both tables have it, and one that had not been there."""
    late, new = next(NUMBERS), next(NUMBERS)
    put(world, late, "first", "1")
    sync(context, late)
    refuse(world, context, key, cover="old.png")
    work(world, context)
    world.client.put_object(Bucket=world.legacy_bucket, Key="old.png", Body=b"other bytes")
    for refused in (late, new):
        refuse(world, context, refused)

    def act():
        assert [in_both(world, each) for each in (key, late, new)] == [("first", None), *2 * [("refused", "refused")]]
        work(world, context)
        sync(context, late, new, shadow=True)
        with monkeypatch.context() as patch:  # put back between the look at it and the locks
            patch.setattr(prepare, "_reverted", lambda *_: pa.array([], pa.string()))
            sync(context, late, new, shadow=True)
        assert [in_both(world, each) for each in (late, new)] == [("first", "first"), (None, None)]

    made = rebuild_table(context, when_filled(act), like=True)
    assert (made.findings, made.carried_over) == ([], 1)
    world.client.put_object(Bucket=world.legacy_bucket, Key="old.png", Body=b"old.png")
    clear(world.stores, context.entity)
    assert [held(world, context, each)[:2] for each in (key, late, new)] == [*2 * [("first", "first")], (None, None)]


def test_an_image_from_before_a_swap_fits_the_new_table_or_fails(world, context, key):
    late = next(NUMBERS)
    put(world, late, LONG, "1")
    sync(context, late)
    refuse(world, context, late)
    world.target(f"{NEXT} DROP title, ADD title varchar(9)")
    made = rebuild_table(context, when_filled(lambda: refuse(world, context, key)))
    assert made.findings == []
    clear(world.stores, context.entity)
    assert [held(world, context, each)[0] for each in (key, late)] == ["refused", "refused"]
    work(world, context)
    assert held(world, context, key) == ("first", "first", 1)
    assert held(world, context, late) == ("refused", LONG, 0)
    assert letters(world) == sorted([letter(key), letter(late, undone=False, error="CompensationFailed")])
    world.target("ALTER TABLE catalog.note ALTER title TYPE text")
    work(world, context)
    assert held(world, context, late) == (LONG, LONG, 0)


def test_what_only_the_new_table_does_not_take_back_keeps_the_swap_back(world, context, key):
    late = next(NUMBERS)
    put(world, late, LONG, "1")
    sync(context, late)
    for refused in (key, late):
        refuse(world, context, refused)
    world.target(f"{NEXT} ALTER title TYPE varchar(9)")
    made = rebuild_table(context, when_filled(lambda: work(world, context)))
    assert [(finding.key, finding.kind) for finding in made.findings] == [(str(late), "missing")]
    assert "varying(9)" in made.findings[0].detail
    assert [in_both(world, each) for each in (key, late)] == [("first", "first"), (LONG, None)]
    assert held(world, context, late) == (LONG, LONG, 0)
    abandon(world.stores, context.entity)
    world.target("DROP TABLE catalog.note_next")


def test_columns_that_only_the_new_table_has_are_put_back_there(world, context, key):
    table = context.entity.table
    labelled = dataclasses.replace(table, columns={**table.columns, "label": "text not null"})
    entity = dataclasses.replace(
        context.entity,
        version=context.entity.version + 1,
        adapt=lambda legacy: {**context.entity.adapt(legacy), "label": legacy["title"]},
        sinks=tuple(labelled if sink is table else sink for sink in context.entity.sinks),
    )
    world.target(f"{NEXT} ADD label text NOT NULL")
    changed = EntityContext.open(entity, world.stores, shadow=True)

    def act():
        refuse(world, changed, key)
        assert in_both(world, key) == ("refused", "refused")
        work(world, changed)
        assert in_both(world, key) == ("first", "first")
        assert world.target("SELECT label FROM catalog.note_next WHERE id = %s", (key,)) == [("first",)]
        raise SettingError("given up")

    with pytest.raises(SettingError, match="given up"):
        rebuild_table(changed, when_filled(act))
    abandon(world.stores, entity)
    world.target("DROP TABLE catalog.note_next")
