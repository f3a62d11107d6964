"""A scene of a book or of a disc: it goes in after its work, and out before it."""

import pandas as pd

from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.sinks.table import Reference, RelationalTable
from sync_pipeline.sources.table import Table
from tests.awkward.entities._tables import capture

QUERY = """
    SELECT id, note, coalesce(book, disc) AS work_number,
           CASE WHEN book IS NOT NULL THEN 'book' WHEN disc IS NOT NULL THEN 'disc' END AS work_kind
    FROM scene"""


def adapt(legacy: pd.DataFrame) -> pd.DataFrame:
    """As it is."""
    return legacy


entity = Entity(
    name="aw_scene",
    owner="team:awkward",
    origin=LegacyQuery(QUERY, key=("id",)),
    tables=(Table("scene", key=("id",)),),
    capture=capture(),
    adapt=adapt,
    sinks=(
        RelationalTable(
            "awkward.scene",
            key=("id",),
            columns={"id": "bigint", "note": "text", "work_kind": "text", "work_number": "bigint"},
            references=(Reference(("work_kind", "work_number"), "aw_work"),),
        ),
    ),
    partitions=KeyRanges(1),
)
