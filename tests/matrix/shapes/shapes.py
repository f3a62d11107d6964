"""Shapes of the tables that an entity is made from: a root `item`, and `part`, whose rows are counted for their root.

Every shape has the same columns, so that the same statements change it; `leaves` are tables below a root or a parent
table that writers may address directly.
"""

from dataclasses import dataclass, field

ITEM = "id bigint, code text, title text, updated_at timestamptz NOT NULL DEFAULT clock_timestamp()"
PART = "id bigint, item_id bigint, n integer, updated_at timestamptz NOT NULL DEFAULT clock_timestamp()"
STAMPS = "CREATE INDEX ON item (updated_at); CREATE INDEX ON part (updated_at); CREATE INDEX ON part (item_id);"
PLAIN_ITEM = f"CREATE TABLE item ({ITEM}, PRIMARY KEY (id));"
PLAIN_PART = f"CREATE TABLE part ({PART}, PRIMARY KEY (id));"
IN_RANGES = "PARTITION BY RANGE (id)"


def in_ranges(name: str, columns: str) -> str:
    """SQL of a partitioned table with a leaf for low ids and one for all others."""
    return (
        f"CREATE TABLE {name} ({columns}) {IN_RANGES};"
        f"CREATE TABLE {name}_a PARTITION OF {name} FOR VALUES FROM (0) TO (50000);"
        f"CREATE TABLE {name}_b PARTITION OF {name} DEFAULT;"
    )


@dataclass(frozen=True)
class Shape:
    """SQL that makes the tables, as the monolith's owner."""

    name: str
    sql: str
    leaves: dict[str, str] = field(default_factory=dict)  # of "item" or "part": a leaf that takes ids of a few thousand
    entities: int = 1  # how many entities go by these tables
    refused_by: frozenset[str] = frozenset()  # sources whose installation or check must refuse this shape


SHAPES = [
    Shape("plain tables", f"{PLAIN_ITEM} {PLAIN_PART} {STAMPS}"),
    Shape(
        "root in ranges",
        f"{in_ranges('item', f'{ITEM}, PRIMARY KEY (id)')} {PLAIN_PART} {STAMPS}",
        leaves={"item": "item_a"},
    ),
    Shape(
        "parts in ranges, with a primary key",
        f"{PLAIN_ITEM} {in_ranges('part', f'{PART}, PRIMARY KEY (id)')} {STAMPS}",
        leaves={"part": "part_a"},
    ),
    Shape(
        "parts in ranges, without a primary key",
        f"{PLAIN_ITEM} {in_ranges('part', PART)} {STAMPS}",
        leaves={"part": "part_a"},
    ),
    Shape(
        "root in two levels of ranges",
        f"CREATE TABLE item ({ITEM}, PRIMARY KEY (id)) {IN_RANGES};"
        f"CREATE TABLE item_a PARTITION OF item FOR VALUES FROM (0) TO (50000) {IN_RANGES};"
        "CREATE TABLE item_a_a PARTITION OF item_a FOR VALUES FROM (0) TO (40000);"
        "CREATE TABLE item_a_b PARTITION OF item_a DEFAULT; CREATE TABLE item_b PARTITION OF item DEFAULT;"
        f"{PLAIN_PART} {STAMPS}",
        leaves={"item": "item_a_a"},
    ),
    Shape(
        "root with an heir",
        f"{PLAIN_ITEM} CREATE TABLE item_heir (PRIMARY KEY (id)) INHERITS (item);"
        f"CREATE INDEX ON item_heir (updated_at); {PLAIN_PART} {STAMPS}",
        leaves={"item": "item_heir"},
    ),
    Shape(
        "parts with an heir",
        f"{PLAIN_ITEM} {PLAIN_PART} CREATE TABLE part_heir (PRIMARY KEY (id)) INHERITS (part);"
        f"CREATE INDEX ON part_heir (updated_at); {STAMPS}",
        leaves={"part": "part_heir"},
    ),
    Shape(
        "identity by another index",
        f"{PLAIN_ITEM} {PLAIN_PART} ALTER TABLE part ALTER item_id SET NOT NULL;"
        "CREATE UNIQUE INDEX part_pair ON part (item_id, id);"
        f"ALTER TABLE part REPLICA IDENTITY USING INDEX part_pair; {STAMPS}",
    ),
    Shape("no identity", f"{PLAIN_ITEM} {PLAIN_PART} ALTER TABLE part REPLICA IDENTITY NOTHING; {STAMPS}"),
    Shape("two entities over one table", f"{PLAIN_ITEM} {PLAIN_PART} {STAMPS}", entities=2),
    Shape(
        "published by others, all tables",
        f"{PLAIN_ITEM} {PLAIN_PART} {STAMPS} CREATE PUBLICATION theirs FOR ALL TABLES;",
    ),
    Shape(
        "published by others, some columns",
        f"{PLAIN_ITEM} {PLAIN_PART} {STAMPS} CREATE PUBLICATION theirs FOR TABLE part (id, n);",
        refused_by=frozenset({"wal"}),
    ),
    Shape(
        "not in the log",
        f"{PLAIN_ITEM} CREATE UNLOGGED TABLE part ({PART}, PRIMARY KEY (id)); {STAMPS}",
        refused_by=frozenset({"wal"}),
    ),
]
