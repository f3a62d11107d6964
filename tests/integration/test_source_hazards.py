"""What breaks a source of changes, step by step: each poll is ours, and no sweep helps unless it is said."""

from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import psycopg2
import pytest

from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.ledger.cursor import Lease
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.run import live
from sync_pipeline.run.capture import open_cursor, resumed
from sync_pipeline.run.sweep import sweep
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources import scans, watermark
from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.table import Table
from sync_pipeline.sources.watermark import Watermark
from tests.installed import made, unmade
from tests.world import opened

MONOLITH = """
    CREATE TABLE note (id bigint PRIMARY KEY, title text, updated_at timestamptz);
    CREATE INDEX ON note (updated_at);
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
WRITE = """
    INSERT INTO note VALUES (%s, %s, now())
    ON CONFLICT (id) DO UPDATE SET title = excluded.title, updated_at = excluded.updated_at
"""
EVENT = "INSERT INTO outbox (aggregate_type, aggregate_id, event_type) VALUES ('note', %s, 'by hand')"


@pytest.fixture(scope="module")
def world(fleet):
    # without a margin, what it would hide shows
    with opened(fleet, "source_hazards", SYNC_SWEEP_SECONDS="1e9", SYNC_MARGIN_SECONDS="0") as world:
        world.legacy(MONOLITH)
        yield world


@pytest.fixture
def caught(world):
    """A function that opens the entity with a source, no rows on either side."""
    contexts = []

    def by(capture):
        context = EntityContext.open(replace(NOTE, capture=capture), world.stores)
        contexts.append(context)
        for statement in made(context):
            world.legacy(statement)
        world.target("UPDATE sync.cursor SET state = NULL, source = NULL, filled_at = now()")
        open_cursor(context)
        return context

    yield by
    for context in contexts:
        for statement in unmade(context):
            world.legacy(statement)
    world.legacy("TRUNCATE note")
    world.target("TRUNCATE catalog.note, sync.ledger_note, sync.due")


@pytest.fixture
def stamped(caught):
    return caught(Watermark())


@pytest.fixture
def noted(caught):
    return caught(Outbox())


@contextmanager
def polling(context, source=None):
    """A function that polls once."""
    lease = Lease.take(context.stores, "note", "test")
    source = source or resumed(context)
    try:
        yield lambda: live.poll(context, lease, source, lambda *_: None, keep_idle=True)
    finally:
        lease.give_back(context.stores)


def poll_once(context):
    with polling(context) as poll:
        poll()


def apart(world):
    """Keys on which the two sides do not agree."""
    rows = set(world.legacy("SELECT id, title FROM note")) ^ set(world.target("SELECT id, title FROM catalog.note"))
    return {key for key, _ in rows}


@contextmanager
def writer(world):
    """A transaction of the monolith's, to be committed in the block."""
    with closing(psycopg2.connect(world.monolith.admin_url)) as connection:
        yield connection


@pytest.mark.hazard(2)
def test_what_commits_between_the_look_at_sessions_and_the_read_is_not_lost(world, stamped, monkeypatch):
    """Whichever of both comes first, the transaction ends in between: seen as open, or read, or both."""
    look, read, began = watermark.observe, watermark.pages, []

    def between(act):
        def acted(*arguments):
            if began:
                late.commit()
            began.append(act)
            return act(*arguments)

        return acted

    def read_at_once(*arguments):
        return iter(list(read(*arguments)))

    with polling(stamped) as poll, writer(world) as late:
        poll()
        late.cursor().execute(WRITE, (1, "in between"))
        with monkeypatch.context() as patch:
            patch.setattr(watermark, "observe", between(look))
            patch.setattr(watermark, "pages", between(read_at_once))
            poll()
        assert len(began) == 2
        poll()
    assert apart(world) == set()


@pytest.mark.hazard(4)
@pytest.mark.hazard(5)
def test_neither_numbers_nor_stamps_nor_savepoints_say_who_commits_first(world, stamped):
    """Three transactions: numbered 1, 2, 3, stamped 3, 2, 1, committed 2, 3, 1, with a poll at each turn."""
    stamp = "INSERT INTO note VALUES (%s, 'a note', clock_timestamp())"
    with ExitStack() as stack, polling(stamped) as poll:
        poll()
        first, second, third = writers = [stack.enter_context(writer(world)) for _ in range(3)]
        for each in writers:
            each.cursor().execute("SELECT pg_current_xact_id()")
        for key, each in ((3, third), (2, second), (1, first)):
            each.cursor().execute("SAVEPOINT inside")
            each.cursor().execute(stamp, (key,))
            each.cursor().execute("RELEASE SAVEPOINT inside")
            poll()
        for each in (second, third, first):
            each.commit()
            poll()
    assert world.target("SELECT id FROM catalog.note ORDER BY 1") == [(1,), (2,), (3,)]


