"""Each side fails over to a standby that lacks its last commits: the engine mends by itself what that has left behind.

Nothing sweeps but what the engine asks for by itself; writers are at work before, meanwhile and afterwards.
"""

import threading
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import replace

import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import UnreachableError
from sync_pipeline.operate.drain import drain
from sync_pipeline.operate.status import status_of
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run import recover
from sync_pipeline.run.capture import open_cursor
from sync_pipeline.run.live import caught_up, mark
from sync_pipeline.stores import servers
from sync_pipeline.stores.stores import Stores
from tests.caught._tables import TABLES
from tests.failover import paired, writing
from tests.installed import SOURCES, made
from tests.newsroom import leave_out_the_sweep
from tests.replica import Replica
from tests.world import wait_for

BY = {"text": "watermark", "audio": "outbox", "video": "sweep"}
SETTINGS = {"SYNC_SWEEP_SECONDS": "1e9", "SYNC_MARGIN_SECONDS": "0.2", "SYNC_RECHECK_SECONDS": "0.2"}
PATIENCE = 90
EDIT = "UPDATE content SET title = %s, updated_at = clock_timestamp(), version = version + 1 WHERE id = %s"
NEW = (
    "INSERT INTO content (kind, title, body, status, created_at, updated_at)"
    " VALUES ('text', %s, 'body', 'published', now(), now()) RETURNING id"
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(recover, "SETTLE_SECONDS", 5.0)
    monkeypatch.setattr(servers, "LOOK_SECONDS", 1.0)


def opened_contexts(world):
    """Texts by their stamps, audios by an outbox, videos by nothing but the sweep; all of them are over."""
    found = []
    for name, source in BY.items():
        context = EntityContext.open(
            replace(world.context(name).entity, capture=SOURCES[source], tables=TABLES), world.stores
        )
        for statement in made(context):
            world.legacy(statement)
        open_cursor(context)
        world.all_in(name)
        found.append(context)
    world.target("UPDATE sync.cursor SET filled_at = now()")
    leave_out_the_sweep(world)
    return found


def settled(world, contexts):
    """Everything that is committed by now has come over, as the engine says itself."""
    since = mark(contexts)
    try:
        wait_for(lambda: all(caught_up(context, since) for context in contexts), PATIENCE)
    except AssertionError as error:
        left = world.target("SELECT entity, reason, key, keys, error, message FROM sync.due LIMIT 5")
        where = world.target("SELECT entity, applied_through, swept_from, sweep_error FROM sync.cursor")
        raise AssertionError(f"not caught up to {since}: {left}, {where}") from error


def reached(world):
    """Whether both servers answer by now: a connection to the one that was killed tells only at its next use."""
    with suppress(UnreachableError):
        world.stores.confirm_servers()
        return True


def header(world, key):
    return world.target("SELECT header FROM catalog.text WHERE id = %s", [key])


def document(world, key):
    """A document by realtime look, or None."""
    try:
        return world.document("GET", f"text/_doc/{key}")
    except OSError:
        return None


@contextmanager
def new_side(fleet, tmp_path, name):
    with paired(fleet, tmp_path, "target", name, **SETTINGS) as (pair, world):
        world.load(150, 10)
        contexts = opened_contexts(world)
        pair.follow()
        yield pair, world, contexts


def lose_commits_of_the_new_side(pair, world, contexts):
    """A row is born, one is deleted and one is changed and changed back, all of which only the cluster remembers."""
    deleted, changed = (world.legacy(NEW, [title])[0][0] for title in ("deleted", "as before"))
    with world.following(contexts):
        with writing(world, seed=31):
            wait_for(lambda: world.target("SELECT 1 FROM sync.batch WHERE cause = 'poll'"))
            pair.cut_off()
        ((born,),) = world.legacy(NEW, ["born"])
        world.legacy("UPDATE content SET status = 'draft', updated_at = clock_timestamp() WHERE id = %s", [deleted])
        world.legacy(EDIT, ("changed", changed))
        wait_for(lambda: document(world, born) and not document(world, deleted))
        wait_for(lambda: (document(world, changed) or {}).get("_source", {}).get("header") == "changed")

    def undo():
        world.legacy("DELETE FROM content WHERE id = %s", [born])
        world.legacy("UPDATE content SET status = 'published' WHERE id = %s", [deleted])
        world.legacy("UPDATE content SET title = 'as before' WHERE id = %s", [changed])

    with writing(world, seed=33):
        pair.fail_over(undo)
    assert header(world, born) == []
    return born


@pytest.mark.hazard(111)
def test_the_new_side_fails_over_to_a_standby_that_lacks_its_last_commits(fleet, tmp_path):
    with new_side(fleet, tmp_path, "new_side_fails_over") as (pair, world, contexts):
        lose_commits_of_the_new_side(pair, world, contexts)
        context = contexts[0]
        wait_for(lambda: reached(world))
        assert any("are being compared" in alert for alert in status_of(world.stores, context.entity)["alerts"])
        with writing(world, seed=32), world.following(contexts):
            verdict = reconcile(context)
            assert verdict.status == "unknown"
            assert "timeline 1 to 2" in str(verdict.findings)
            found = drain(contexts, 0, threading.Event())
            assert found.verdict == "unknown"
        with world.following(contexts):
            settled(world, contexts)
        assert world.differences() == []
        assert status_of(world.stores, context.entity)["alerts"] == []
        assert [reconcile(context).status for context in contexts] == ["clean"] * 3


@pytest.mark.hazard(111)
def test_without_the_recovery_documents_of_lost_rows_stay(fleet, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "111")
    with new_side(fleet, tmp_path, "new_side_is_not_mended") as (pair, world, contexts):
        born = lose_commits_of_the_new_side(pair, world, contexts)
        wait_for(lambda: reached(world))
        with world.following(contexts):
            settled(world, contexts)
        assert ("document", "text", str(born), "extra") in {found[:4] for found in world.differences()}


def changed(world, context):
    """Why the monolith may have lost commits, until a sweep has ended."""
    return status_of(world.stores, context.entity)["server_changed"]


@contextmanager
def monolith(fleet, tmp_path, name):
    with paired(fleet, tmp_path, "legacy", name, **SETTINGS) as (pair, world):
        world.load(150, 10)
        contexts = opened_contexts(world)
        pair.follow()
        yield pair, world, contexts


def lose_commits_of_the_monolith(pair, world, contexts):
    """Rows of each kind are edited, born and deleted, come over, and are lost with the primary."""
    ones = {context.entity.name: one(world, context.entity.name) for context in contexts[:2]}
    ((deleted,),) = world.legacy("SELECT max(id) FROM content WHERE kind = 'text' AND deleted_at IS NULL")
    with world.following(contexts):
        with writing(world, seed=41):
            pair.cut_off()
        for key in ones.values():
            world.legacy(EDIT, ("lost", key))
        world.legacy("UPDATE content SET deleted_at = now(), updated_at = now() WHERE id = %s", [deleted])
        for name, key in ones.items():
            query = f"SELECT header FROM catalog.{name} WHERE id = {key}"
            wait_for(lambda query=query: world.target(query) == [("lost",)])
        wait_for(lambda: header(world, deleted) == [])
    pair.fail_over()
    return ones


def one(world, kind):
    return world.legacy(
        "SELECT min(id) FROM content WHERE kind = %s AND deleted_at IS NULL AND status = 'published'", [kind]
    )[0][0]


@pytest.mark.hazard(110)
def test_the_monolith_fails_over_to_a_standby_that_lacks_its_last_commits(fleet, tmp_path):
    with monolith(fleet, tmp_path, "monolith_fails_over") as (pair, world, contexts):
        lose_commits_of_the_monolith(pair, world, contexts)
        wait_for(lambda: reached(world))
        (alert,) = [a for a in status_of(world.stores, contexts[0].entity)["alerts"] if "may be lost" in a]
        assert "timeline 1 to 2" in alert
        assert drain(contexts, 0, threading.Event()).verdict == "unknown"
        with writing(world, seed=42), world.following(contexts):
            wait_for(
                lambda: not any(status_of(world.stores, context.entity)["server_changed"] for context in contexts),
                PATIENCE,
            )
        with world.following(contexts):
            found = drain(contexts, PATIENCE, threading.Event())
        assert found.verdict == "drained"
        assert world.differences() == []
        assert status_of(world.stores, contexts[0].entity)["alerts"] == []


@pytest.mark.hazard(110)
def test_without_a_sweep_rows_of_lost_commits_stay(fleet, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "110")
    with monolith(fleet, tmp_path, "monolith_is_not_swept") as (pair, world, contexts):
        ones = lose_commits_of_the_monolith(pair, world, contexts)
        wait_for(lambda: reached(world))
        with world.following(contexts):
            since = world.stores.legacy_now()
            wait_for(
                lambda: world.target("SELECT bool_and(applied_through > %s) FROM sync.cursor", [since]) == [(True,)]
            )
        wrong = {found.key for found in world.differences()}
        assert {str(key) for key in ones.values()} <= wrong


@pytest.mark.hazard(115)
@pytest.mark.parametrize("guards", ["", "115"])
def test_a_replica_that_has_replayed_what_the_new_primary_lacks_is_not_read(fleet, tmp_path, monkeypatch, guards):
    """Its position is ahead of the new primary's, so that it seems to show all that is committed there."""
    with paired(fleet, tmp_path, "legacy", "replica_is_left", **SETTINGS) as (pair, world):
        world.load(20, 0)
        world.all_in("text")
        key = one(world, "text")
        replica = Replica(tmp_path, pair.primary)
        replica.start()
        try:
            replica.wait_healthy()
            pair.follow()
            pair.cut_off()
            world.legacy("SELECT pg_logical_emit_message(false, 'much', repeat('x', 32 * 1024 * 1024))")
            world.legacy(EDIT, ("lost", key))
            url = replica.url("replica_is_left", "sync_reader").replace("postgresql://", "postgresql+psycopg2://")
            with closing(Stores(replace(world.stores.settings, legacy_replica_db=url))) as stores:
                wait_for(lambda: title_at(stores.replica, key) == "lost")
                pair.fail_over()
                wait_for(lambda: reached(world))
                context = EntityContext.open(world.context("text").entity, stores)
                monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", guards)
                with nullcontext() if guards else pytest.raises(UnreachableError, match="replica is on timeline 1"):
                    sync_keys(context, context.origin.key.parse([str(key)]), Order())
            assert (header(world, key) == [("lost",)]) is bool(guards)
            assert title_at(world.stores.legacy, key) != "lost"
        finally:
            replica.kill()


def title_at(session, key):
    with session() as cursor:
        cursor.execute("SELECT title FROM content WHERE id = %s", [key])
        return cursor.fetchone()[0]
