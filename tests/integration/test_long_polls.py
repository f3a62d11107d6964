"""Polls that last longer than a run of the follower: each run goes on where the last one ended, and fresh edits arrive.

Scaled down: a bulk update of 24 pages, runs of three pages, turns of no time at all.
"""

import datetime as dt
import threading
from contextlib import closing
from dataclasses import replace

import pandas as pd
import psycopg2
import pyarrow as pa
import pytest

from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.origin import Origin
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.ledger.cursor import Lease
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.run import live
from sync_pipeline.run.capture import open_cursor, resumed
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources import future, outbox, stamped_rows, watermark
from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.table import Table
from sync_pipeline.sources.wal import Wal
from sync_pipeline.sources.watermark import Watermark
from tests.installed import made, unmade
from tests.world import opened, wait_for

ROWS, PAGE, RUN = 2_400, 100, 3
MONOLITH = """
    CREATE TABLE note
        (id bigint PRIMARY KEY, title text, updated_at timestamptz NOT NULL DEFAULT now(), local timestamp);
    CREATE INDEX ON note (updated_at);
    CREATE INDEX ON note (local);
    GRANT SELECT ON note TO sync_reader;
"""
NOTE = Entity(
    name="note",
    owner="team:tests",
    origin=LegacyQuery("SELECT id, title FROM note", key=("id",)),
    tables=(Table("note", key=("id",), stamp="updated_at"),),
    adapt=lambda legacy: pd.DataFrame({"id": legacy["id"], "title": legacy["title"]}),
    sinks=(RelationalTable("catalog.note", key=("id",), columns={"id": "bigint", "title": "text"}),),
    partitions=KeyRanges(1),
)
SOURCES = {"watermark": Watermark(), "outbox": Outbox(), "wal": Wal()}
EDIT = "UPDATE note SET title = %s, updated_at = clock_timestamp() WHERE id = %s"
STATE = "SELECT state, applied_through FROM sync.cursor WHERE entity = 'note'"


@pytest.fixture(scope="module")
def world(fleet):
    with opened(fleet, "long_polls", SYNC_SWEEP_SECONDS="1e9", SYNC_MARGIN_SECONDS="0") as world:
        world.legacy(MONOLITH)
        yield world


@pytest.fixture
def caught(world, monkeypatch):
    """A function that opens the entity with a source; both sides hold the same rows."""
    monkeypatch.setattr(live, "_PULL_ROWS", PAGE)
    for module in (watermark, outbox):
        monkeypatch.setattr(module, "_TURN_SECONDS", 0.0)
    contexts = []

    def by(capture, entity=NOTE):
        context = EntityContext.open(replace(entity, capture=capture), world.stores)
        contexts.append(context)
        for statement in made(context):
            world.legacy(statement)
        world.target("UPDATE sync.cursor SET state = NULL, source = NULL, filled_at = now(), applied_through = NULL")
        open_cursor(context)
        return context

    yield by
    for context in contexts:
        wait_for(lambda: not world.legacy("SELECT 1 FROM pg_replication_slots WHERE active_pid IS NOT NULL"))
        for statement in unmade(context):
            world.legacy(statement)
    world.legacy("TRUNCATE note")
    world.target("TRUNCATE catalog.note, sync.ledger_note, sync.due")


class Run:
    """A follower's run, step by step; it ends after some pages, as a run that is stopped does."""

    def __init__(self, context, most):
        self.context, self.left, self.halt = context, most, threading.Event()
        self.lease, self.source = Lease.take(context.stores, "note", "test"), resumed(context)

    def poll(self):
        return live.poll(self.context, self.lease, self.source, self.count, keep_idle=True, halt=self.halt)

    def count(self, _, outcome):
        self.left -= 1
        if self.left == 0:
            self.halt.set()

    def close(self):
        self.source.close()
        self.lease.give_back(self.context.stores)


def run(context, most=RUN, tries=2 * RUN):
    """Poll until so many pages are applied, or nothing more comes."""
    with closing(Run(context, most)) as this:
        for _ in range(tries):
            if not this.halt.is_set() and not this.poll():
                this.source.wait(this.halt, 0.1)
    while live.work(context, lambda *_: None):
        pass


def apart(world):
    """Keys on which the two sides do not agree."""
    rows = set(world.legacy("SELECT id, title FROM note")) ^ set(world.target("SELECT id, title FROM catalog.note"))
    return {key for key, _ in rows}


@pytest.fixture
def reads(monkeypatch):
    """How many roots were asked for, batch by batch."""
    numbers, by_roots = [], Origin.by_roots

    def counted(origin, roots, *arguments):
        numbers.append(roots.num_rows)
        return by_roots(origin, roots, *arguments)

    monkeypatch.setattr(Origin, "by_roots", counted)
    return numbers


