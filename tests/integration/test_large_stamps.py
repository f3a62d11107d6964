"""A bulk update puts one stamp on much of a table: its rows are read in the order of keys, each once, and none is lost.

Scaled down: queries of 100 rows at most, so that a stamp of some hundreds is a large one.
"""

from dataclasses import replace
from itertools import islice

import pytest
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from sync_pipeline.db.keys import Key
from sync_pipeline.sources import stamped_rows
from sync_pipeline.sources.source import Subject
from sync_pipeline.sources.spans import Span
from sync_pipeline.sources.stamped_rows import STAMP, pages
from sync_pipeline.sources.stamps import stamps_of
from sync_pipeline.sources.table import Table
from sync_pipeline.sources.window import BEGINNING, Mark
from tests.world import opened

ROWS, PAGE, FETCHED = 3_000, 10, 100
MONOLITH = """
    CREATE TABLE film (id bigint PRIMARY KEY, code text COLLATE "C" NOT NULL UNIQUE, other text UNIQUE,
        at timestamptz NOT NULL DEFAULT now(), local timestamp, number bigint);
    CREATE INDEX ON film (at); CREATE INDEX ON film (local); CREATE INDEX ON film (number);
    CREATE SEQUENCE numbers; ALTER SEQUENCE numbers OWNED BY film.number;
    CREATE TABLE tag (id bigint PRIMARY KEY, film_id bigint NOT NULL, at timestamptz NOT NULL DEFAULT now());
    CREATE INDEX ON tag (at); CREATE INDEX ON tag (film_id);
    GRANT SELECT ON film, tag TO sync_reader; GRANT SELECT ON SEQUENCE numbers TO sync_reader;
    INSERT INTO film SELECT n, 'c' || n, 'o' || n, now() - n * interval '1 second',
        now() - n * interval '1 second', nextval('numbers') FROM generate_series(1, 3000) n;
    INSERT INTO tag SELECT n, 1 + n / 4, now() - n * interval '1 second' FROM generate_series(0, 2999) n;
"""
ALL = Mark(BEGINNING.at)
BY_ID, BY_CODE = Key(("id",), ("bigint",)), Key(("code",), ("text",))
FILM = Table("film", key=("id",), stamp="at")
# a stamp on every second row from 500 on: 1,250 of 3,000
BULK = "UPDATE film SET {} WHERE id %% 2 = 0 AND id > 500"
READ = "SELECT coalesce(sum(idx_tup_fetch), 0) + coalesce(sum(seq_tup_read), 0) FROM pg_stat_user_tables"


@pytest.fixture(scope="module")
def servers(fleet):
    with opened(fleet, "large_stamps") as world:
        yield world


@pytest.fixture
def world(servers, monkeypatch):
    monkeypatch.setattr(stamped_rows, "_FETCH_ROWS", FETCHED)
    servers.legacy(f"DROP TABLE IF EXISTS film, tag; {MONOLITH}; ANALYZE film, tag")
    return servers


@pytest.fixture
def by_key(monkeypatch):
    """The last keys of the queries that went by key."""
    asked, fetch = [], stamped_rows._Reader._fetch_below
    monkeypatch.setattr(stamped_rows._Reader, "_fetch_below", lambda own, last: asked.append(last) or fetch(own, last))
    return asked


def reader(world, table, key=BY_ID):
    subject = Subject("film", key, (table,), world.stores)
    with world.stores.legacy() as cursor:
        (stamp,) = stamps_of(cursor, table)
    return subject, stamp


def read(world, table, key=BY_ID, span=None, most=None):
    """Pages of a span, of all stamps where none is given."""
    subject, stamp = reader(world, table, key)
    return list(islice(pages(subject, stamp, span or Span(stamp.name, ALL), PAGE), most))


def keys_of(found):
    return [key for page in found for key in page.table.column(0).to_pylist()]


def stamps_in(found):
    return [stamp for page in found for stamp in page.table.column(STAMP).to_pylist()]


SHAPES = {
    "timestamp": (FILM, BY_ID, "at = now()"),
    "zoned": (Table("film", key=("id",), stamp="local", zone="UTC"), BY_ID, "local = now() AT TIME ZONE 'UTC'"),
    "number": (
        Table("film", key=("id",), stamp="number"),
        BY_ID,
        "number = (SELECT last_value FROM numbers)",
    ),
    "text": (Table("film", key=("code",), stamp="at"), BY_CODE, "at = now()"),
}


@pytest.mark.hazard(87)
@pytest.mark.parametrize("shape", SHAPES)
def test_each_row_comes_once_and_the_newest_stamp_first(world, by_key, shape):
    table, key, change = SHAPES[shape]
    world.legacy(BULK.format(change))
    world.legacy("UPDATE film SET at = clock_timestamp(), local = clock_timestamp() AT TIME ZONE 'UTC' WHERE id = 7")
    found = read(world, table, key)
    assert by_key
    assert len(keys_of(found)) == ROWS
    assert len(set(keys_of(found))) == ROWS
    texts = stamps_in(found)
    in_order = sorted(texts, key=int if shape == "number" else None, reverse=True)
    assert texts == in_order
    assert all(page.table.num_rows <= PAGE for page in found)


