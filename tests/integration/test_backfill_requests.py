"""A backfill that is cut off and asked for again: it goes on, and what it has filled is not read again."""

import logging
import types
from dataclasses import replace
from itertools import count

import pytest

from assets.history import fill_partitions
from sync_pipeline.batch.order import Outcome
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.files import load_entities
from sync_pipeline.errors import UnreachableError
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.run import backfill as filling
from sync_pipeline.run.backfill import backfill_all
from sync_pipeline.sinks.table import RelationalTable

CONTENTS, RANGES = 900, 6
_NUMBERS = count(1)


@pytest.fixture(scope="module")
def world(fresh_world):
    return fresh_world


@pytest.fixture(scope="module")
def rows(world):
    world.load(CONTENTS, 0)
    return world.legacy("SELECT count(*) FROM content WHERE kind = 'text' AND deleted_at IS NULL")[0][0]


@pytest.fixture
def context(world, rows):
    name = f"asked_{next(_NUMBERS)}"
    table = RelationalTable(f"catalog.{name}", key=("id",), columns={"id": "bigint", "header": "text"})
    text = load_entities("assets.entities")["text"]
    entity = replace(text, name=name, sinks=(table,), partitions=KeyRanges(RANGES), comments={})
    object.__setattr__(world.stores.settings, "backfill_workers", 1)
    yield EntityContext.open(entity, world.stores)
    object.__setattr__(world.stores.settings, "backfill_workers", 4)


@pytest.fixture
def pages(monkeypatch):
    """Counts pages, and fails at the page that `fail_at` says."""
    page, made = filling.sync_page, types.SimpleNamespace(count=0, fail_at=None)

    def counted(*arguments):
        made.count += 1
        if made.count == made.fail_at:
            raise UnreachableError("the store is away")
        return page(*arguments)

    monkeypatch.setattr(filling, "sync_page", counted)
    return made


def ranges(context, *numbers):
    return [context.entity.partitions.names()[number] for number in numbers or range(RANGES)]


def cut_off(fill, pages, at):
    pages.count, pages.fail_at = 0, at
    with pytest.raises(UnreachableError):
        fill()
    pages.fail_at = None


def pages_of(fill, pages):
    pages.count = 0
    return fill(), pages.count


def test_a_first_history_goes_on_with_the_partitions_that_are_not_done(context, pages, rows):
    seen: list[Outcome] = []

    def whole():
        return list(backfill_all(context, ranges(context), seen.append, whole=True))

    cut_off(whole, pages, at=5)
    done = sum(outcome.read for outcome in seen)
    seen.clear()
    parts, read = pages_of(whole, pages)
    assert read == 2
    assert [part.partition for part in parts] == ranges(context)
    assert sum(part.rows for part in parts) == sum(part.written for part in parts) == rows
    assert (seen[0].read, sum(outcome.read for outcome in seen)) == (done, rows)


def test_a_first_history_keeps_what_was_filled_by_name(context, pages, rows):
    list(backfill_all(context, ranges(context, 0, 3)))
    parts, read = pages_of(lambda: list(backfill_all(context, ranges(context), whole=True)), pages)
    assert (read, sum(part.rows for part in parts)) == (RANGES - 2, rows)


@pytest.mark.parametrize("whole", [True, False], ids=["the whole history", "all by their names"])
def test_a_history_that_is_in_is_filled_again_once_and_goes_on(context, pages, rows, whole):
    def fill():
        return list(backfill_all(context, ranges(context), whole=whole))

    fill()
    for _ in range(2):
        cut_off(fill, pages, at=3)
        cut_off(fill, pages, at=3)
        parts, read = pages_of(fill, pages)
        assert (read, sum(part.rows for part in parts)) == (2, rows)


@pytest.mark.hazard(148)
def test_runs_that_end_after_two_pages_each_come_to_the_end(context, pages, rows):
    """With the interruption that `make bench-scale` has, partitions that are done must not take the runs' time."""
    for runs in count(1):
        try:
            pages.count, pages.fail_at = 0, 3
            list(backfill_all(context, ranges(context), whole=True))
            break
        except UnreachableError:
            assert runs < RANGES
    assert runs == RANGES / 2


def test_a_raised_version_fills_everything_again_once_and_goes_on(context, pages, rows):
    list(backfill_all(context, ranges(context), whole=True))
    raised = EntityContext.open(replace(context.entity, version=2), context.stores)

    def fill():
        return list(backfill_all(raised, ranges(raised), whole=True))

    cut_off(fill, pages, at=4)
    parts, read = pages_of(fill, pages)
    assert (read, sum(part.written for part in parts)) == (RANGES - 3, rows)


def test_partitions_by_name_are_filled_again_although_others_are_not_done(context, pages, rows):
    list(backfill_all(context, ranges(context, 0, 1)))
    cut_off(lambda: list(backfill_all(context, ranges(context, 2, 3))), pages, at=2)
    assert pages_of(lambda: list(backfill_all(context, ranges(context, 0, 1, 2, 3))), pages)[1] == 4
    cut_off(lambda: list(backfill_all(context, ranges(context, 3, 2))), pages, at=2)
    assert pages_of(lambda: list(backfill_all(context, ranges(context, 2, 3))), pages)[1] == 1


def run_of(number, root=None):
    run = types.SimpleNamespace(run_id=f"run {number}", root_run_id=root)
    return types.SimpleNamespace(run=run, log=logging.getLogger(__name__), log_event=lambda _: None)


@pytest.mark.hazard(148)
def test_a_run_that_dagster_tries_again_goes_on_and_another_run_begins_anew(context, pages, rows, monkeypatch):
    monkeypatch.setattr("assets.history._TRIES", 1)
    fill_partitions(run_of(0), context, ranges(context))
    pages.count, pages.fail_at = 0, 4
    assert len(fill_partitions(run_of(1), context, ranges(context))) == 1
    pages.fail_at = None
    assert pages_of(lambda: fill_partitions(run_of(2, "run 1"), context, ranges(context)), pages) == ({}, 1)
    assert pages_of(lambda: fill_partitions(run_of(3, "run 1"), context, ranges(context)), pages) == ({}, 0)
    assert pages_of(lambda: fill_partitions(run_of(4), context, ranges(context)), pages) == ({}, RANGES)
