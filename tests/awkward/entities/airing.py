"""An airing: a key of three columns, and the only stamp there is, which goes back at times."""

import pandas as pd

from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.sinks.media import MediaBucket
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.table import Table
from tests.awkward.entities._tables import capture

QUERY = """
    SELECT g.channel, g.slot, g.hd, g.title, g.note, g.price, g.watched, a.path AS poster, a.revised
    FROM airing g LEFT JOIN asset a ON a.id = g.poster"""
KEY = ("channel", "slot", "hd")


def adapt(legacy: pd.DataFrame) -> pd.DataFrame:
    """As it is, but for what only the digest needs."""
    return legacy.drop(columns="revised")


entity = Entity(
    name="aw_airing",
    owner="team:awkward",
    origin=LegacyQuery(QUERY, key=KEY),
    tables=(
        Table("airing", key=KEY, stamp="touched", zone="UTC"),
        Table("asset", key=("g.channel", "g.slot", "g.hd"), join="JOIN airing g ON g.poster = asset.id"),
    ),
    capture=capture(),
    adapt=adapt,
    sinks=(
        MediaBucket(columns=("poster",), prefix="airing"),
        RelationalTable(
            "awkward.airing",
            key=KEY,
            columns={
                "channel": "text",
                "slot": "timestamptz",
                "hd": "boolean",
                "title": "uuid",
                "note": "text",
                "price": "numeric(38, 12)",
                "watched": "bigint",
                "poster": "text",
            },
        ),
        SearchIndex(
            "aw_airing",
            fields={
                "channel": {"type": "keyword"},
                "slot": {"type": "date_nanos"},
                "note": {"type": "keyword"},
                "price": {"type": "double"},
                "watched": {"type": "long"},
                "poster": {"type": "keyword"},
            },
        ),
    ),
    partitions=KeyRanges(2),
)
