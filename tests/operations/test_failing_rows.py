"""A legacy query that fails for the values of some rows: they are parked, and stop nobody."""

import dataclasses

import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.files import load_entities
from sync_pipeline.errors import LegacySchemaError
from sync_pipeline.explain.why import why
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.queue import dead_letters
from sync_pipeline.queue.dead_letters import DeadLetterFilter
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run.backfill import backfill
from sync_pipeline.run.sweep import sweep
from sync_pipeline.stores.stores import Stores

PAGE, BAD = 10, 25
OF = "SELECT id FROM content WHERE kind = 'text' AND deleted_at IS NULL"
PARKED = "SELECT key::bigint, step, error FROM sync.due WHERE reason = 'rejected' ORDER BY 1"
# what an entity's own query may trip over, and how a row brings it about
FAULTS = {
    "InvalidTextRepresentation": ("(c.attrs ->> 'number')::int", 'attrs = \'{"duration": 1, "number": "many"}\''),
    "DivisionByZero": ("1 / coalesce((c.attrs ->> 'number')::int, 1)", 'attrs = \'{"duration": 1, "number": 0}\''),
    "CardinalityViolation": (
        "(SELECT n FROM generate_series(1, CASE WHEN c.price = -7 THEN 2 ELSE 1 END) n)",
        "price = -7",
    ),
}


@pytest.fixture(scope="module")
def filled(world):
    world.load(300, 0)
    world.legacy("UPDATE content SET created_at = '2024-05-05', updated_at = now() WHERE kind = 'text'")
    return world


def context_of(world, expression, condition="true"):
    """The text entity, whose query also computes `expression`, over small pages."""
    entity = load_entities("assets.entities")["text"]
    sql = entity.origin.sql.replace("SELECT c.id,", f"SELECT c.id, {expression} AS computed,", 1)
    origin = dataclasses.replace(entity.origin, sql=f"{sql} AND {condition}")
    stores = Stores(dataclasses.replace(world.stores.settings, chunk_rows=PAGE))
    return EntityContext.open(dataclasses.replace(entity, origin=origin), stores)


@pytest.fixture(params=FAULTS)
def broken(request, filled):
    """The context of an entity some of whose rows make the query fail; what they are, and the fault's name."""
    expression, how = FAULTS[request.param]
    bad = [key for (key,) in filled.legacy(f"{OF} ORDER BY id OFFSET 17 LIMIT {BAD}")]
    kept = filled.legacy("SELECT id, attrs::text, price FROM content WHERE id = ANY(%s)", [bad])
    filled.legacy(f"UPDATE content SET {how} WHERE id = ANY(%s)", [bad])
    for table in ("sync.backfill", "sync.due", 'sync."ledger_text"', "catalog.text"):
        if filled.target("SELECT to_regclass(%s) IS NOT NULL", [table])[0][0]:
            filled.target(f"DELETE FROM {table}")
    context = context_of(filled, expression)
    yield context, bad, request.param
    context.stores.close()
    for key, attrs, price in kept:
        filled.legacy("UPDATE content SET attrs = %s, price = %s WHERE id = %s", [attrs, price, key])


def good(world, bad):
    return sorted(key for (key,) in world.legacy(OF) if key not in bad)


def written(world):
    return [key for (key,) in world.target("SELECT id FROM catalog.text ORDER BY id")]


def test_they_are_parked_alone(filled, broken):
    context, bad, fault = broken
    assert backfill(context, "2024-05").parked == BAD
    assert written(filled) == good(filled, bad)
    assert filled.target(PARKED) == [(key, "read", fault) for key in sorted(bad)]
    keys = [str(key) for key in (*bad[:2], *good(filled, bad)[:2])]
    outcome = sync_keys(context, context.origin.key.parse(keys), Order(acknowledge=True))
    assert (outcome.parked, outcome.deleted) == (2, 0)
    verdict = reconcile(context)
    assert verdict.status == "clean"
    assert {(f.kind, int(f.key)) for f in verdict.findings} == {("pending", key) for key in bad}
    assert all(fault in finding.detail for finding in verdict.findings)


def test_one_that_was_in_keeps_what_readers_have(filled, broken):
    context, bad, fault = broken
    _, how = FAULTS[fault]
    victim = good(filled, bad)[3]
    ((attrs, price),) = filled.legacy("SELECT attrs::text, price FROM content WHERE id = %s", [victim])
    assert backfill(context, "2024-05").parked == BAD
    filled.legacy(f"UPDATE content SET {how} WHERE id = %s", [victim])
    assert sync_keys(context, context.origin.key.parse([str(victim)]), Order(acknowledge=True)).parked == 1
    assert victim in written(filled)
    filled.legacy("UPDATE content SET attrs = %s, price = %s WHERE id = %s", [attrs, price, victim])
    sync_keys(context, context.origin.key.parse([str(victim)]), Order(acknowledge=True))
    assert filled.target("SELECT 1 FROM sync.due WHERE key = %s", [str(victim)]) == []


def test_the_sweep_finds_them_and_goes_on(filled, broken):
    context, bad, fault = broken
    backfill(context, "2024-05")
    lost = good(filled, bad)[5]
    filled.legacy("UPDATE content SET title = %s WHERE id = %s", [f"unstamped {fault}", lost])
    filled.target("UPDATE sync.cursor SET filled_at = now()")
    swept = sweep(context)
    assert swept.compared == len(good(filled, bad)) + BAD
    assert swept.gone == 0
    assert swept.changed == BAD + 1
    assert filled.target("SELECT k::bigint FROM sync.due, unnest(keys) k") == [(lost,)]  # the others are parked as is


def test_discarded_ones_stay_so_until_the_query_takes_them(filled, broken):
    context, bad, fault = broken
    backfill(context, "2024-05")
    texts = sorted(map(str, bad))
    assert dead_letters.discard(context, DeadLetterFilter("text", reasons=("rejected",)), "me", "a test") == texts
    sync_keys(context, context.origin.key.parse(texts[:3]), Order(acknowledge=True))
    filled.target("UPDATE sync.cursor SET filled_at = now()")
    assert sweep(context).changed == 0
    assert sorted(filled.target("SELECT key, reason FROM sync.due")) == [(text, "discarded") for text in texts]
    assert reconcile(context).status == "clean"
    assert why(context, texts[0]).label == "discarded"
    good_attrs = "UPDATE content SET attrs = '{}', price = 1, title = %s WHERE id = %s"
    filled.legacy(good_attrs, [f"mended {fault}", bad[0]])
    assert sweep(context).changed == 1


def test_a_query_that_fails_before_it_names_a_row_stops_its_entity(filled):
    filled.legacy('UPDATE content SET attrs = \'{"duration": 1, "x": "y"}\' WHERE kind = \'text\'')
    context = context_of(filled, "1", "coalesce((c.attrs ->> 'x')::int, 1) = 1")
    with pytest.raises(LegacySchemaError, match="before it names a row"):
        sync_keys(context, context.origin.key.parse(["1", "2", "3"]), Order())
    context.stores.close()
