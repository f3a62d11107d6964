"""The smallest entity with an outbox: notes of a key and a title."""

import pandas as pd

from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.table import Table

NOTE = Entity(
    name="note",
    owner="team:tests",
    origin=LegacyQuery("SELECT id, title FROM note", key=("id",)),
    tables=(Table("note", key=("id",)),),
    capture=Outbox(),
    adapt=lambda legacy: pd.DataFrame({"id": legacy["id"], "title": legacy["title"]}),
    sinks=(RelationalTable("catalog.note", key=("id",), columns={"id": "bigint", "title": "text"}),),
    partitions=KeyRanges(1),
)
MADE = "CREATE TABLE note (id bigint PRIMARY KEY, title text)"
