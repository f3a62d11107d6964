"""A history at a month's end, filled twice at once, or not to its end: nothing is lost, and what lacks is said."""

import datetime as dt
import json
import threading
import time
import types
from functools import partial

import pytest

from sync_pipeline import partitions
from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.ledger.backfills import BackfillRequest
from sync_pipeline.operate.status import status_of
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.run import backfill as filling
from sync_pipeline.run.backfill import backfill, backfill_all
from sync_pipeline.run.sweep import sweep
from tests.reports_entities.reports import reports

CLOCK = """
    CREATE TABLE reports (id bigint PRIMARY KEY, title text, created_at timestamptz);
    GRANT SELECT ON reports TO sync_reader;
"""
ROWS = """
    INSERT INTO reports SELECT n, 'report ' || n, timestamptz '2026-10-01 UTC' + n * interval '1 day'
    FROM generate_series(1, 61) n;
    INSERT INTO reports VALUES (100, 'undated', NULL), (101, 'old', '2019-01-01');
    INSERT INTO reports VALUES (102, 'of december', '2026-12-01 00:10Z')
"""
OFFERED = ["undated", "earlier", "2026-10", "2026-11"]


@pytest.fixture(scope="module", autouse=True)
def monolith(world):
    world.legacy(CLOCK)


@pytest.fixture
def today(monkeypatch):
    """Moves the date by which months are cut."""

    def move(year, month, day):
        class Moved(dt.datetime):
            @classmethod
            def now(cls, tz=None):
                return cls(year, month, day, 0, 30, tzinfo=tz)

        monkeypatch.setattr(partitions, "dt", types.SimpleNamespace(datetime=Moved, date=dt.date, UTC=dt.UTC))

    move(2026, 11, 30)
    return move


@pytest.fixture
def context(world, today):
    world.legacy(ROWS)
    yield EntityContext.open(reports(), world.stores)
    world.legacy("TRUNCATE reports")
    world.target("TRUNCATE catalog.reports, sync.backfill, sync.due; DROP TABLE sync.ledger_reports")
    world.target("DELETE FROM sync.cursor; DELETE FROM sync.sweep")


def fill(context, names):
    return {part.partition: part.rows for part in backfill_all(context, names)}


def count(world):
    return world.target("SELECT count(*) FROM catalog.reports")[0][0]


def missing(context):
    return status_of(context.stores, context.entity)["backfill"]["missing"]


def sweeps_bring_new_rows(world, context):
    world.legacy("INSERT INTO reports VALUES (200, 'late', '2026-11-15'), (201, 'new', '2027-01-02')")
    return sweep(context).changed == 2


@pytest.mark.hazard(135)
def test_all_that_a_page_of_the_month_before_offers_is_everything(world, context, today):
    """The page was loaded in November, and the run begins in December."""
    today(2026, 12, 1)
    rows = fill(context, OFFERED)
    assert (rows["2026-11"], count(world)) == (32, 64)
    assert missing(context) == []
    assert status_of(context.stores, context.entity)["backfill"]["declared"] == 4
    assert sweeps_bring_new_rows(world, context)


@pytest.mark.hazard(135)
def test_definitions_that_were_loaded_long_ago_lose_nothing(world, context, today):
    today(2027, 4, 1)
    world.legacy("INSERT INTO reports VALUES (300, 'of march', '2027-03-05')")
    fill(context, OFFERED)
    assert count(world) == 65
    assert missing(context) == []
    assert sweeps_bring_new_rows(world, context)


@pytest.mark.hazard(135)
def test_a_month_that_ends_while_its_history_is_filled_stays_open(world, context, today):
    """It was cut off in November, and goes on in December."""
    assert context.entity.partitions.names() == OFFERED
    filling.begin_history(context, BackfillRequest(OFFERED))
    today(2026, 12, 1)
    for name in OFFERED:
        backfill(context, name)
    assert count(world) == 64
    assert missing(context) == []


@pytest.mark.hazard(135)
def test_without_its_guard_the_history_is_never_all_in(world, context, today, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "135")
    today(2026, 12, 1)
    fill(context, OFFERED)
    assert missing(context) == ["2026-12"]
    assert not sweeps_bring_new_rows(world, context)


