"""What refers to a note."""

from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.sinks.table import Reference, RelationalTable
from sync_pipeline.sources.table import Table

entity = Entity(
    name="remark",
    owner="team:tests",
    origin=LegacyQuery("SELECT id, note_id FROM remark", key=("id",)),
    tables=(Table("remark", key=("id",), stamp="updated_at"),),
    adapt=lambda legacy: {column: legacy[column] for column in ("id", "note_id")},
    sinks=(
        RelationalTable(
            "catalog.remark",
            key=("id",),
            columns={"id": "bigint", "note_id": "bigint"},
            references=(Reference("note_id", "note"),),
        ),
    ),
    partitions=KeyRanges(2),
)
