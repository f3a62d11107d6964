"""Connections to the new side: what is deferred, what is undone, and what becomes of broken ones."""

import datetime as dt
from contextlib import ExitStack
from decimal import Decimal

import psycopg2
import pyarrow as pa
import pytest

from sync_pipeline.db.sql import copy_in, copy_out, stage
from sync_pipeline.errors import LeaseLostError, UnreachableError
from sync_pipeline.ledger.cursor import Lease
from sync_pipeline.ledger.ledger import migrate
from sync_pipeline.model.positions import SourcePosition
from sync_pipeline.stores import stores as module

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


AWKWARD = pa.table(
    {
        "t": pa.array(["it's", None, "", "back\\slash\n%s ''", "NULL", "ŝ 😀"]),
        "n": pa.array([2**62, None, 0, -1, 9007199254740993, 1]),
        "f": pa.array([1.5, float("nan"), float("inf"), -0.0, None, 1e-300]),
        "d": pa.array([Decimal("1.00"), None, Decimal("-0.10"), *[None] * 3], pa.decimal128(12, 2)),
        "l": pa.array([["a,b", 'q"', "it's"], [], None, [None, "NULL"], ["{}"], ["\\"]]),
        "s": pa.array([{"x": 1, "y": "it's"}, None, *[{"x": None, "y": '"'}] * 4]),
        "b": pa.array([True, None, False, True, True, False]),
        "at": pa.array([dt.datetime(2020, 2, 29, 1, 2, 3, 4, dt.UTC), *[None] * 5], pa.timestamp("us", "UTC")),
        "nothing": pa.nulls(6),
    }
)
COLUMNS = ", ".join(AWKWARD.column_names)


def test_few_rows_are_written_into_the_statement_as_copy_would_bring_them(stores):
    types = (
        "t text, n bigint, f double precision, d numeric, l text[], s jsonb, b boolean, at timestamptz, nothing uuid"
    )
    with stores.target() as cursor:
        cursor.defer(
            f"CREATE TEMP TABLE few ({types}) ON COMMIT DROP; CREATE TEMP TABLE many (LIKE few) ON COMMIT DROP"
        )
        stage(cursor, "few", COLUMNS, AWKWARD)
        copy_in(cursor, "many", COLUMNS, AWKWARD)
        cursor.execute("SELECT few::text FROM few ORDER BY 1")
        few = cursor.fetchall()
        cursor.execute("SELECT many::text FROM many ORDER BY 1")
        assert few == cursor.fetchall()
        assert len(few) == AWKWARD.num_rows


def test_a_zero_byte_is_refused_as_copy_refuses_it(stores):
    with stores.target() as cursor:
        cursor.defer("CREATE TEMP TABLE few (t text) ON COMMIT DROP")
        with pytest.raises(psycopg2.errors.CharacterNotInRepertoire):
            stage(cursor, "few", "t", pa.table({"t": ["a\0b"]}))


def test_whoever_lost_the_lease_moves_nothing(stores):
    migrate(stores)
    with stores.target() as cursor:
        cursor.execute("INSERT INTO sync.cursor (entity) VALUES ('film')")
    lost = Lease.take(stores, "film", "first")
    with stores.target() as cursor:
        cursor.execute("UPDATE sync.cursor SET lease_until = now()")
    held = Lease.take(stores, "film", "second")

    def work_under(lease, at):
        with stores.target() as cursor:
            cursor.execute("INSERT INTO try.t VALUES (%s)", (at,))
            lease.move(cursor, SourcePosition({"at": at}))

    with pytest.raises(LeaseLostError, match="entity film: another worker follows it now"):
        work_under(lost, 1)
    work_under(held, 2)
    assert numbers(stores) == [2]
    with stores.target() as cursor:
        cursor.execute("SELECT state FROM sync.cursor WHERE entity = 'film'")
        assert cursor.fetchone()[0] == {"at": 2}
