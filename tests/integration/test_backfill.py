"""Backfill by partition on real servers: key ranges, partitions side by side, a failure among them."""

import gc
import threading
from contextlib import closing
from dataclasses import replace

import pyarrow as pa
import pytest

from sync_pipeline.batch.order import Outcome
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.files import load_entities
from sync_pipeline.errors import StoppedError, UnreachableError
from sync_pipeline.ledger.backfills import BackfillRequest
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.run import backfill as filling
from sync_pipeline.run import sweep as sweeping
from sync_pipeline.run import sweep_requests
from sync_pipeline.run.backfill import backfill_all
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.stores.stores import Stores

CONTENTS, RANGES = 3000, 6


def ranged(world, name):
    table = RelationalTable(f"catalog.{name}", key=("id",), columns={"id": "bigint", "header": "text"})
    text = load_entities("assets.entities")["text"]
    return EntityContext.open(
        replace(text, name=name, sinks=(table,), partitions=KeyRanges(RANGES), comments={}), world.stores
    )


def fill(context):
    return list(backfill_all(context, context.entity.partitions.names()))


def filled_at(world, context):
    return world.target("SELECT filled_at FROM sync.cursor WHERE entity = %s", (context.entity.name,))[0][0]


@pytest.fixture(scope="module")
def world(fresh_world):
    """A monolith that held nothing when the entity `early` was first filled."""
    assert [part.rows for part in fill(ranged(fresh_world, "early"))] == [0] * RANGES
    fresh_world.load(CONTENTS, 0)
    return fresh_world


@pytest.fixture(scope="module")
def expected(world):
    return world.legacy("SELECT count(*) FROM content WHERE kind = 'text' AND deleted_at IS NULL")[0][0]


@pytest.mark.parametrize("ranges", [1, 2, 2 * RANGES])
def test_another_number_of_key_ranges_leaves_nothing_out(world, expected, ranges):
    first = ranged(world, f"recut_{ranges}")
    fill(first)
    recut = EntityContext.open(replace(first.entity, partitions=KeyRanges(ranges), version=2), world.stores)
    parts = fill(recut)
    assert sum(part.rows for part in parts) == expected
    assert sweeping.sweep(recut).outdated == 0


def test_a_backfill_of_an_older_version_does_not_tell_for_a_newer_one(world, expected, monkeypatch):
    older = ranged(world, "overtaken")
    newer = EntityContext.open(replace(older.entity, version=2), world.stores)
    partition, paged = older.entity.partitions.names()[0], filling.sync_page

    def overtaken(context, *rest):
        if context is older:
            filling.begin_history(newer, BackfillRequest([partition]))
        return paged(context, *rest)

    monkeypatch.setattr(filling, "sync_page", overtaken)
    with pytest.raises(StoppedError, match="another version"):
        backfill_all(older, [partition]).__next__()
    query = "SELECT done, position FROM sync.backfill WHERE entity = 'overtaken' AND partition = %s"
    assert world.target(query, (partition,)) == [(False, None)]
    assert sum(part.rows for part in fill(newer)) == expected


@pytest.mark.hazard(41)
def test_key_ranges_opened_on_an_empty_table_are_cut_once_it_has_rows(world, expected):
    parts = fill(ranged(world, "early"))
    assert sum(part.written for part in parts) == sum(part.rows for part in parts) == expected
    assert max(part.rows for part in parts) < expected / 2
    edges = "SELECT low, high FROM sync.backfill WHERE entity = 'early' ORDER BY partition"
    before = world.target(edges)
    world.legacy("INSERT INTO content (kind, title) SELECT 'text', 'later' FROM generate_series(1, 500)")
    assert [part.written for part in fill(ranged(world, "early"))] == [*[0] * (RANGES - 1), 500]
    assert world.target(edges) == before
    world.legacy("DELETE FROM content WHERE title = 'later'")


def test_partitions_side_by_side_fill_everything_in_the_order_asked_for(world, expected):
    context = ranged(world, "side_by_side")
    parts = fill(context)
    assert [part.partition for part in parts] == context.entity.partitions.names()
    assert sum(part.written for part in parts) == expected
    assert world.target("SELECT count(*) FROM catalog.side_by_side") == [(expected,)]
    assert filled_at(world, context) is not None


def test_a_partition_that_fails_is_the_error_and_the_rest_goes_on_where_it_was(world, expected, monkeypatch):
    context = ranged(world, "failing")
    filling._freeze(context, context.entity.partitions)
    ((high,),) = world.target("SELECT high FROM sync.backfill WHERE entity = 'failing' AND partition = 'range-0002'")
    begun, failed, paged = threading.Event(), threading.Event(), filling.sync_page

    def page(context, after, until, within, order):
        if until == high:
            begun.wait(10)
            failed.set()
            raise UnreachableError("the second range is out of reach")
        outcome = paged(context, after, until, within, order)
        begun.set()
        failed.wait(10)
        return outcome

    monkeypatch.setattr(filling, "sync_page", page)
    settings = replace(world.stores.settings, chunk_rows=50, backfill_workers=2)
    with closing(Stores(settings)) as stores, pytest.raises(UnreachableError, match="second range"):
        fill(replace(context, stores=stores))
    monkeypatch.undo()
    ((done,),) = world.target("SELECT count(*) FROM catalog.failing")
    assert 0 < done < expected / RANGES
    assert filled_at(world, context) is None
    parts = fill(context)
    assert sum(part.rows for part in parts) == expected
    assert world.target("SELECT count(*) FROM catalog.failing") == [(expected,)]


