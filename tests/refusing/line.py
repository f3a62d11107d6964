"""Parts: a note's lines in several languages."""

from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.table import Table
from tests.refusing._notes import FIELDS

COLUMNS = ("id", "lang", "title", "weight")

entity = Entity(
    name="line",
    owner="team:tests",
    on_refused="compensate",
    origin=LegacyQuery("SELECT note_id AS id, lang, title, weight FROM line", key=("id", "lang"), root=("id",)),
    tables=(Table("line", key=("note_id",), stamp="updated_at"),),
    adapt=lambda legacy: {column: legacy[column] for column in COLUMNS},
    sinks=(
        RelationalTable(
            "catalog.line", key=("id", "lang"), columns={"id": "bigint"} | dict.fromkeys(COLUMNS[1:], "text")
        ),
        SearchIndex("line", fields={name: FIELDS.get(name, {"type": "keyword"}) for name in COLUMNS}),
    ),
    partitions=KeyRanges(2),
)
