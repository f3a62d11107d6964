"""The suite that entities inherit passes for an adapter that keeps the contract, and names what another one breaks."""

import datetime as dt
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.errors import DeclarationError
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.sweep_only import SweepOnly
from sync_pipeline.sources.table import Table
from sync_pipeline.testing import EntityContract, LegacyRows

TYPES = {"id": "bigint", "title": "text", "price": "numeric", "tags": "text[]", "at": "timestamp with time zone"}
ROWS = [
    {
        "id": 1,
        "title": "Spring",
        "price": "1.50",
        "tags": ["a", "b", "c"],
        "at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    },
    {"id": 2, "title": "Autumn", "price": None, "tags": [], "at": "infinity"},
    {"id": 3, "title": " Winter", "price": "2", "tags": ["b", "a"], "at": None},
]


def adapt(legacy):
    return {
        "id": legacy["id"],
        "header": legacy["title"].str.strip(),
        "price": legacy["price"],
        "tags": legacy["tags"],
        "at": legacy["at"],
    }


songs = Entity(
    name="song",
    owner="team:tests",
    origin=LegacyQuery("SELECT id, title, price, tags, at FROM songs", key=("id",)),
    tables=(Table("songs", key=("id",)),),
    adapt=adapt,
    sinks=(
        RelationalTable(
            "catalog.song",
            key=("id",),
            columns={"id": "bigint", "header": "text", "price": "numeric", "tags": "text[]", "at": "timestamptz"},
        ),
        SearchIndex("song", {"header": {"type": "text"}, "tags": {"type": "keyword"}}),
    ),
    partitions=KeyRanges(1),
    capture=SweepOnly(),
)


class TestSong(EntityContract):
    """Keeps it."""

    entity = songs
    legacy = LegacyRows(TYPES, ROWS)


class TestSongWithoutNulls(EntityContract):
    """An adapter that takes no NULL where the monolith holds none."""

    def adapt(legacy):  # noqa: N805  # a function of the class's body, not a method
        if legacy["title"].isna().any():
            raise ValueError("a song without a title")
        return adapt(legacy)

    entity = replace(songs, adapt=adapt)
    legacy = LegacyRows(TYPES, ROWS)
    not_null = frozenset({"title"})
    refused = ({**ROWS[0], "id": 9, "title": None},)


def column(name, make):
    """An adapter whose column is made otherwise."""
    return lambda legacy: {**adapt(legacy), name: make(legacy)}


def changed(legacy):
    legacy["title"] = legacy["title"].str.upper()
    return adapt(legacy)


def fails_on_null(legacy):
    return {**adapt(legacy), "header": pd.Series([title.strip() for title in legacy["title"]], legacy.index)}


FAULTS = {
    "a clock": (
        column("header", lambda legacy: legacy["title"] + dt.datetime.now(dt.UTC).isoformat()),
        "test_a_row_comes_out_alike_each_time",
        "'header' is",
    ),
    "a random number": (
        column("header", lambda legacy: legacy["title"] + str(random.random())),
        "test_a_row_comes_out_alike_each_time",
        "is another one the second time",
    ),
    "the largest of the batch": (
        column("header", lambda legacy: legacy["title"] + str(legacy["id"].max())),
        "test_a_row_does_not_depend_on_its_neighbours",
        "is another one alone",
    ),
    "the row before": (
        column("header", lambda legacy: legacy["title"].shift(1).fillna(legacy["title"])),
        "test_a_row_does_not_depend_on_its_neighbours",
        "is another one alone",
    ),
    "a place in the batch": (
        column("price", lambda legacy: pd.Series(range(len(legacy)), legacy.index)),
        "test_a_row_does_not_depend_on_its_neighbours",
        "'price' is",
    ),
    "a column that is not there": (
        lambda legacy: {name: made for name, made in adapt(legacy).items() if name != "tags"},
        "test_every_declared_column_is_there",
        "'tags'",
    ),
    "no column of an empty frame": (
        lambda legacy: adapt(legacy) if len(legacy) else {"id": legacy["id"]},
        "test_no_rows_give_no_rows_and_every_declared_column",
        "'header'",
    ),
    "an empty frame": (
        column("header", lambda legacy: legacy["title"] + legacy["title"].iloc[0]),
        "test_no_rows_give_no_rows_and_every_declared_column",
        "adapt fails on an empty frame",
    ),
    "another key": (column("id", lambda legacy: legacy["id"] + 1), "test_the_key_is_kept", ""),
    "a changed frame": (changed, "test_the_given_frame_is_left_as_it_is", "changes the column 'title'"),
    "a NULL": (fails_on_null, "test_a_null_is_taken", "a NULL in 'title'"),
    "a value that does not fit": (
        column("price", lambda legacy: pd.Series([object()] * len(legacy), legacy.index)),
        "test_rows_are_taken",
        "refuses row 1",
    ),
    "a bad row that is taken": (
        column("header", lambda legacy: legacy["title"].fillna("")),
        "test_a_bad_row_is_refused_alone",
        "row 9 is taken",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_contract_is_named(fault):
    make, test, message = FAULTS[fault]
    suite = type(
        "Broken",
        (TestSong,),
        {"refused": ({**ROWS[0], "id": 9, "title": None},)} | {"entity": replace(songs, adapt=make)},
    )()
    with pytest.raises((AssertionError, DeclarationError)) as broken:
        getattr(suite, test)()
    assert message in str(broken.value)


PACKAGE = """
import pandas as pd
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.sweep_only import SweepOnly
from sync_pipeline.sources.table import Table

entity = Entity(
    name="song",
    owner="team:tests",
    origin=LegacyQuery("SELECT id, tags FROM songs", key=("id",)),
    tables=(Table("songs", key=("id",)),),
    adapt=lambda legacy: {{"id": legacy["id"], "tags": pd.Series([{made} for tags in legacy["tags"]], legacy.index)}},
    sinks=(RelationalTable("catalog.song", key=("id",), columns={{"id": "bigint", "tags": "text"}}),),
    partitions=KeyRanges(1),
    capture=SweepOnly(),
)
"""
TESTS = """
from elsewhere.song import entity
from sync_pipeline.testing import EntityContract, LegacyRows

NAMES = ["amber", "blue", "coral", "denim", "ebony"]


class TestSong(EntityContract):
    entity = entity
    legacy = LegacyRows({"id": "bigint", "tags": "text[]"}, [{"id": n, "tags": NAMES} for n in range(1, 9)])
"""


@pytest.mark.parametrize(
    ("made", "failed"),
    [
        ('" ".join(tags) if isinstance(tags, list) or hasattr(tags, "__len__") else ""', []),
        # the order of a set of texts is one process's own
        ('" ".join(set(tags)) if hasattr(tags, "__len__") else ""', ["test_a_row_comes_out_alike_each_time"]),
    ],
    ids=["keeps it", "a set"],
)
def test_a_package_outside_the_repository_inherits_it(tmp_path, made, failed):
    package = tmp_path / "elsewhere"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "song.py").write_text(PACKAGE.format(made=made))
    (tmp_path / "test_song.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    named = [line.split("::")[-1].split(" ")[0] for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert named == failed, done.stdout
    assert done.returncode == bool(failed), done.stdout
    assert Path(package / "song.py").exists()
