"""Writers are fenced off, and `drain` ends when all that they committed is over: whoever has a transaction open yet.

Texts are caught by their stamps, audios by an outbox, videos by the log. Nothing sweeps but what a drain asks for.
"""

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace

import psycopg2
import pytest

from sync_pipeline.cli import entry
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import StoppedError
from sync_pipeline.operate import fence
from sync_pipeline.operate.drain import drain
from sync_pipeline.run.capture import open_cursor
from tests.caught._tables import TABLES
from tests.installed import SOURCES, made, unmade
from tests.world import opened, wait_for

BY = {"text": "watermark", "audio": "outbox", "video": "wal"}
PATIENCE = 60
EDIT = "UPDATE content SET title = %s, updated_at = now() WHERE id = %s"
FILE = "INSERT INTO media_files (content_id, kind, bucket_key, updated_at) VALUES (%s, 'source', %s, now())"
ONE = "SELECT min(id) FROM content WHERE kind = %s AND deleted_at IS NULL AND status = 'published'"


@pytest.fixture(scope="module")
def world(fleet):
    with opened(fleet, "drain", SYNC_SWEEP_SECONDS="1e9", SYNC_MARGIN_SECONDS="0.2") as world:
        world.load(120, 0)
        yield world


@pytest.fixture(scope="module")
def contexts(world):
    found = []
    for name, source in BY.items():
        declared = replace(world.context(name).entity, capture=SOURCES[source], tables=TABLES)
        context = EntityContext.open(declared, world.stores)
        for statement in made(context):
            world.legacy(statement)
        open_cursor(context)
        world.all_in(name)
        found.append(context)
    world.target("UPDATE sync.cursor SET filled_at = now()")
    yield found
    for context in found:
        for statement in unmade(context):
            world.legacy(statement)


@pytest.fixture
def looks(monkeypatch):
    """How often a drain has looked whether all have ended."""
    counted, have_ended = [], fence.Held.have_ended

    def look(held):
        counted.append(held)
        return have_ended(held)

    monkeypatch.setattr(fence.Held, "have_ended", look)
    return counted


@contextmanager
def open_transaction(world, names=BY):
    """A row and a file of each kind written, stamped, and not committed."""
    with closing(psycopg2.connect(world.monolith.admin_url, application_name="editor")) as late:
        write(world, late, names)
        yield late


def write(world, late, names=BY):
    for name in names:
        ((key,),) = world.legacy(ONE, [name])
        file = f"late-{name}-{late.info.backend_pid}.jpg"
        world.client.put_object(Bucket=world.legacy_bucket, Key=file, Body=file.encode())
        late.cursor().execute(EDIT, (file, key))
        late.cursor().execute(FILE, (key, file))


@contextmanager
def drained_beside(world, contexts):
    """A drain under way, with who follows."""
    with world.following(contexts), ThreadPoolExecutor(1) as pool:
        yield pool.submit(drain, contexts, PATIENCE, threading.Event())


def drained(world, contexts, seconds=PATIENCE):
    with world.following(contexts):
        return drain(contexts, seconds, threading.Event())


def crossing(world, contexts, looks):
    """Hazard 42: a transaction with written rows is open at the fence, and ends when the drain waits, or is over."""
    with open_transaction(world, [context.entity.name for context in contexts]) as late:
        with drained_beside(world, contexts) as under_way:
            wait_for(lambda: len(looks) > 3 or under_way.done())
            if not under_way.done():
                late.commit()
            found = under_way.result()
        late.commit()
        return found, late.info.backend_pid


@pytest.mark.hazard(42)
def test_what_is_open_at_the_fence_is_waited_for_and_brought_over(world, contexts, looks):
    found, pid = crossing(world, contexts, looks)
    assert found.verdict == "drained"
    assert world.differences() == []
    assert found.written_since == found.still_open == []
    (holder,) = found.waited_for
    assert (holder.who, holder.application, holder.state) == (f"pid {pid}", "editor", "idle in transaction")
    assert holder.has_written
    assert found.fence.at < found.through


@pytest.mark.hazard(42)
@pytest.mark.parametrize("name", ["audio", "video"])
def test_without_its_guard_it_is_left_behind(world, contexts, looks, name, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "42")
    found, _ = crossing(world, [context for context in contexts if context.entity.name == name], looks)
    assert found.verdict == "drained"
    assert {difference.kind for difference in world.differences()} == {name}
    monkeypatch.delenv("SYNC_TEST_GUARDS_OFF")
    assert drained(world, contexts).verdict == "drained"
    assert world.differences() == []


