"""Entities that refer to each other: series and their episodes, and folders in folders."""

import pandas as pd

from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.table import Reference, RelationalTable
from sync_pipeline.sources.table import Table

MONOLITH = """
    CREATE TABLE series (id bigint PRIMARY KEY, title text, pilot_id bigint,
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE TABLE episode (id bigint PRIMARY KEY, title text, series_id bigint,
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE TABLE folder (id bigint PRIMARY KEY, title text, parent_id bigint,
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE INDEX ON series (updated_at); CREATE INDEX ON episode (updated_at); CREATE INDEX ON folder (updated_at);
    GRANT SELECT ON series, episode, folder TO sync_reader;
"""
FOREIGN_KEYS = """
    ALTER TABLE catalog.episode ADD FOREIGN KEY (series_id) REFERENCES catalog.series;
    ALTER TABLE catalog.folder ADD FOREIGN KEY (parent_id) REFERENCES catalog.folder;
"""


def _entity(name, column, parent=None):
    columns = ("id", "title", column)
    return Entity(
        name=name,
        owner="team:tests",
        origin=LegacyQuery(f"SELECT id, title, {column} FROM {name}", key=("id",)),
        tables=(Table(name, key=("id",), stamp="updated_at"),),
        adapt=lambda legacy: pd.DataFrame({column: legacy[column] for column in columns}),
        sinks=(
            RelationalTable(
                f"catalog.{name}",
                key=("id",),
                columns={"id": "bigint", "title": "text", column: "bigint"},
                references=(Reference(column, parent),) if parent else (),
            ),
            SearchIndex(name, fields={"id": {"type": "long"}, "title": {"type": "keyword"}}),
        ),
        partitions=KeyRanges(2),
    )


SERIES = _entity("series", "pilot_id")
EPISODE = _entity("episode", "series_id", "series")
FOLDER = _entity("folder", "parent_id", "folder")
# a circle: a series has a pilot, which is an episode
PILOTED = _entity("series", "pilot_id", "episode")
