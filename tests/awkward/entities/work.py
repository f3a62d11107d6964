"""A work: a book or a disc, which are numbered each for itself; both tables draw a number when a row changes."""

import pandas as pd

from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.table import Literal, Table
from tests.awkward.entities._tables import capture

QUERY = """
    SELECT 'book' AS kind, no AS number, name FROM book
    UNION ALL SELECT 'disc', "No", "Name" FROM "Old Vault"."Disc\""""


def adapt(legacy: pd.DataFrame) -> pd.DataFrame:
    """As it is."""
    return legacy


entity = Entity(
    name="aw_work",
    owner="team:awkward",
    origin=LegacyQuery(QUERY, key=("kind", "number")),
    tables=(
        Table("book", key=(Literal("book"), "no"), stamp="changed"),
        Table('"Old Vault"."Disc"', key=(Literal("disc"), '"No"'), stamp='"Changed"'),
    ),
    capture=capture(),
    adapt=adapt,
    sinks=(
        RelationalTable(
            "awkward.work", key=("kind", "number"), columns={"kind": "text", "number": "bigint", "name": "text"}
        ),
        SearchIndex(
            "aw_work", fields={"kind": {"type": "keyword"}, "number": {"type": "long"}, "name": {"type": "keyword"}}
        ),
    ),
    partitions=KeyRanges(2),
)
