"""`sync ENTITY --where`: rows that a condition names are applied again, and no others."""

import pytest

from tests.entity_files import entity_file, use_package

LEGACY = """
    CREATE TABLE tracks (id bigint PRIMARY KEY, "Year" int, title text);
    INSERT INTO tracks SELECT n, 1990 + n %% 10, 'track ' || n FROM generate_series(1, 40) n;
    CREATE TABLE lines (track_id bigint, place int, words text, PRIMARY KEY (track_id, place));
    INSERT INTO lines SELECT t, n, 'line ' || n FROM generate_series(1, 20) t, generate_series(1, 3) n;
    GRANT SELECT ON tracks, lines TO sync_reader;
"""
TABLES = "(Table('tracks', key=('id',)),)"
COLUMNS = {"id": "bigint", "Year": "int", "title": "text"}


@pytest.fixture(scope="module")
def tracks(world):
    world.legacy(LEGACY)
    return world


@pytest.fixture
def filled(tracks, command, monkeypatch, tmp_path):
    monkeypatch.setenv("SYNC_CHUNK_ROWS", "3")
    tables = "(Table('lines', key=('track_id',)),)"
    line = entity_file(
        "line",
        "SELECT track_id, place, words FROM lines",
        tables,
        {"track_id": "bigint", "place": "int", "words": "text"},
        key="('track_id', 'place')",
        capture="SweepOnly()",
    ).replace("key=('track_id', 'place')),", "key=('track_id', 'place'), root=('track_id',)),")
    use_package(
        monkeypatch,
        tmp_path,
        track=entity_file("track", 'SELECT id, "Year", title FROM tracks', TABLES, COLUMNS, capture="SweepOnly()"),
        line=line,
    )
    code, _, said = command("backfill", "--all")
    assert (code, said) == (0, "")
    return tracks


def changed(world, table="track", column="title"):
    return world.target(f"SELECT count(*) FROM catalog.{table} WHERE {column} LIKE 'new%%'")[0][0]


@pytest.mark.parametrize("condition", ['"Year" = 1993', 'q."Year" = 1993 -- of that year', "id % 10 = 3 AND id < 50"])
def test_rows_of_a_condition_are_applied(filled, command, condition):
    filled.legacy("UPDATE tracks SET title = 'old'")
    assert command("sync", "track", "--where", "true")[0] == 0
    filled.legacy("UPDATE tracks SET title = 'new ' || id")
    code, _, said = command("sync", "track", "--where", condition)
    assert (code, said) == (0, "")
    assert changed(filled) == 4
    assert command("sync", "track", "--where", "true")[0] == 0
    assert changed(filled) == 40
    assert command("reconcile", "track")[0] == 0


def test_a_condition_on_one_part_applies_its_whole_root(filled, command):
    filled.legacy("UPDATE lines SET words = 'new'; DELETE FROM lines WHERE track_id = 5 AND place = 1")
    assert command("sync", "line", "--where", "place = 2 AND track_id = 5")[0] == 0
    assert filled.target("SELECT place, words FROM catalog.line WHERE track_id = 5 ORDER BY 1") == [
        (2, "new"),
        (3, "new"),
    ]
    assert changed(filled, "line", "words") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["track", "--where", "yaer = 1"], "--where 'yaer = 1': column \"yaer\" does not exist"),
        (["track", "--where", "id ="], "--where 'id =': syntax error"),
        (["track", "--where", ""], "--where ''"),
        (["--all", "--where", "true"], "--where goes with one entity"),
        (["track", "--where", "true", "--key", "1"], "exclude each other"),
    ],
)
def test_a_condition_that_does_not_run_is_named(filled, command, words, said):
    code, _, errors = command("sync", *words)
    assert code == 2
    assert said in errors
