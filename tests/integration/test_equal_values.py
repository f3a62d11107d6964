"""Values that PostgreSQL calls equal and a reader can tell apart: a change arrives, or is drift."""

import dataclasses

import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run.capture import open_cursor
from sync_pipeline.run.sweep import sweep
from sync_pipeline.settings import Settings
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.sweep_only import SweepOnly
from sync_pipeline.sources.table import Table
from sync_pipeline.stores.stores import Stores

MONOLITH = """
    CREATE TYPE term AS (length interval, n integer);
    CREATE TABLE plan (id bigint PRIMARY KEY, lasts interval, steps interval[], term term, area box);
    GRANT SELECT ON plan TO sync_reader;
    INSERT INTO plan SELECT n, '1 mon', '{1 day}', '("1 mon",1)', '(1,4),(0,0)'
        FROM generate_series(1, 4) n;
"""
# PostgreSQL calls the old and the new value of each column equal, or hashes them alike
CHANGES = {
    "lasts": "'30 days'",
    "steps": "'{24:00:00}'",
    "term": "'(\"30 days\",1)'",
    "area": "'(2,2),(0,0)'",
}
COLUMNS = {"id": "bigint", "lasts": "interval", "steps": "interval[]", "term": "text"}
ENTITY = Entity(
    name="plan",
    owner="team:tests",
    origin=LegacyQuery("SELECT * FROM plan", key=("id",)),
    tables=(Table("plan", key=("id",)),),
    adapt=lambda legacy: legacy,
    sinks=(
        RelationalTable("catalog.plan", key=("id",), columns=COLUMNS | {"area": "box"}),
        SearchIndex("plan", fields={"id": {"type": "long"}, "lasts": {"type": "keyword"}}),
    ),
    partitions=KeyRanges(1),
    capture=SweepOnly(),
)


@pytest.fixture
def plan(fresh_world):
    fresh_world.legacy(f"DROP TABLE IF EXISTS plan; DROP TYPE IF EXISTS term; {MONOLITH}")
    settings = dataclasses.replace(Settings.from_env(), recheck_seconds=0.0)
    context = EntityContext.open(ENTITY, Stores(settings))
    open_cursor(context)
    sync_keys(context, context.origin.key.parse(map(str, range(1, 5))), Order(force=True))
    fresh_world.target("UPDATE sync.cursor SET filled_at = now()")
    yield context
    context.stores.close()


def change(world, context):
    """Change each column, in a row of its own."""
    for n, (column, value) in enumerate(CHANGES.items(), 1):
        world.legacy(f"UPDATE plan SET {column} = {value} WHERE id = {n}")


@pytest.mark.hazard(116)
def test_a_batch_writes_the_new_value(fresh_world, plan):
    change(fresh_world, plan)
    outcome = sync_keys(plan, plan.origin.key.parse(map(str, range(1, 5))), Order(acknowledge=True))
    assert outcome.written == len(CHANGES)
    found = fresh_world.target("SELECT id, lasts, steps, term, area::text FROM catalog.plan ORDER BY id")
    legacy = fresh_world.legacy("SELECT id, lasts, steps, term::text, area::text FROM plan ORDER BY id")
    assert found == legacy
    texts = fresh_world.target("SELECT lasts::text FROM catalog.plan WHERE id = 1")
    assert texts == [("30 days",)]


@pytest.fixture
def unguarded(monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "116")


@pytest.mark.hazard(116)
def test_without_its_guard_changes_of_intervals_are_lost(fresh_world, unguarded, plan):
    change(fresh_world, plan)
    found = {finding.key for finding in reconcile(plan).findings if finding.sink == "relational"}
    assert found == {"1", "2", "3", "4"}  # values are compared as texts, whatever the digest takes as equal
    assert sync_keys(plan, plan.origin.key.parse(map(str, range(1, 5))), Order(acknowledge=True)).written == 2
    assert fresh_world.target("SELECT lasts::text, steps::text FROM catalog.plan WHERE id = 1") == [
        ("1 mon", '{"1 day"}')
    ]


@pytest.mark.hazard(116)
def test_the_sweep_and_the_reconciliation_name_each_change(fresh_world, plan):
    change(fresh_world, plan)
    verdict = reconcile(plan)
    stale = {finding.key for finding in verdict.findings if finding.sink == "relational" and finding.kind == "stale"}
    assert stale == {"1", "2", "3", "4"}
    sweep(plan)
    due = fresh_world.target("SELECT unnest(keys) FROM sync.due WHERE entity = 'plan' AND reason = 'sweep' ORDER BY 1")
    assert [key for (key,) in due] == ["1", "2", "3", "4"]
