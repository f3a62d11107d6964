"""Notes, their twins, what refers to them, and notes in several languages."""

import pandas as pd

from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.sinks.media import MediaBucket
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.table import Table

MONOLITH = """
    CREATE TABLE note (id bigint PRIMARY KEY, title text, weight text, cover text, shown boolean DEFAULT true,
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE TABLE remark (id bigint PRIMARY KEY, note_id bigint,
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE TABLE line (note_id bigint, lang text, title text, weight text,
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (note_id, lang));
    CREATE INDEX ON note (updated_at); CREATE INDEX ON remark (updated_at); CREATE INDEX ON line (updated_at);
    GRANT SELECT ON note, remark, line TO sync_reader;
"""
# types whose values a careless copy would change; the adapter leaves them NULL
AWKWARD = {
    "amount": "numeric",
    "share": "numeric(9,4)",
    "ratio": "double precision",
    "small": "real",
    "at": "timestamptz",
    "day": "date",
    "span": "interval",
    "bytes": "bytea",
    "body": "json",
    "facts": "jsonb",
    "name": "char(5)",
    "names": "text[]",
    "range": "int4range",
    "bits": "bit(3)",
    'it\'s "odd"': "text",
}
FIELDS = {
    "id": {"type": "long"},
    "title": {"type": "keyword"},
    "weight": {"type": "long"},
    "cover": {"type": "keyword"},
}


def adapt(legacy: pd.DataFrame) -> dict[str, pd.Series]:
    nothing = pd.Series(pd.NA, index=legacy.index, dtype=legacy["title"].dtype)
    return {column: legacy[column] for column in ("id", "title", "weight", "cover", "shown")} | dict.fromkeys(
        AWKWARD, nothing
    )


def note(name: str, on_refused) -> Entity:
    columns = {"id": "bigint", "title": "text", "weight": "text", "cover": "text"}
    return Entity(
        name=name,
        owner="team:tests",
        on_refused=on_refused,
        origin=LegacyQuery("SELECT id, title, weight, cover, shown FROM note", key=("id",)),
        tables=(Table("note", key=("id",), stamp="updated_at"),),
        adapt=adapt,
        sinks=(
            MediaBucket(columns=("cover",), prefix=name),
            RelationalTable(f"catalog.{name}", key=("id",), columns=columns | AWKWARD, where="shown"),
            SearchIndex(name, fields=FIELDS),
        ),
        partitions=KeyRanges(2),
    )
