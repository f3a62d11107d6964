"""Rows for which the entity's query fails, so many that whole pages hold nothing else."""

import dataclasses

import pytest

from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.files import load_entities
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run.backfill import backfill
from sync_pipeline.stores.stores import Stores

PAGE, BAD = 10, 35
READABLE = "SELECT id FROM content WHERE kind = 'text' AND deleted_at IS NULL AND isfinite(updated_at) ORDER BY id"


@pytest.fixture(scope="module")
def context(world):
    world.load(300, 0)
    world.legacy("UPDATE content SET created_at = '2024-05-05', updated_at = now() WHERE kind = 'text'")
    world.legacy(
        "UPDATE content SET updated_at = 'infinity' WHERE id IN"
        " (SELECT id FROM content WHERE kind = 'text' AND deleted_at IS NULL ORDER BY id OFFSET 20 LIMIT %s)",
        (BAD,),
    )
    stores = Stores(dataclasses.replace(world.stores.settings, chunk_rows=PAGE))
    entity = load_entities("assets.entities")["text"]
    failing = "CASE WHEN isfinite(c.updated_at) THEN c.attrs ->> 'duration' ELSE (1 / (c.id - c.id))::text END"
    sql = entity.origin.sql.replace("c.attrs ->> 'duration'", failing)
    yield EntityContext.open(dataclasses.replace(entity, origin=dataclasses.replace(entity.origin, sql=sql)), stores)
    stores.close()


def test_a_page_of_rejects_does_not_end_a_partition(world, context):
    filled = backfill(context, "2024-05")
    assert filled.parked == BAD
    assert world.target("SELECT id FROM catalog.text ORDER BY id") == world.legacy(READABLE)
    parked = world.target("SELECT min(attempts), max(attempts), count(*) FROM sync.due WHERE error = 'DivisionByZero'")
    assert parked == [(1, 1, BAD)]


def test_a_page_of_rejects_does_not_end_a_reconciliation(world, context):
    verdict = reconcile(context)
    assert verdict.compared == len(world.legacy(READABLE))
    assert verdict.status == "clean"
    assert [(f.sink, f.kind) for f in verdict.findings] == [("relational", "pending")] * BAD
    assert all("DivisionByZero" in finding.detail for finding in verdict.findings)
    late = Stores(dataclasses.replace(context.stores.settings, due_limit_seconds=0.0))
    assert reconcile(dataclasses.replace(context, stores=late)).status == "drift"
    late.close()