@pytest.mark.hazard(42)
def test_one_that_is_prepared_meanwhile_is_waited_for(world, contexts, looks):
    with closing(psycopg2.connect(world.monolith.admin_url)) as late:
        late.tpc_begin("over the fence")
        write(world, late, ["text", "video"])
        with drained_beside(world, contexts) as under_way:
            wait_for(lambda: looks)
            late.tpc_prepare()
            wait_for(lambda: [holder.who for holder in looks[0].open] == ["gid over the fence"])
            seen = len(looks)
            wait_for(lambda: len(looks) > seen + 2)
            assert not under_way.done()
            late.tpc_commit()
            assert under_way.result().verdict == "drained"
    assert world.differences() == []


@pytest.mark.parametrize("right", ["GRANT pg_read_all_stats TO", "REVOKE pg_read_all_stats FROM"])
def test_a_session_that_hides_its_transaction_is_seen(world, contexts, right):
    """Whether it hides it from everybody, or our role may not see it."""
    world.legacy(f"{right} sync_reader")
    try:
        with open_transaction(world) as late:
            late.rollback()
            late.cursor().execute("SET track_activities = off")
            late.commit()
            write(world, late)
            found = drain(contexts, 0, threading.Event())
            assert (found.verdict, [holder.who for holder in found.still_open]) == (
                "unknown",
                [f"pid {late.info.backend_pid}"],
            )
    finally:
        world.legacy("GRANT pg_read_all_stats TO sync_reader")


def test_what_is_written_after_the_fence_is_said(world, contexts, monkeypatch):
    horizon = fence.horizon_of
    ((kept,), (deleted,)) = world.legacy("SELECT id FROM content WHERE status <> 'published' ORDER BY id DESC LIMIT 2")

    def and_write(*arguments):
        found = horizon(*arguments)
        world.legacy(EDIT, ("after the fence", kept))
        world.legacy("DELETE FROM content WHERE id = %s", [deleted])
        world.legacy("TRUNCATE content_tags")
        return found

    monkeypatch.setattr("sync_pipeline.operate.drain.horizon_of", and_write)
    found = drained(world, contexts)
    assert found.verdict == "open fence"
    told = {"content: 1 rows", "content: 1 rows deleted", "content_tags: emptied, or rewritten"}
    assert told <= {*found.written_since}
    monkeypatch.undo()
    assert drained(world, contexts).verdict == "drained"
    assert world.differences() == []


def test_a_row_that_is_parked_is_listed(world, contexts):
    ((key,),) = world.legacy(ONE, ["text"])
    attrs = "UPDATE content SET attrs = %s, updated_at = now() WHERE id = %s RETURNING attrs::text"
    ((before,),) = world.legacy("SELECT attrs::text FROM content WHERE id = %s", [key])
    world.legacy(attrs, ['{"duration": "not a number"}', key])
    found = drained(world, contexts)
    assert (found.verdict, [(row.entity, row.key) for row in found.parked]) == ("parked", [("text", str(key))])
    world.legacy(attrs, [before, key])
    assert drained(world, contexts).verdict == "drained"


def test_a_history_that_is_not_in_is_refused(world, contexts):
    newer = EntityContext.open(replace(contexts[0].entity, version=2), world.stores)
    with pytest.raises(StoppedError, match="rows are of an older version"):
        drain([newer], 0, threading.Event())
    world.target("UPDATE sync.cursor SET filled_at = NULL WHERE entity = 'text'")
    try:
        with pytest.raises(StoppedError, match="history is not all in: sync-pipeline backfill text"):
            drain(contexts, 0, threading.Event())
    finally:
        world.target("UPDATE sync.cursor SET filled_at = now()")


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["sync-pipeline", "drain", "text", *words])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    return ended.value.code, capsys.readouterr().out


@pytest.mark.hazard(42)
def test_the_command_tells_who_is_open_and_ends_in_time(world, contexts, monkeypatch, capsys):
    with open_transaction(world, ["text"]) as late:
        code, told = run(monkeypatch, capsys, "--timeout", "0.5")
        assert code == 2
        assert all(word in told for word in (f"pid {late.info.backend_pid}", "editor", "still open", "unknown")), told
        late.commit()
    code, told = run(monkeypatch, capsys, "--format", "json")
    assert (code, json.loads(told)["verdict"]) == (0, "drained")
    assert world.differences() == []