def test_a_month_by_its_name_is_that_month(world, context, today):
    today(2026, 12, 20)
    assert fill(context, ["2026-10"]) == {"2026-10": 30}
    assert missing(context) == ["undated", "earlier", "2026-11", "2026-12"]
    fill(context, context.entity.partitions.names())
    assert missing(context) == []
    today(2027, 3, 1)
    world.legacy("INSERT INTO reports VALUES (400, 'of february', '2027-02-01 00:00Z')")
    assert fill(context, ["2026-12"]) == {"2026-12": 2}


def test_a_history_that_is_not_all_in_is_said_by_every_command(world, context, command, monkeypatch):
    monkeypatch.setenv("SYNC_ENTITIES", "tests.reports_entities")
    said = "The history of reports is not all in (1 partitions are missing: earlier)"
    assert command("backfill", "reports", *(f"--partition={name}" for name in OFFERED if name != "earlier"))[0] == 0
    world.legacy("DELETE FROM reports WHERE id = 101")
    for words in (("sync", "reports"), ("status", "reports"), ("reconcile", "reports")):
        code, printed, _ = command(*words)
        assert (code, said in printed) == (0, True), words
    assert json.loads(command("sync", "reports", "--format", "json")[1])["reports"]["history_missing"] == ["earlier"]
    report = json.loads(command("reconcile", "reports", "--format", "json")[1])
    assert report["entities"]["reports"]["history_missing"] == ["earlier"]
    assert command("backfill", "reports", "--partition", "earlier")[0] == 0
    for words in (("sync", "reports"), ("status", "reports"), ("reconcile", "reports")):
        code, printed, _ = command(*words)
        assert (code, "not all in" in printed) == (0, False), words


@pytest.fixture
def slow(world, context, monkeypatch):
    """Chunks of three rows, each of which takes a moment."""
    object.__setattr__(world.stores.settings, "chunk_rows", 3)
    page = filling.sync_page

    def slowly(*arguments):
        time.sleep(0.05)
        return page(*arguments)

    monkeypatch.setattr(filling, "sync_page", slowly)
    yield context
    object.__setattr__(world.stores.settings, "chunk_rows", 25_000)


def at_once(context, partition, times=2):
    """What each of several that fill one partition at once is told."""
    found, threads = [], []
    for _ in range(times):
        threads.append(threading.Thread(target=lambda: found.append(backfill(context, partition))))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.hazard(136)
@pytest.mark.parametrize("times", [2, 3])
def test_a_partition_that_several_fill_at_once_is_counted_once(world, slow, times):
    found = at_once(slow, "2026-11", times)
    assert {(part.rows, part.written) for part in found} == {(32, 32)}
    assert len(found) == times
    assert world.target("SELECT rows, done FROM sync.backfill WHERE partition = '2026-11'") == [(32, True)]


@pytest.mark.hazard(136)
def test_a_key_range_that_several_fill_at_once_is_counted_once(world, slow):
    ranged = EntityContext.open(reports(KeyRanges(1)), world.stores)
    assert {part.rows for part in at_once(ranged, "range-0001")} == {64}


@pytest.mark.hazard(136)
def test_without_its_guard_it_is_counted_twice(world, slow, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "136")
    assert at_once(slow, "2026-11")[-1].rows > 32


@pytest.mark.hazard(136)
def test_one_that_the_other_has_left_is_gone_on_with(world, slow, monkeypatch):
    """The other one was killed after its last chunk, of which this one learns only by the ledger."""
    monkeypatch.setattr(filling, "OTHER_SECONDS", 0.5)
    filling.begin_history(slow, BackfillRequest(["2026-11"]))
    begun = filling._begun(slow, "2026-11")
    monkeypatch.setattr(filling, "_begun", lambda *_: begun)
    order = Order(commit=partial(filling._progress, slow, "2026-11", begun))
    first = filling.sync_page(slow, None, None, "q.created_at >= '2026-11-01Z'", order)
    assert first.position
    assert backfill(slow, "2026-11").rows == 32


def test_a_partition_that_is_named_twice_is_filled_once(world, context):
    assert fill(context, ["2026-10", "2026-10"]) == {"2026-10": 30}
