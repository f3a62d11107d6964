"""Values are the same on both sides, or refused by name: one member of each class that `make matrix` tries whole."""

import dataclasses
import datetime as dt
from decimal import Decimal
from uuid import UUID

import pandas as pd
import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.errors import DeclarationError, LegacySchemaError
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.preflight.declarations import check_entity
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run.backfill import backfill
from sync_pipeline.run.capture import open_cursor
from sync_pipeline.run.sweep import sweep
from sync_pipeline.settings import Settings
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.sweep_only import SweepOnly
from sync_pipeline.sources.table import Table
from sync_pipeline.stores.stores import Stores
from tests.matrix.matrix import HOLDS
from tests.matrix.types.kinds import KEYS, KINDS
from tests.matrix.types.play import play_key, play_values

# one type for each way in which a value can be lost
VALUES = ("numeric", "double precision", "json", "timestamptz", "interval", "bit(3)", "money", "box", "numrange")
OWN = ("nested", "few", "semicolons", "odd", "textrange", "integer[]", "date[]", "box[]")
AS_KEYS = ("numeric", "double precision", "date", "timestamptz", "bytea", "mood", "pair", "integer[]", "inet", "jsonb")


@pytest.fixture(scope="module")
def world(fresh_world):
    stores = Stores(dataclasses.replace(Settings.from_env(), recheck_seconds=0.0))
    yield dataclasses.replace(fresh_world, stores=stores)
    stores.close()


def entity_of(name, columns, adapt=lambda legacy: legacy, key=("id",), sql=None, ranges=1):
    return Entity(
        name=name,
        owner="team:tests",
        origin=LegacyQuery(sql or f"SELECT * FROM {name}", key=key),
        tables=(Table(name, key=key),),
        adapt=adapt,
        sinks=(RelationalTable(f"catalog.{name}", key=key, columns=columns),),
        partitions=KeyRanges(ranges),
        capture=SweepOnly(),
    )


def filled(world, entity):
    context = EntityContext.open(entity, world.stores)
    open_cursor(context)
    for partition in entity.partitions.names():
        backfill(context, partition)
    return context


def parked(world, context):
    query = "SELECT key, error, message FROM sync.due WHERE entity = %s AND error IS NOT NULL ORDER BY key"
    return world.target(query, (context.entity.name,))


def table(world, name, columns, *rows):
    world.legacy(f"CREATE TABLE {name} ({columns}); GRANT SELECT ON {name} TO sync_reader")
    for row in rows:
        world.legacy(f"INSERT INTO {name} VALUES ({', '.join(['%s'] * len(row))})", row)


@pytest.mark.hazard(121)
@pytest.mark.parametrize("name", [*VALUES, *OWN])
def test_a_type_is_carried_as_value_and_in_arrays_composites_and_domains(world, name):
    outcome = play_values(world, next(kind for kind in KINDS if kind.name == name))
    assert (outcome.verdict, outcome.note) == (HOLDS, "")


@pytest.mark.hazard(122)
@pytest.mark.parametrize("name", AS_KEYS)
def test_a_type_is_carried_as_key(world, name):
    outcome = play_key(world, next(kind for kind in KEYS if kind.name == name))
    assert (outcome.verdict, outcome.note) == (HOLDS, "")


RETURNED = {
    "took": [dt.timedelta(hours=1, minutes=30), None, dt.timedelta(days=-1)],
    "doc": [{"colour": "red"}, {"size": 1}, [1, None]],
    "blob": [b"\\x41", b"\xff\\\\", memoryview(b"")],
    "n": [2**53 + 1, None, 7],
    "price": [Decimal("1.10"), 2, None],
    "list": [["a"], [], None],
    "nested": [[[1, 2], [3, 4]], None, [[5]]],
    "at": [dt.datetime(2020, 1, 1, tzinfo=dt.UTC), pd.Timestamp("2020-01-02", tz="Europe/Berlin"), pd.NaT],
    "own": [UUID(int=1), str(UUID(int=2)), None],
}
KINDS_OF = {
    "took": "interval",
    "doc": "jsonb",
    "blob": "bytea",
    "n": "bigint",
    "price": "numeric",
    "list": "text[]",
    "nested": "integer[]",
    "at": "timestamptz",
    "own": "uuid",
}
WRITTEN = {
    "took": ["01:30:00", None, "-1 days"],
    "doc": ['{"colour": "red"}', '{"size": 1}', "[1, null]"],
    "blob": ["\\x5c783431", "\\xff5c5c", "\\x"],
    "n": [str(2**53 + 1), None, "7"],
    "price": ["1.10", "2", None],
    "list": ["{a}", "{}", None],
    "nested": ["{{1,2},{3,4}}", None, "{{5}}"],
    "at": ["2020-01-01 00:00:00+00", "2020-01-01 23:00:00+00", None],
    "own": [str(UUID(int=1)), str(UUID(int=2)), None],
}


def returning(values):
    """An adapter that returns these values, by id."""

    def adapt(legacy):
        ids = [int(each) for each in legacy["id"]]
        return {"id": legacy["id"]} | {
            name: pd.Series([each[number] for number in ids], index=legacy.index) for name, each in values.items()
        }

    return adapt


