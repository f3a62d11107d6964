"""An edition: a film's row holds a list of them, none, one or several, which come and go with it."""

import pandas as pd

from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.table import Table
from tests.awkward.entities._tables import capture

LIST = """CASE jsonb_typeof(f."Extra" -> 'editions') WHEN 'array' THEN f."Extra" -> 'editions' ELSE '[]' END"""
QUERY = f"""
    SELECT f."Id" AS film, e ->> 'lang' AS lang, e ->> 'name' AS name, f."Title" AS title, f."State" AS state
    FROM "Old Vault"."Film" f CROSS JOIN LATERAL jsonb_array_elements({LIST}) e
    WHERE f."State" <> 'X'"""


def adapt(legacy: pd.DataFrame) -> pd.DataFrame:
    """As it is, published or not."""
    return legacy.drop(columns="state").assign(is_public=legacy["state"].eq("P"))


entity = Entity(
    name="aw_edition",
    owner="team:awkward",
    origin=LegacyQuery(QUERY, key=("film", "lang"), root=("film",)),
    tables=(Table('"Old Vault"."Film"', key=('"Id"',)),),
    capture=capture(),
    adapt=adapt,
    sinks=(
        RelationalTable(
            "awkward.edition",
            key=("film", "lang"),
            columns={
                "film": "uuid",
                "lang": "text",
                "name": "text",
                "title": "text",
                "is_public": "boolean not null",
            },
        ),
        SearchIndex(
            "aw_edition",
            where="is_public",
            fields={
                "film": {"type": "keyword"},
                "lang": {"type": "keyword"},
                "name": {"type": "keyword"},
                "title": {"type": "keyword"},
            },
        ),
    ),
    partitions=KeyRanges(2),
)
