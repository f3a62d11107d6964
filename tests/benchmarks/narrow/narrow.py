"""Narrow rows as they are."""

import pandas as pd

from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.table import Table


def adapt(legacy: pd.DataFrame) -> pd.DataFrame:
    """Nothing is changed, so that the engine is what is measured."""
    return legacy


def narrow(name: str) -> Entity:
    """An entity over a narrow table of this name."""
    return Entity(
        name=name,
        owner="team:benchmarks",
        origin=LegacyQuery(f"SELECT id, body FROM {name}", key=("id",)),
        tables=(Table(name, key=("id",), stamp="updated_at"),),
        adapt=adapt,
        sinks=(RelationalTable(f"catalog.{name}", key=("id",), columns={"id": "bigint", "body": "text"}),),
        partitions=KeyRanges(64),
    )


entity = narrow("narrow")