@pytest.mark.hazard(15)
def test_rows_of_one_stamp_go_over_the_edges_of_pages(world, stamped, monkeypatch):
    monkeypatch.setattr(live, "_PULL_ROWS", 7)
    world.legacy("INSERT INTO note SELECT n, 'at one time', now() FROM generate_series(1, 100) n")
    poll_once(stamped)
    assert world.target("SELECT count(*) FROM catalog.note") == [(100,)]


@pytest.mark.hazard(16)
def test_a_stamp_in_the_future_hides_no_other_and_what_bears_none_is_swept(world, stamped):
    world.legacy("INSERT INTO note VALUES (1, 'of tomorrow', now() + interval '1 day'), (2, 'of no time', NULL)")
    poll_once(stamped)
    world.legacy(WRITE, (3, "of now"))
    poll_once(stamped)
    assert apart(world) == {2}
    assert sweep(stamped).changed == 1
    assert live.work(stamped, lambda *_: None)
    assert apart(world) == set()


@pytest.mark.hazard(20)
def test_events_in_the_wrong_order_and_twice_bring_the_row_as_it_is(world, noted, monkeypatch):
    """Each is a batch of its own, as if several had claimed them."""
    monkeypatch.setattr(live, "_PULL_ROWS", 1)
    world.legacy("ALTER TABLE note DISABLE TRIGGER USER")
    world.legacy(WRITE, (1, "the first edit"))
    world.legacy(EVENT, ("1",))
    poll_once(noted)
    world.legacy(WRITE, (1, "the second edit"))
    for key in (1, 2, 1, 1):  # the second edit's, one of a row that is gone, the first one's, again
        world.legacy(EVENT, (str(key),))
    poll_once(noted)
    assert world.target("SELECT id, title FROM catalog.note") == [(1, "the second edit")]
    assert world.legacy("SELECT count(*) FROM outbox WHERE processed_at IS NULL") == [(0,)]


@pytest.mark.hazard(21)
def test_acknowledged_events_are_removed_a_few_at_a_time(world, noted):
    world.legacy("INSERT INTO note SELECT n, 'a note', now() FROM generate_series(1, 2500) n")
    poll_once(noted)
    world.legacy("UPDATE outbox SET processed_at = now() - interval '2 days' WHERE aggregate_id <> '7'")
    left = []
    with polling(noted) as poll:
        for _ in range(3):
            poll()
            left += world.legacy("SELECT count(*) FROM outbox")[0]
    assert left == [1_500, 500, 1]
    assert world.legacy("SELECT aggregate_id FROM outbox") == [("7",)]


def test_a_poll_removes_more_events_than_it_acknowledges(world, noted):
    """Else they would grow where somebody looks once a minute."""
    write = "INSERT INTO note SELECT n, 'a note', now() FROM generate_series({}, {}) n"
    world.legacy(write.format(1, 2_500))
    poll_once(noted)
    world.legacy("UPDATE outbox SET processed_at = now() - interval '2 days'")
    world.legacy(write.format(2_501, 3_700))
    poll_once(noted)
    assert world.legacy("SELECT count(*) FROM outbox") == [(1_200,)]


@pytest.mark.hazard(52)
def test_while_a_transaction_is_open_looks_begin_where_the_last_ones_ended(world, noted, monkeypatch):
    """And an event that commits below that comes with the next whole look; until then nobody is told that it came."""
    now = iter([0.0, 0.0, 20.0, 40.0, 1e12, 1e12])
    monkeypatch.setattr(scans, "time", SimpleNamespace(monotonic=lambda: next(now)))
    monkeypatch.setattr(scans, "_CHEAP_SECONDS", 0.0)
    monkeypatch.setattr(scans, "_PART", 1e-9)
    through = "SELECT applied_through FROM sync.cursor"
    with writer(world) as late, polling(noted) as poll:
        late.cursor().execute(WRITE, (1, "late"))
        world.legacy(WRITE, (2, "first"))
        poll()
        told = world.target(through)
        poll()
        late.commit()
        world.legacy(WRITE, (3, "next"))
        poll()
        assert apart(world) == {1}
        assert world.target(through) == told
        poll()
        assert apart(world) == set()
        assert world.target(through) > told


@pytest.mark.hazard(49)
@pytest.mark.parametrize("source", ["stamped", "noted"])
def test_no_transaction_of_ours_is_open_in_the_monolith_while_the_new_side_works(world, source, request):
    """Neither a lock nor a snapshot, from the adapter on until the cursor has moved."""
    context, seen = request.getfixturevalue(source), []
    ours = "SELECT query FROM pg_stat_activity WHERE usename = 'sync_reader' AND xact_start IS NOT NULL"
    ours += " AND datname = current_database()"

    def adapt(legacy):
        seen.append(world.legacy(ours))
        return context.entity.adapt(legacy)

    world.legacy(WRITE, (1, "slowly"))
    poll_once(replace(context, entity=replace(context.entity, adapt=adapt)))
    assert apart(world) == set()
    assert seen
    assert not any(seen)
