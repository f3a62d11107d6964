"""A label: text keys of every kind; four logos for all of them."""

import pandas as pd

from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.sinks.media import MediaBucket
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.table import Table
from tests.awkward.entities._tables import capture

QUERY = """
    SELECT l.code, l.name, l.story, l.founded, c.name AS country, l.state = 'P' AS is_public, a.path AS logo, a.revised
    FROM label l LEFT JOIN country c ON c.code = l.country LEFT JOIN asset a ON a.id = l.logo
    WHERE l.state <> 'X'"""


def adapt(legacy: pd.DataFrame) -> pd.DataFrame:
    """As it is, but for what only the digest needs."""
    return legacy.drop(columns="revised")


entity = Entity(
    name="aw_label",
    owner="team:awkward",
    origin=LegacyQuery(QUERY, key=("code",)),
    tables=(
        Table("label", key=("code",)),
        Table("country", key=("label.code",), join="JOIN label ON label.country = country.code"),
        Table("asset", key=("label.code",), join="JOIN label ON label.logo = asset.id"),
    ),
    capture=capture(),
    adapt=adapt,
    sinks=(
        MediaBucket(columns=("logo",), prefix="label"),
        RelationalTable(
            "awkward.label",
            key=("code",),
            columns={
                "code": "text",
                "name": "text",
                "story": "text",
                "founded": "bigint",
                "country": "text",
                "is_public": "boolean not null",
                "logo": "text",
            },
        ),
        SearchIndex(
            "aw_label",
            where="is_public",
            fields={
                "code": {"type": "keyword"},
                "name": {"type": "keyword"},
                "story": {"type": "text"},
                "founded": {"type": "long"},
                "country": {"type": "keyword"},
                "logo": {"type": "keyword"},
            },
        ),
    ),
    partitions=KeyRanges(3),
)