@pytest.mark.hazard(87)
@pytest.mark.parametrize("source", SOURCES)
def test_a_bulk_update_ends_over_many_runs_and_fresh_edits_arrive_meanwhile(world, caught, reads, source):
    context = caught(SOURCES[source])
    world.legacy("INSERT INTO note (id, title) SELECT n, 'bulk' FROM generate_series(1, %s) n", [ROWS])
    began = world.legacy("SELECT now()")
    runs = 0
    while apart(world):
        run(context)
        runs += 1
        assert runs < 3 * ROWS // PAGE
        if runs == 2 and source != "wal":
            world.legacy(EDIT, ("fresh", ROWS // 2))
            run(context)
            assert world.target("SELECT title FROM catalog.note WHERE id = %s", [ROWS // 2]) == [("fresh",)]
            assert len(apart(world)) > ROWS // 2
            assert not world.target("SELECT 1 FROM sync.cursor WHERE applied_through >= %s", began[0])
    run(context)
    assert runs > 3
    assert sum(reads) < 1.2 * ROWS
    assert world.target("SELECT applied_through > %s FROM sync.cursor", began[0]) == [(True,)]


@pytest.mark.hazard(87)
def test_without_its_guard_each_run_begins_a_bulk_update_anew(world, caught, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "87")
    context = caught(SOURCES["watermark"])
    world.legacy("INSERT INTO note (id, title) SELECT n, 'bulk' FROM generate_series(1, %s) n", [ROWS])
    for _ in range(2 * ROWS // PAGE // RUN):
        run(context)
    assert len(apart(world)) >= ROWS - (RUN + 1) * PAGE
    monkeypatch.delenv("SYNC_TEST_GUARDS_OFF")
    for _ in range(2 * ROWS // PAGE // RUN):
        run(context)
    assert apart(world) == set()


@pytest.mark.hazard(87)
def test_a_long_transaction_of_the_log_waits_behind_what_is_committed_after_it(world, caught, monkeypatch):
    context = caught(Wal())
    world.legacy("INSERT INTO note (id, title) SELECT n, 'bulk' FROM generate_series(1, %s) n", [90 * PAGE])
    world.legacy("INSERT INTO note (id, title) VALUES (0, 'fresh')")
    monkeypatch.setattr(live, "_PULL_ROWS", 6 * PAGE)  # more than are applied at once of those that are put behind
    with closing(Run(context, 1_000)) as this:
        wait_for(lambda: (this.poll(), world.target("SELECT 1 FROM catalog.note WHERE id = 0"))[1])
    assert len(apart(world)) > 10 * PAGE
    while live.work(context, lambda *_: None):
        pass
    assert apart(world) == set()


@pytest.mark.hazard(87)
def test_what_commits_before_and_behind_a_transaction_that_is_half_applied_is_not_passed_over(world, caught, reads):
    """Runs of one page, so that each begins at another place within the transaction; it writes, moves and deletes."""
    context = caught(Wal())
    world.legacy("INSERT INTO note (id, title) SELECT n, 'before' FROM generate_series(1, 130) n")
    with closing(psycopg2.connect(world.monolith.admin_url)) as writer, writer, writer.cursor() as cursor:
        cursor.execute("INSERT INTO note (id, title) SELECT n, 'bulk' FROM generate_series(1001, 1450) n")
        cursor.execute("UPDATE note SET title = 'edited' WHERE id BETWEEN 50 AND 150")
        cursor.execute("UPDATE note SET id = id + 5000 WHERE id BETWEEN 1401 AND 1450")
        cursor.execute("DELETE FROM note WHERE id BETWEEN 1 AND 20")
    world.legacy("INSERT INTO note (id, title) SELECT n, 'behind' FROM generate_series(2001, 2030) n")
    for _ in range(40):
        if apart(world):
            run(context, most=1, tries=10)
    assert apart(world) == set()
    assert sum(reads) < 1_200


@pytest.mark.hazard(87)
@pytest.mark.parametrize("source", SOURCES)
def test_killed_between_two_pages_nothing_is_lost(world, caught, monkeypatch, source):
    """The process ends in the middle of a page's batch: its rows and its position are one transaction."""

    class Killed(BaseException):
        pass

    context = caught(SOURCES[source])
    world.legacy("INSERT INTO note (id, title) SELECT n, 'bulk' FROM generate_series(1, %s) n", [10 * PAGE])
    applied, apply = [], type(context.ledger).apply

    def killed(*arguments):
        applied.append(1)
        if len(applied) % 3 == 0:
            raise Killed
        return apply(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(type(context.ledger), "apply", killed)
        for _ in range(4):
            with pytest.raises(Killed), closing(Run(context, 1_000)) as this:
                wait_for(lambda this=this: this.poll() and False)
            world.target("UPDATE sync.cursor SET owner = NULL")
    assert len(world.target("SELECT 1 FROM catalog.note")) >= 5 * PAGE
    for _ in range(10):
        run(context)
    assert apart(world) == set()


@pytest.mark.hazard(87)
def test_a_transaction_that_ends_late_is_found_while_there_is_a_backlog(world, caught):
    context = caught(Watermark())
    world.legacy("INSERT INTO note (id, title) SELECT n, 'bulk' FROM generate_series(1, %s) n", [ROWS])
    with closing(psycopg2.connect(world.monolith.admin_url)) as late:
        late.cursor().execute("INSERT INTO note (id, title) VALUES (0, 'late')")
        run(context)
        late.commit()
    for _ in range(12):
        run(context)
    assert apart(world) == set()


@pytest.mark.hazard(87)
def test_what_a_poll_remembers_does_not_grow_with_its_rows(world, caught, monkeypatch):
    monkeypatch.setattr(watermark, "_MOST_VERSIONS", 2 * PAGE)
    monkeypatch.setattr(watermark, "_TURN_SECONDS", 60.0)
    context = caught(Watermark())
    world.legacy("INSERT INTO note (id, title) SELECT n, 'bulk' FROM generate_series(1, %s) n", [ROWS])
    with closing(Run(context, 1_000)) as this:
        this.poll()
        kept = [*this.source._recent.values(), *(part for parts in this.source._next.values() for part in parts)]
        assert 0 < sum(map(len, kept)) <= 2 * 2 * PAGE
        assert all(part.type == pa.int64() for part in kept)
    assert apart(world) == set()


def test_a_stamp_that_is_declared_no_more_has_the_others_read_again(world, caught):
    context = caught(Watermark())
    world.legacy("INSERT INTO note (id, title) SELECT n, 'bulk' FROM generate_series(1, %s) n", [ROWS])
    run(context)
    ((state, _),) = world.target(STATE)
    assert state["spans"]
    state["spans"][0]["stamp"] = "note.gone id"
    world.target("UPDATE sync.cursor SET state = %s", [psycopg2.extras.Json(state)])
    for _ in range(12):
        run(context)
    assert apart(world) == set()
    assert "spans" not in world.target(STATE)[0][0]


def fetched(monkeypatch):
    """How many keys each query of the watermark has read, with its span."""
    seen, fetch = [], stamped_rows._Reader._fetch

    def spied(reader):
        page = fetch(reader)
        seen.append((reader.span, page.num_rows))
        return page

    monkeypatch.setattr(stamped_rows._Reader, "_fetch", spied)
    return seen


@pytest.mark.hazard(88)
@pytest.mark.parametrize("zoned", [False, True])
def test_many_stamps_in_the_future_are_read_seldom_and_none_is_lost(world, caught, monkeypatch, zoned):
    """As of a clock that runs ahead, or of the doubled hour when summer time ends."""
    monkeypatch.setattr(watermark, "_TURN_SECONDS", 60.0)
    stamp, now = ("local", "now() AT TIME ZONE 'Europe/Berlin'") if zoned else ("updated_at", "now()")
    table = Table("note", key=("id",), stamp=stamp, zone="Europe/Berlin" if zoned else None)
    context = caught(Watermark(), replace(NOTE, tables=(table,)))
    write = f"INSERT INTO note (id, title, {stamp}) SELECT n, %s, {now} + %s FROM generate_series(%s, %s) n"
    world.legacy(write, ["of tomorrow", dt.timedelta(hours=1), 1, 10 * PAGE])
    seen = fetched(monkeypatch)
    with closing(Run(context, 10_000)) as this:
        for _ in range(3):
            this.poll()
        assert apart(world) == set()
        seen.clear()
        world.legacy(write, ["of now", dt.timedelta(0), 2_001, 2_001])
        this.poll()
        assert apart(world) == set()
        assert sum(rows for _, rows in seen) <= 2
        world.legacy(write, ["of tomorrow, later", dt.timedelta(hours=2), 2_002, 2_002])
        this.poll()
        ((_, before),) = world.target(STATE)
        assert apart(world) == {2_002}
        monkeypatch.setattr(future, "_READ_SECONDS", 0.0)
        this.poll()
        assert apart(world) == set()
        assert sum(rows for _, rows in seen) <= 6
        assert world.target(STATE)[0][1] > before
    seen.clear()
    world.legacy(write, ["while nobody polls", dt.timedelta(hours=2), 2_003, 2_003])
    run(context)
    assert apart(world) == set()
    assert sum(rows for _, rows in seen) < PAGE
    world.legacy("DELETE FROM note WHERE id < 2000")
    world.target("DELETE FROM catalog.note WHERE id < 2000; DELETE FROM sync.ledger_note WHERE id < 2000")
    run(context)
    assert "future" not in world.target(STATE)[0][0]


@pytest.mark.hazard(88)
def test_few_stamps_in_the_future_are_read_at_once(world, caught):
    context = caught(Watermark())
    with closing(Run(context, 100)) as this:
        for key in range(3):
            world.legacy(
                "INSERT INTO note (id, title, updated_at) VALUES (%s, 'ahead', now() + interval '1 day')", [key]
            )
            this.poll()
            assert apart(world) == set()
