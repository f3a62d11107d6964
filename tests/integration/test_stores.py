"""Connections to the new side: what is deferred, what is undone, and what becomes of broken ones."""

from contextlib import ExitStack

import psycopg2
import pyarrow as pa
import pytest

from sync_pipeline import stores as module
from sync_pipeline.errors import UnreachableError
from sync_pipeline.sql import copy_in, copy_out

NUMBERS = pa.table({"n": pa.array([1, 2], pa.int64())})


@pytest.fixture
def stores(fresh_world):
    fresh_world.target("CREATE SCHEMA IF NOT EXISTS try; GRANT ALL ON SCHEMA try TO sync_writer")
    with fresh_world.stores.target() as cursor:
        cursor.execute("DROP TABLE IF EXISTS try.t; CREATE TABLE try.t (n bigint PRIMARY KEY)")
    return fresh_world.stores


def numbers(stores):
    with stores.target_at_once() as cursor:
        return copy_out(cursor, "SELECT n FROM try.t ORDER BY n", NUMBERS.schema).column("n").to_pylist()


def test_what_is_deferred_goes_before_what_comes_next(stores):
    with stores.target() as cursor:
        cursor.defer("CREATE TEMP TABLE half (n bigint) ON COMMIT DROP")
        copy_in(cursor, "half", "n", NUMBERS)
        cursor.defer("INSERT INTO try.t SELECT n * %s FROM half", (10,))
        assert copy_out(cursor, "SELECT n FROM try.t ORDER BY n", NUMBERS.schema).column("n").to_pylist() == [10, 20]
        cursor.defer("DELETE FROM try.t WHERE n = 20")  # goes with the commit
    assert numbers(stores) == [10]


def test_a_deferred_fault_undoes_all(stores):
    def twice(*then):
        with stores.target() as cursor:
            cursor.execute("INSERT INTO try.t VALUES (1)")
            cursor.defer("INSERT INTO try.t VALUES (1)")
            for statement in then:
                cursor.execute(statement)

    for then in (["SELECT 1"], []):
        with pytest.raises(psycopg2.errors.UniqueViolation):
            twice(*then)
    assert numbers(stores) == []


def test_an_error_of_the_callers_own_undoes_all(stores):
    def stumble():
        with stores.target() as cursor:
            cursor.execute("INSERT INTO try.t VALUES (1)")
            cursor.defer("INSERT INTO try.t VALUES (2)")
            raise KeyError

    with pytest.raises(KeyError):
        stumble()
    assert numbers(stores) == []


def _broken(world, stores, count):
    """As many connections in the pool, all of them cut by the server."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(stores.target_at_once()).execute("SELECT 1")
    world.target("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'sync_writer'")


def test_a_connection_that_rested_is_looked_at_first(fresh_world, stores, monkeypatch):
    _broken(fresh_world, stores, 3)
    monkeypatch.setattr(module, "_REST_SECONDS", 0)
    assert numbers(stores) == []


def test_a_connection_that_breaks_in_use_takes_its_neighbours_along(fresh_world, stores, monkeypatch):
    monkeypatch.setattr(module, "_REST_SECONDS", 60)
    _broken(fresh_world, stores, 3)
    with pytest.raises(UnreachableError, match="SYNC_TARGET_DB"):
        numbers(stores)
    assert numbers(stores) == []
