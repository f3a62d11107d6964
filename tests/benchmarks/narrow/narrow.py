"""Narrow rows as they are."""

import pandas as pd

from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.sinks.relational import RelationalTable
from sync_pipeline.sources.table import Table


def adapt(legacy: pd.DataFrame) -> pd.DataFrame:
    """Nothing is changed, so that the engine is what is measured."""
    return legacy


entity = Entity(
    name="narrow",
    owner="team:benchmarks",
    origin=LegacyQuery("SELECT id, body FROM narrow", key=("id",)),
    tables=(Table("narrow", key=("id",), stamp="updated_at"),),
    adapt=adapt,
    sinks=(RelationalTable("catalog.narrow", key=("id",), columns={"id": "bigint", "body": "text"}),),
    partitions=KeyRanges(64),
)
