"""Hazard 27, of tables: rebuilt under eight editors, the engine in processes of its own. What do readers see meanwhile?

A follower goes over each swap with the connections and statements it has; so do readers.
"""

import signal
from contextlib import closing

import psycopg2
import pytest

from sync_pipeline.model.faults import TABLE_CRASH_POINTS
from tests.command import Command
from tests.newsroom import WITHOUT_SWEEP, edited, end, follow, leave_out_the_sweep, settle, was_swept
from tests.rebuilt import Reader

CONTENTS, FILES, POISON = 900, 40, 2
LOOKS = 100
# pages so small that editors meet every rebuild
PAGES = {"SYNC_CHUNK_ROWS": "30"}
IN_A_PAGE = ("rows.before:2", "rows.after:2")
OWN = "SET ROLE sync_writer; "
# a type that holds more, and another order of columns, by which nobody may go
WIDER = """
    CREATE TABLE catalog.text_next (LIKE catalog.text INCLUDING ALL);
    ALTER TABLE catalog.text_next DROP reading_seconds, ALTER version TYPE bigint, ALTER body TYPE varchar;
    ALTER TABLE catalog.text_next ADD reading_seconds numeric;
"""
PARTITIONED = """
    CREATE TABLE catalog.video_next (LIKE catalog.video INCLUDING DEFAULTS, PRIMARY KEY (id)) PARTITION BY HASH (id);
    CREATE TABLE catalog.video_0 PARTITION OF catalog.video_next FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE catalog.video_1 PARTITION OF catalog.video_next FOR VALUES WITH (MODULUS 2, REMAINDER 1);
"""


class TableReader(Reader):
    """Reads a whole table by one connection: in a statement of its text, prepared, and by a view."""

    def __init__(self, world, table):
        super().__init__(world)
        self.table, self.tables = table, set()

    def _look_on(self):
        name = f"catalog.{self.table}"
        rows = "SELECT id, version::bigint FROM"
        with closing(psycopg2.connect(self.world.target_url)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute(f"PREPARE every AS {rows} {name} WHERE id > $1")
            while not self._stop.is_set():
                for query in (f"{rows} {name}", "EXECUTE every(0)", f"{rows} {name}_all"):
                    cursor.execute(query)
                    self._take(dict(cursor.fetchall()))
                cursor.execute("SELECT %s::regclass::oid", [name])
                self.tables |= {oid for (oid,) in cursor.fetchall()}


@pytest.fixture(scope="module")
def world(fresh_world):
    fresh_world.load(CONTENTS, FILES, POISON)
    leave_out_the_sweep(fresh_world)
    for name in fresh_world.contexts:
        fresh_world.all_in(name)
        columns = "id, version::bigint"
        fresh_world.target(f"{OWN}CREATE VIEW catalog.{name}_all AS SELECT {columns} FROM catalog.{name}")
    return fresh_world


def rebuild(log, entity, *options, **settings):
    return Command(log, "rebuild", "table", entity, *options, **{**WITHOUT_SWEEP, **PAGES, **settings})


def type_of(world, column):
    query = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'catalog.text'::regclass"
    return world.target(f"{query} AND attname = %s", [column])[0][0]


@pytest.mark.hazard(27)
def test_readers_of_the_table_see_nothing_go_back(world, tmp_path):
    world.target(OWN + WIDER)
    with edited(world, seed=17) as observer, TableReader(world, "text") as reader:
        live = follow(tmp_path / "live")
        made = rebuild(tmp_path / "wider", "text")
        assert made.wait() == 0, made.tail()
        cleared = Command(tmp_path / "cleared", "rebuild", "clear", "text")
        assert cleared.wait() == 0, cleared.tail()
        again = rebuild(tmp_path / "again", "text", "--like")
        assert again.wait() == 0, again.tail()
        end(live)
    assert reader.wrong == []
    assert observer.setbacks == []
    assert len(reader.tables) == 3
    assert reader.looks > LOOKS
    assert (type_of(world, "version"), type_of(world, "reading_seconds")) == ("bigint", "numeric")
    settle(world, tmp_path / "settled")
    assert world.differences() == []
    assert not was_swept(world)


@pytest.mark.hazard(27)
def test_killed_at_every_step_it_goes_on(world, tmp_path):
    world.target(OWN + PARTITIONED)
    with edited(world, seed=18) as observer, TableReader(world, "video") as reader:
        live = follow(tmp_path / "live")
        for point in (TABLE_CRASH_POINTS[0], *IN_A_PAGE, *TABLE_CRASH_POINTS[1:]):
            cut = rebuild(tmp_path / "cut", "video", SYNC_TEST_CRASH_AT=point)
            assert cut.wait() == -signal.SIGKILL, f"{point}: {cut.tail()}"
        made = rebuild(tmp_path / "made", "video")
        assert made.wait() == 0, made.tail()
        end(live)
    assert reader.wrong == []
    assert observer.setbacks == []
    assert len(reader.tables) == 2
    assert world.target("SELECT state, name, former FROM sync.rebuild WHERE entity = 'video'") == [
        ("done", "catalog.video", "catalog.video_former")
    ]
    settle(world, tmp_path / "settled")
    assert world.differences() == []