@pytest.mark.hazard(147)
@pytest.mark.parametrize("lost", [True, False], ids=["commits were lost", "nothing was lost"])
def test_a_sweep_for_lost_commits_that_came_before_the_history_was_in_is_made_again(world, lost):
    name = "lost" if lost else "kept"
    context = ranged(world, name)
    *first, last = context.entity.partitions.names()
    list(backfill_all(context, first))
    if lost:
        world.target(
            "INSERT INTO sync.recovery (entity, sink, part, cause) VALUES (%s, 'search', 'index', 'a test')", (name,)
        )
    sweeping.sweep(context)
    assert not sweep_requests.sweep_is_due(context)
    list(backfill_all(context, [last]))
    assert filled_at(world, context) is not None
    assert sweep_requests.sweep_is_due(context) is lost
    world.target("DELETE FROM sync.recovery WHERE entity = %s", (name,))


def test_the_last_two_partitions_may_end_together(world):
    context = ranged(world, "together")
    names = context.entity.partitions.names()
    filling.begin_history(context, BackfillRequest(names))
    begun = {name: filling._begun(context, name) for name in names}
    done = "UPDATE sync.backfill SET done = true WHERE entity = 'together' AND partition <> ALL(%s)"
    world.target(done, (names[:2],))
    with world.stores.target() as first:
        filling._progress(context, names[0], begun[names[0]], first, Outcome())
        other = threading.Thread(target=end, args=(world, context, names[1], begun[names[1]]))
        other.start()
        waiting_or_over(world, other)
    other.join()
    assert filled_at(world, context) is not None


def end(world, context, name, begun):
    with world.stores.target() as cursor:
        filling._progress(context, name, begun, cursor, Outcome())


def waiting_or_over(world, thread):
    """Until the other transaction waits for a lock, or is through."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    while thread.is_alive() and world.target(waiting) == [(0,)]:
        thread.join(0.02)


def swept_from(world, context):
    """Both of them: a sweep that compares keys alone counts no more either."""
    query = "SELECT greatest(swept_from, compared_from) FROM sync.cursor WHERE entity = %s"
    return world.target(query, (context.entity.name,))[0][0]


@pytest.mark.hazard(14)
def test_a_sweep_that_began_before_the_history_was_in_counts_no_more(world, expected):
    """It has left alone what the ledger did not know; changes that no source reports may be among it."""
    context, since = ranged(world, "swept"), world.stores.legacy_now()
    assert sweeping.sweep(context).unfilled == expected
    assert swept_from(world, context) >= since
    sweep_requests.ask_for_sweep(context, since)
    assert not sweep_requests.sweep_is_due(context)
    fill(context)
    assert swept_from(world, context) is None
    assert sweep_requests.sweep_is_due(context)
    sweeping.sweep(context)
    assert swept_from(world, context) >= since


@pytest.mark.hazard(14)
def test_nor_does_one_during_which_the_history_came_in(world, monkeypatch):
    context = ranged(world, "midway")
    with monkeypatch.context() as patched:
        patched.setattr(sweeping, "_is_filled", lambda context: fill(context) == [])
        sweeping.sweep(context)
    assert swept_from(world, context) is None
    sweeping.sweep(context)
    assert swept_from(world, context) is not None


def test_a_chunk_is_given_back_at_once(world):
    """Nothing refers to itself: what waits for the collector would add up, chunk by chunk, while it does not come."""
    first, pool = world.context("video"), pa.default_memory_pool()
    again = EntityContext.open(replace(first.entity, version=2), world.stores)
    fill(world.context("audio"))
    gc.collect()
    gc.disable()
    try:
        for context in (first, again):
            before = pool.bytes_allocated()
            assert sum(part.rows for part in fill(context)) > 500
            assert pool.bytes_allocated() - before < 10_000
    finally:
        gc.enable()


def test_the_ledger_names_keys_that_were_written_since(world):
    context = ranged(world, "side_by_side")
    held = world.target("SELECT id, written FROM sync.ledger_side_by_side ORDER BY id LIMIT 4")
    keys = context.origin.key.parse([str(key) for key, _ in held])
    versions = [written + shift for (_, written), shift in zip(held, (0, -1, 5, -1), strict=True)]
    with world.stores.target() as cursor:
        later = context.ledger.later_than(cursor, keys, pa.array(versions, pa.int64()))
        none = context.ledger.later_than(cursor, keys.slice(0, 0), pa.array([], pa.int64()))
    assert sorted(later.column("id").to_pylist()) == [held[1][0], held[3][0]]
    assert none.num_rows == 0
