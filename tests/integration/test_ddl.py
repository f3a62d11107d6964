"""DDL in the monolith gives way to its writers: it waits briefly, tries again, and names who is in its way."""

import threading
from contextlib import closing, contextmanager

import psycopg2
import pytest

from sync_pipeline.errors import SettingError, UnreachableError
from sync_pipeline.sources import ddl
from sync_pipeline.sources.ddl import Step, apply_steps, printed
from tests.world import wait_for

FULL = "ALTER TABLE public.held REPLICA IDENTITY FULL"
_try = ddl._try
WAITS = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'held'::regclass"
IDENTITY = "SELECT relreplident FROM pg_class WHERE oid = 'held'::regclass"


@pytest.fixture(scope="module")
def world(fresh_world):
    return fresh_world


@pytest.fixture(autouse=True)
def held(world):
    world.legacy("CREATE TABLE held (id int PRIMARY KEY); CREATE TABLE free (id int PRIMARY KEY)")
    yield
    world.legacy("DROP TABLE held, free")


@contextmanager
def holding(world, application="a clerk's tool"):
    """A session that has read the table and keeps its transaction open; gives its connection."""
    with closing(psycopg2.connect(world.monolith.admin_url, application_name=application)) as connection:
        connection.cursor().execute("SELECT FROM held")
        yield connection


def test_a_table_that_stays_locked_is_named_with_its_holder_and_what_is_done(world, monkeypatch):
    monkeypatch.setattr(ddl, "TRIES", 2)
    steps = [Step("public.free", ("ALTER TABLE public.free REPLICA IDENTITY FULL",)), Step("public.held", (FULL,))]
    lines = []
    with holding(world) as holder:
        with pytest.raises(UnreachableError) as raised:
            apply_steps(world.monolith.admin_url, steps, lines.append)
        pid = holder.info.backend_pid
    for word in ("public.held", f"pid {pid}", "a clerk's tool", "1 of 2 steps"):
        assert word in str(raised.value)
    assert lines[0] == "public.free: done (1 of 2)"
    assert "try 2 of 2" in lines[-1]
    assert world.legacy(IDENTITY) == [("d",)]


@pytest.mark.hazard(61)
def test_a_writer_passes_while_the_statement_waits_for_its_turn(world):
    """Without a lock timeout the writer would queue behind ALTER TABLE until the holder ends."""
    lines = []
    with holding(world) as holder:
        apply = threading.Thread(
            target=apply_steps, args=(world.monolith.admin_url, [Step("public.held", (FULL,))], lines.append)
        )
        apply.start()
        wait_for(lambda: world.legacy(WAITS))
        world.legacy("SET LOCAL lock_timeout = '1s'; INSERT INTO held VALUES (1)")
        wait_for(lambda: lines)
        assert world.legacy(IDENTITY) == [("d",)]
        holder.rollback()
        apply.join(30)
    assert world.legacy(IDENTITY) == [("f",)]


def test_a_statement_that_is_refused_leaves_its_table_as_it_was(world):
    steps = [Step("public.free", (FULL, "SELECT 1 / 0")), Step("public.held", (FULL,))]
    with pytest.raises(SettingError, match="division by zero; nothing was changed"):
        apply_steps(world.monolith.admin_url, steps, lambda _: None)
    assert world.legacy(IDENTITY) == [("d",)]


def test_the_printed_script_does_the_same(world):
    lines = printed([Step("public.held", (FULL,)), Step("public.free", ("SELECT 1",))])
    assert lines.count("BEGIN;") == lines.count("COMMIT;") == lines.count("SET LOCAL lock_timeout = '300ms';") == 2
    world.legacy("\n".join(lines))
    assert world.legacy(IDENTITY) == [("f",)]


def test_autovacuum_gives_its_table_up(world, monkeypatch):
    """It only yields to a session that waits for a second, longer than our statements do."""
    asked = []
    monkeypatch.setattr(ddl, "_holder", lambda *_: ddl._Holder("autovacuum", "autovacuum worker"))
    monkeypatch.setattr(
        ddl, "_try", lambda cursor, step, yields: asked.append(yields) or _try(cursor, step, yields=yields)
    )
    with holding(world) as holder:
        apply = threading.Thread(
            target=apply_steps, args=(world.monolith.admin_url, [Step("public.held", (FULL,))], lambda _: None)
        )
        apply.start()
        wait_for(lambda: len(asked) > 1)
        holder.rollback()
        apply.join(30)
    assert asked[:2] == [False, True]
    assert world.legacy(IDENTITY) == [("f",)]
