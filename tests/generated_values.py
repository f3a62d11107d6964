"""Generated types, values and batches of rows, and a table that takes them from the monolith to the new side."""

import dataclasses
import json
from contextlib import closing, contextmanager, suppress

import psycopg2
from hypothesis import strategies as st

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.run.capture import open_cursor
from sync_pipeline.settings import Settings
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.sweep_only import SweepOnly
from sync_pipeline.sources.table import Table
from sync_pipeline.stores.stores import Stores

ROWS = 5

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
UNUSUAL_TEXTS = st.sampled_from(["", " ", "NULL", "\\N", "\\x41", "{}", '"', "'", "a,b\r\n", "\\"])


def _days(era: str, year: int, month: int, day: int) -> str:
    return f"{year:04}-{month:02}-{day:02}{era}"


INFINITE = st.sampled_from(["infinity", "-infinity"])
DATES = INFINITE | st.builds(
    _days, st.sampled_from(["", " BC"]), st.integers(1, 4000), st.integers(1, 12), st.integers(1, 28)
)
FAR_DATES = st.builds(_days, st.just(""), st.integers(9990, 200_000), st.just(1), st.just(1))
TIMES = st.sampled_from(["24:00:00"]) | st.times().map(str)
INSTANTS = INFINITE | st.datetimes().map(str) | FAR_DATES
SPANS = st.builds(
    "{} mons {} days {} microseconds".format,
    st.integers(-40, 40),
    st.integers(-40, 40),
    st.integers(-(10**12), 10**12),
)
FLOATS = st.floats(width=64).map(str)
NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, places=None).map(str) | st.sampled_from(
    ["NaN", "Infinity", "-Infinity", "1.0", "1.00"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
NETWORKS = st.ip_addresses().map(str)
BITS = st.text("01", max_size=9)
# a strategy of texts for each type
SCALARS = {
    "smallint": st.integers(-(2**15), 2**15 - 1).map(str),
    "bigint": st.integers(-(2**63), 2**63 - 1).map(str),
    "numeric": NUMBERS,
    "numeric(12,4)": st.decimals(-9999, 9999, places=4).map(str) | st.just("NaN"),
    "real": st.floats(width=32).map(str),
    "double precision": FLOATS,
    "boolean": st.sampled_from(["t", "f"]),
    "text": TEXTS | UNUSUAL_TEXTS,
    "bytea": st.binary(max_size=8).map(lambda octets: "\\x" + octets.hex()),
    "date": DATES | FAR_DATES,
    "time": TIMES,
    "timestamp": INSTANTS,
    "timestamptz": INSTANTS,
    "interval": SPANS | INFINITE,
    "uuid": st.uuids().map(str),
    "inet": NETWORKS,
    "bit varying": BITS,
    "jsonb": JSON.map(json.dumps).filter(lambda text: "\\u0000" not in text),
    "json": JSON.map(json.dumps).filter(lambda text: "\\u0000" not in text),
    "money": st.integers(-(2**50), 2**50).map(str),
}
_NAMES = {name: f"c{n}" for n, name in enumerate(SCALARS)}
COLUMNS = {
    "id": "bigint",
    **{column: kind for kind, column in _NAMES.items()},
    **{f"{column}_list": f"{kind}[]" for kind, column in _NAMES.items()},
    "span": "tstzrange",
    "numbers": "numrange",
    "many": "datemultirange",
}


@st.composite
def arrays(draw, values):
    """Array literals of one or two dimensions, with other bounds and NULLs."""
    item = st.none() | values
    count, width = draw(st.integers(0, 3)), draw(st.integers(0, 2))
    if not count:
        return "{}"
    rows = [[draw(item) for _ in range(width or 1)] for _ in range(count)]
    written = [[item_of(value) for value in row] for row in rows]
    lists = ["{" + ",".join(row) + "}" for row in written] if width else [row[0] for row in written]
    low = draw(st.sampled_from([1, 1, 1, 0, -2]))
    bounds = "" if low == 1 else f"[{low}:{low + count - 1}]" + (f"[1:{width}]" if width else "") + "="
    return bounds + "{" + ",".join(lists) + "}"


def item_of(value):
    return "NULL" if value is None else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def ranges(values):
    """Range literals, whose bounds the server may refuse."""
    ends = st.none() | values
    return st.just("empty") | st.builds(
        lambda low, high, opens, closes: f"{opens}{'' if low is None else low},{'' if high is None else high}{closes}",
        ends, ends, st.sampled_from("[("), st.sampled_from("])"),
    )  # fmt: skip


VALUES = {
    **{_NAMES[kind]: st.none() | values for kind, values in SCALARS.items()},
    **{f"{_NAMES[kind]}_list": st.none() | arrays(values) for kind, values in SCALARS.items()},
    "span": st.none() | ranges(st.dates().map(str)),
    "numbers": st.none() | ranges(st.sampled_from(["1", "1.0", "1.00", "NaN", "2.5", "Infinity"])),
    "many": st.none() | ranges(st.dates().map(str)).map(lambda text: "{}" if text == "empty" else f"{{{text}}}"),
}
# a few columns of each row are set anew, and the others keep what an example before has left
BATCHES = st.lists(
    st.tuples(
        st.integers(1, ROWS),
        st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=6, unique=True).flatmap(
            lambda names: st.fixed_dictionaries({name: VALUES[name] for name in names})
        ),
    ),
    min_size=1,
    max_size=ROWS,
)


class Carrier:
    """Sets values of rows in the monolith, brings them over, and compares the texts that both servers write."""

    def __init__(self, context, legacy, target):
        self.context, self.legacy, self.target = context, legacy, target

    def carry(self, batch):
        for number, values in batch:
            for name, value in values.items():
                # one by one: what the server refuses, such as a range that ends before it begins, is no value
                with suppress(psycopg2.DataError):
                    self.legacy.execute(
                        f"INSERT INTO generated (id, {name}) VALUES (%s, %s::{COLUMNS[name]})"
                        f" ON CONFLICT (id) DO UPDATE SET {name} = excluded.{name}",
                        (number, value),
                    )
        keys = self.context.origin.key.parse(map(str, range(1, ROWS + 1)))
        sync_keys(self.context, keys, Order(acknowledge=True))
        assert texts_of(self.target, "catalog.generated") == texts_of(self.legacy, "generated")


@contextmanager
def carrier(world):
    """On a world that has no table `generated` yet."""
    listed = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    world.legacy(f"CREATE TABLE generated ({listed}, PRIMARY KEY (id)); GRANT SELECT ON generated TO sync_reader")
    settings = dataclasses.replace(Settings.from_env(), recheck_seconds=0.0)
    with (
        closing(Stores(settings)) as stores,
        closing(psycopg2.connect(world.monolith.admin_url)) as legacy,
        closing(psycopg2.connect(world.target_url)) as target,
    ):
        for connection in (legacy, target):  # each statement for itself
            connection.autocommit = True
            connection.cursor().execute("SET timezone = 'UTC'")
        context = EntityContext.open(generated(), stores)
        open_cursor(context)
        yield Carrier(context, legacy.cursor(), target.cursor())


def generated():
    return Entity(
        name="generated",
        owner="team:tests",
        origin=LegacyQuery("SELECT * FROM generated", key=("id",)),
        tables=(Table("generated", key=("id",)),),
        adapt=lambda legacy: legacy,
        sinks=(RelationalTable("catalog.generated", key=("id",), columns=COLUMNS),),
        partitions=KeyRanges(1),
        capture=SweepOnly(),
    )


def texts_of(cursor, table):
    listed = ", ".join(f"{name}::text" for name in COLUMNS)
    cursor.execute(f"SELECT {listed} FROM {table} ORDER BY id")
    return cursor.fetchall()
