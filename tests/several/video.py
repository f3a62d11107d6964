"""The demo's films, with more sinks: TEST_RECEIVER_URL is where objects are sent."""

import dataclasses

import pandas as pd

from assets.entities.video import adapt as plain
from assets.entities.video import entity as declared
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.sinks.http import HttpEndpoint
from sync_pipeline.sinks.media import MediaBucket
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.table import RelationalTable


def adapt(legacy: pd.DataFrame) -> dict[str, pd.Series]:
    """Posters are covers of another size, say: copies of the same files under a prefix of their own."""
    return {**plain(legacy), "poster": legacy["cover"], "suggest": legacy["title"]}


POSTERS = MediaBucket(columns=("poster",), prefix="posters", label="posters")
TITLES = RelationalTable(
    "catalog.video_titles",
    key=("id",),
    columns={"id": "bigint", "header": "text", "poster": "text[] not null", "version": "integer"},
    label="titles",
)
SUGGEST = SearchIndex("video-suggest", where="is_public", fields={"suggest": {"type": "keyword"}}, label="suggest")
_ITEM = "$TEST_RECEIVER_URL/items/{key}"
ITEMS = HttpEndpoint(_ITEM, ("header", "version"), read_url=_ITEM, where="is_public")

entity = dataclasses.replace(
    declared, adapt=adapt, sinks=(*declared.sinks, POSTERS, TITLES, SUGGEST, ITEMS), partitions=KeyRanges(3)
)