@pytest.mark.hazard(87)
def test_what_is_read_does_not_grow_with_the_square_of_a_stamp(world, by_key):
    world.legacy("UPDATE film SET at = now()")
    world.legacy("VACUUM ANALYZE film")
    read_before = counted(world)
    assert len(keys_of(read(world, FILM))) == ROWS
    assert by_key
    # in the order of stamps it is ROWS² / 2 FETCHED, which is 15 times ROWS
    assert counted(world) - read_before <= 4 * ROWS


def counted(world):
    world.legacy("SELECT pg_stat_force_next_flush()")
    with world.stores.legacy() as cursor:  # flushed at the end of the session's next transaction
        cursor.execute("SELECT pg_stat_force_next_flush()")
    world.legacy("SELECT pg_stat_clear_snapshot()")
    return int(world.legacy(READ)[0][0])


@pytest.mark.hazard(87)
@pytest.mark.parametrize("stop", [1, 20, 60, 110, 150])
def test_another_process_goes_on_from_any_page(world, stop):
    world.legacy(BULK.format("at = now()"))
    subject, stamp = reader(world, FILM)
    first = list(islice(pages(subject, stamp, Span(stamp.name, ALL), PAGE), stop))
    kept = replace(Span(stamp.name, ALL), position=first[-1].position).as_state()
    rest = read(world, FILM, span=Span.from_state(kept))
    keys = keys_of(first) + keys_of(rest)
    assert len(keys) == ROWS
    assert len(set(keys)) == ROWS


@pytest.mark.hazard(87)
def test_pages_without_a_row_of_the_stamp_end_turns_too(world):
    """Where the stamp's rows lie at both ends of a large table, what is between them is read in short steps."""
    world.legacy("UPDATE film SET at = now() WHERE id <= 400 OR id > 2300")
    found = read(world, FILM)
    empty = [page for page in found if not page.table.num_rows]
    assert len(keys_of(found)) == ROWS
    assert len(empty) >= 1_900 // FETCHED - 1
    assert all(page.position for page in empty)


@pytest.mark.hazard(87)
@pytest.mark.parametrize("tags", [4, 99, 150])
def test_all_rows_of_a_root_are_read_where_several_have_its_key(world, by_key, tags):
    """Of children whose stamps differ: a query may end among the rows of one root."""
    world.legacy("UPDATE tag SET film_id = 1 + id / %s", [tags])
    world.legacy("UPDATE tag SET at = now() WHERE id %% %s = 0 OR id %% 3 = 1", [tags])
    world.legacy("VACUUM ANALYZE tag")
    table = Table("tag", key=("film_id",), stamp="at")
    (newest,) = {str(at) for (at,) in world.legacy("SELECT max(at)::text FROM tag")}
    found = read(world, table)
    wanted = {key for (key,) in world.legacy("SELECT DISTINCT film_id FROM tag WHERE at = %s::timestamptz", [newest])}
    assert by_key
    assert {k for k, at in zip(keys_of(found), stamps_in(found), strict=True) if at == newest} == wanted
    assert set(keys_of(found)) == {key for (key,) in world.legacy("SELECT DISTINCT film_id FROM tag")}


@pytest.mark.hazard(87)
def test_rows_stay_in_the_order_of_stamps_where_no_index_gives_the_order_of_keys(world, by_key):
    world.legacy("UPDATE film SET at = now()")
    found = read(world, Table("film", key=("other",), stamp="at"), Key(("other",), ("text",)))
    assert not by_key
    assert len(set(keys_of(found))) == ROWS


@pytest.mark.hazard(87)
def test_a_small_stamp_is_read_by_its_index(world, by_key):
    world.legacy("UPDATE film SET at = now() WHERE id <= 300")
    assert len(set(keys_of(read(world, FILM)))) == ROWS
    assert not by_key


@pytest.mark.hazard(87)
def test_what_is_edited_meanwhile_is_not_lost(world):
    """A row that gets a newer stamp belongs to the next poll; the others of its stamp are all found."""
    world.legacy(BULK.format("at = now()"))
    ((began,),) = world.legacy("SELECT max(at) FROM film")
    subject, stamp = reader(world, FILM)
    found = []
    for n, page in enumerate(pages(subject, stamp, Span(stamp.name, ALL), PAGE)):
        found.append(page)
        if n % 10 == 0:
            world.legacy("UPDATE film SET at = clock_timestamp() WHERE id IN (%s, %s)", [2 * n + 502, ROWS - n])
    late = {key for (key,) in world.legacy("SELECT id FROM film WHERE at > %s", [began])}
    assert set(keys_of(found)) | late == set(range(1, ROWS + 1))


def test_a_statement_of_its_own_never_reads_more_than_a_query_may(world, monkeypatch):
    sizes, copy = [], stamped_rows.copy_out

    def measured(*arguments):
        sizes.append(copy(*arguments).num_rows)
        return copy(*arguments)

    monkeypatch.setattr(stamped_rows, "copy_out", measured)
    world.legacy(BULK.format("at = now()"))
    read(world, FILM)
    assert max(sizes) <= FETCHED


def test_a_session_that_explains_leaves_no_setting_behind(world):
    world.legacy(BULK.format("at = now()"))
    read(world, FILM)
    with world.stores.legacy() as cursor:
        for setting in ("enable_sort", "enable_seqscan"):
            cursor.execute(f"SHOW {setting}")
            assert cursor.fetchone() == ("on",)
        assert cursor.connection.info.transaction_status == TRANSACTION_STATUS_IDLE