@pytest.mark.hazard(123)
@pytest.mark.parametrize("size", [1, 3], ids=["alone", "beside others"])
def test_what_an_adapter_returns_is_carried_whatever_stands_beside_it(world, size):
    name = f"returned_{size}"
    table(world, name, "id bigint PRIMARY KEY", (0,), (1,), (2,))
    stores = Stores(dataclasses.replace(world.stores.settings, chunk_rows=size))
    entity = entity_of(name, {"id": "bigint", **KINDS_OF}, returning(RETURNED))
    context = filled(dataclasses.replace(world, stores=stores), entity)
    assert parked(world, context) == []
    listed = ", ".join(f'"{column}"::text' for column in KINDS_OF)
    found = world.target(f"SET timezone = 'UTC'; SELECT {listed} FROM catalog.{name} ORDER BY id")
    assert dict(zip(KINDS_OF, map(list, zip(*found, strict=True)), strict=True)) == WRITTEN
    assert reconcile(context).status == "clean"
    stores.close()


@pytest.mark.hazard(123)
def test_a_value_without_a_form_parks_its_row_alone(world):
    table(world, "unfit", "id bigint PRIMARY KEY", (0,), (1,), (2,))
    values = {"doc": [{"a": 1}, {"a": b""}, None], "n": [1, 2, 1.5]}
    context = filled(world, entity_of("unfit", {"id": "bigint", "doc": "jsonb", "n": "bigint"}, returning(values)))
    assert world.target("SELECT id, doc FROM catalog.unfit") == [(0, {"a": 1})]
    assert parked(world, context) == [
        ("1", "UnfitValue", "entity unfit: column doc: dict {'a': b''}: JSON has no form for bytes: return a text, such"
                            " as base64"),
        ("2", "UnfitValue", "entity unfit: column n: the float 1.5 is no value of type bigint"),
    ]  # fmt: skip


@pytest.mark.hazard(124)
def test_a_row_with_a_value_that_its_column_does_not_hold_is_adapted_apart(world):
    """An adapter that computes with dates takes the usual ones; the infinite one is parked with its own error."""
    table(world, "span", "id bigint PRIMARY KEY, d date", (1, "2020-05-01"), (2, "infinity"), (3, None))

    def adapt(legacy):
        return {"id": legacy["id"], "d": legacy["d"], "year": legacy["d"].dt.year}

    context = filled(world, entity_of("span", {"id": "bigint", "d": "date", "year": "integer"}, adapt))
    assert world.target("SELECT id, year FROM catalog.span ORDER BY id") == [(1, 2020), (3, None)]
    assert [(key, error) for key, error, _ in parked(world, context)] == [("2", "AttributeError")]


@pytest.mark.hazard(125)
@pytest.mark.parametrize("ranges", [1, 2])
def test_a_row_without_a_key_is_counted_and_the_others_go_on(world, ranges):
    name = f"loose_{ranges}"
    table(world, name, "code text, n integer", ("a", 1), (None, 2), ("b", 3))
    context = filled(world, entity_of(name, {"code": "text", "n": "integer"}, key=("code",), ranges=ranges))
    assert world.target(f"SELECT code FROM catalog.{name} ORDER BY 1") == [("a",), ("b",)]
    sweep(context)
    verdict = reconcile(context)
    assert verdict.status == "drift"
    assert [(finding.key, finding.detail.split(":")[0]) for finding in verdict.findings] == [
        ("NULL", "1 rows of the monolith have a NULL in their key (code) and cannot be named")
    ]
    notices = [notice for notice in check_entity(world.stores, context.entity) if "may hold NULL" in notice.what]
    assert [notice.remedy.split(";")[0] for notice in notices] == [f"ALTER TABLE {name} ALTER COLUMN code SET NOT NULL"]
    guarded = entity_of(name, context.entity.table.columns, key=("code",),
                        sql=f"SELECT * FROM {name} WHERE code IS NOT NULL")  # fmt: skip
    assert not [notice for notice in check_entity(world.stores, guarded) if "may hold NULL" in notice.what]


@pytest.mark.hazard(126)
def test_columns_bear_any_name_and_keys_that_the_ledger_uses_are_refused(world):
    names = ("n", "action", "held", "digest", "seen", "written", "basis", "is_here", "differs", "a%b", "select")
    listed = ", ".join(f'"{name}" integer' for name in names).replace("%", "%%")
    world.legacy(f"CREATE TABLE named (id bigint PRIMARY KEY, {listed}); GRANT SELECT ON named TO sync_reader;"
                 f" INSERT INTO named VALUES (1, {', '.join(str(n) for n, _ in enumerate(names))})")  # fmt: skip
    context = filled(world, entity_of("named", {"id": "bigint", **dict.fromkeys(names, "integer")}))
    world.legacy('UPDATE named SET n = 100, "a%%b" = 7')
    sync_keys(context, context.origin.key.parse(["1"]), Order(acknowledge=True))
    assert world.target("SELECT * FROM catalog.named") == world.legacy("SELECT * FROM named")
    assert reconcile(context).status == "clean"
    for name in ("n", "action", "held", "digest", "seen", "written", "basis", "a%b"):
        with pytest.raises(DeclarationError, match="a key column cannot be named"):
            entity_of("odd_key", {name: "integer"}, key=(name,))
    for name in ("_digest", "_sync_n"):
        with pytest.raises(DeclarationError, match="a column cannot be named"):
            entity_of("odd_column", {"id": "bigint", name: "integer"})
    named = entity_of("named_2", {"id": "bigint"}, sql="SELECT id, 1 AS _digest FROM named")
    with pytest.raises(LegacySchemaError, match="'_digest', which is a name of the engine's"):
        EntityContext.open(named, world.stores)


@pytest.mark.hazard(122)
def test_check_names_a_key_type_that_can_be_no_primary_key(world):
    entity = entity_of("unkeyed", {"id": "json"})
    found = [notice.what for notice in entity.table.preflight(world.stores, entity.name) if notice.level == "error"]
    assert found == [
        "catalog.unkeyed cannot be made as declared: data type json has no default operator class for access method"
        ' "btree"'
    ]
