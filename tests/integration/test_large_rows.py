"""Pages of large rows: each is cut where its bytes reach the setting, and all rows arrive whatever their size."""

from contextlib import closing
from dataclasses import replace

import pandas as pd
import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.origin import Origin
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.ledger.cursor import Lease
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.pipeline import sync_keys, sync_roots
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run import live
from sync_pipeline.run.backfill import backfill
from sync_pipeline.run.capture import open_cursor, resumed
from sync_pipeline.run.sweep import sweep
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.table import Table
from sync_pipeline.sources.watermark import Watermark
from sync_pipeline.stores.stores import Stores
from tests.world import opened

MOST, WIDE, ROWS = 100_000, 20_000, 60
MONOLITH = """
    CREATE TABLE clip (id bigint PRIMARY KEY, body text, updated_at timestamptz NOT NULL DEFAULT now());
    CREATE INDEX ON clip (updated_at);
    GRANT SELECT ON clip TO sync_reader;
"""
CLIP = Entity(
    name="clip",
    owner="team:tests",
    origin=LegacyQuery("SELECT id, body FROM clip", key=("id",)),
    tables=(Table("clip", key=("id",), stamp="updated_at"),),
    capture=Watermark(),
    adapt=lambda legacy: pd.DataFrame({"id": legacy["id"], "body": legacy["body"]}),
    sinks=(RelationalTable("catalog.clip", key=("id",), columns={"id": "bigint", "body": "text"}),),
    partitions=KeyRanges(1),
)
PARTS = replace(
    CLIP,
    origin=LegacyQuery("SELECT id, part, body FROM clip, generate_series(1, 3) part", key=("id", "part"), root=("id",)),
    adapt=lambda legacy: pd.DataFrame({name: legacy[name] for name in ("id", "part", "body")}),
    sinks=(
        RelationalTable(
            "catalog.clip", key=("id", "part"), columns={"id": "bigint", "part": "integer", "body": "text"}
        ),
    ),
)


@pytest.fixture(scope="module")
def world(fleet):
    with opened(
        fleet, "large_rows", SYNC_SWEEP_SECONDS="1e9", SYNC_RECHECK_SECONDS="0.1", SYNC_MARGIN_SECONDS="0"
    ) as world:
        world.legacy(MONOLITH)
        yield world


@pytest.fixture
def stores(world):
    with closing(Stores(replace(world.stores.settings, chunk_bytes=MOST))) as stores:
        yield stores
    world.legacy("TRUNCATE clip")
    world.target("DROP TABLE IF EXISTS catalog.clip, sync.ledger_clip, sync.root_clip CASCADE")
    world.target("TRUNCATE sync.due, sync.backfill; DELETE FROM sync.cursor")


@pytest.fixture(params=[CLIP, PARTS], ids=["rows", "parts"])
def context(request, world, stores):
    """Wide rows between narrow ones, and one that is larger than a page."""
    world.legacy(
        "INSERT INTO clip SELECT n, CASE WHEN n %% 3 > 0 THEN repeat(chr(65 + n %% 26), %s) ELSE 'narrow' END"
        " FROM generate_series(1, %s) n",
        [WIDE, ROWS],
    )
    world.legacy("UPDATE clip SET body = repeat('x', %s) WHERE id = 7", [3 * MOST])
    context = EntityContext.open(request.param, stores)
    open_cursor(context)
    return context


@pytest.fixture
def sizes(monkeypatch):
    """The bytes of each text that was read of rows."""
    seen, read = [], Origin._text

    def spied(self, cursor, query, most):
        text, is_cut = read(self, cursor, query, most)
        seen.append(len(text))
        return text, is_cut

    monkeypatch.setattr(Origin, "_text", spied)
    return seen


def apart(world):
    """Keys on which the two sides do not agree."""
    there = dict(world.legacy("SELECT id, md5(body) FROM clip"))
    return {
        key for key, body in world.target("SELECT id, md5(body) FROM catalog.clip") if there.pop(key, body) != body
    } | (there.keys() - {key for (key,) in world.target("SELECT id FROM catalog.clip")})


def check(context, sizes, reads):
    """No text holds more than the setting and one row, or a root; little is read in vain of what `reads` reads need."""
    parts = 3 if context.origin.has_parts else 1
    assert max(sizes) <= (3 * parts * MOST if parts > 1 else 4 * MOST) + 1_000
    assert sum(sizes) <= 2.5 * reads * parts * (ROWS * 2 // 3 * WIDE + 3 * MOST)


@pytest.mark.hazard(89)
def test_history_comes_in_pages_of_so_many_bytes(world, context, sizes):
    backfill(context, context.entity.partitions.names()[0])
    assert apart(world) == set()
    assert sweep(context).changed == 0
    assert reconcile(context).status == "clean"
    check(context, sizes, reads=2)


@pytest.mark.hazard(89)
def test_a_poll_comes_in_batches_of_so_many_bytes(world, context, sizes):
    world.legacy("UPDATE clip SET updated_at = now()")
    lease, outcomes = Lease.take(context.stores, "clip", "test"), []
    with closing(resumed(context)) as source:
        live.poll(context, lease, source, lambda _, outcome: outcomes.append(outcome), keep_idle=True)
    lease.give_back(context.stores)
    assert apart(world) == set()
    assert sum(outcome.written for outcome in outcomes) == len(world.target("SELECT 1 FROM catalog.clip"))
    check(context, sizes, reads=1)


@pytest.mark.hazard(89)
def test_what_an_order_commits_is_committed_with_the_last_part_alone(world, context):
    committed = []

    def commit(cursor, _):
        cursor.execute("SELECT count(DISTINCT id) FROM catalog.clip")
        committed.append(cursor.fetchone()[0])

    roots = context.origin.root.parse([str(n) for n in range(1, ROWS + 10)])
    sync_roots(context, roots, Order(acknowledge=True, commit=commit))
    assert committed == [ROWS]
    world.legacy("DELETE FROM clip WHERE id = 1")
    sync_roots(context, roots, Order(acknowledge=True, commit=commit))
    assert committed == [ROWS, ROWS - 1]


@pytest.mark.hazard(89)
@pytest.mark.parametrize("guards", ["", "89"])
def test_a_poll_that_is_cut_off_between_two_parts_is_begun_again(world, context, monkeypatch, guards):
    """The parts commit one by one, and the cursor must not pass rows of a part that has not been written."""

    class CutOffError(BaseException):
        pass

    def poll():
        lease = Lease.take(context.stores, "clip", "test")
        with closing(resumed(context)) as source:
            live.poll(context, lease, source, lambda *_: None, keep_idle=True)
        lease.give_back(context.stores)

    applied, apply = [], type(context.ledger).apply

    def cut_off(*arguments):
        applied.append(1)
        if len(applied) > 2:
            raise CutOffError
        return apply(*arguments)

    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", guards)
    world.legacy("UPDATE clip SET updated_at = now()")
    with monkeypatch.context() as patch:
        patch.setattr(type(context.ledger), "apply", cut_off)
        with pytest.raises(CutOffError):
            poll()
    world.target("UPDATE sync.cursor SET owner = NULL")
    poll()
    assert (apart(world) != set()) is bool(guards)


@pytest.mark.hazard(89)
def test_for_want_of_memory_a_batch_is_halved(world, context):
    """The adapter stands for whatever asks for too much at once."""

    def adapt(legacy):
        if len(legacy) > 6:
            raise MemoryError
        return context.entity.adapt(legacy)

    poor = replace(context, entity=replace(context.entity, adapt=adapt))
    backfill(poor, context.entity.partitions.names()[0])
    assert apart(world) == set()
    world.legacy("UPDATE clip SET body = 'edited'")
    sync_roots(poor, context.origin.root.parse([str(n) for n in range(1, ROWS + 1)]), Order())
    assert apart(world) == set()
    assert world.target("SELECT 1 FROM sync.due") == []


@pytest.mark.hazard(89)
def test_a_row_that_alone_wants_too_much_memory_is_parked(world, context):
    def adapt(legacy):
        if (legacy["id"] == 5).any():
            raise MemoryError("of the fifth")
        return context.entity.adapt(legacy)

    poor = replace(context, entity=replace(context.entity, adapt=adapt))
    if context.origin.has_parts:  # a root is adapted whole
        with pytest.raises(MemoryError):
            backfill(poor, context.entity.partitions.names()[0])
        return
    backfill(poor, context.entity.partitions.names()[0])
    assert apart(world) == {5}
    assert world.target("SELECT key, error FROM sync.due") == [("5", "MemoryError")]


@pytest.mark.hazard(86)
@pytest.mark.parametrize("bad", [1, 30])
def test_a_row_that_the_server_cannot_write_is_parked_alone(world, stores, bad):
    """PostgreSQL holds no text of more than a gigabyte; the first of a page left an empty chunk before the others."""
    world.legacy("INSERT INTO clip SELECT n, 'narrow' FROM generate_series(1, %s) n", [ROWS])
    sql = (
        f"SELECT id, CASE WHEN id = {bad} THEN repeat('x', (id * 0 + 1100000000)::int) ELSE body END AS body FROM clip"
    )
    context = EntityContext.open(replace(CLIP, origin=LegacyQuery(sql, key=("id",))), stores)
    backfill(context, context.entity.partitions.names()[0])
    assert apart(world) == {bad}
    ((key, error, message),) = world.target("SELECT key, error, message FROM sync.due")
    assert (key, error) == (str(bad), "RowTooLongError")
    assert "larger than PostgreSQL can write" in message
    assert sweep(context).changed == 1
    keys = context.origin.key.parse([str(n) for n in range(1, ROWS + 1)])
    world.legacy("UPDATE clip SET body = 'edited'")
    sync_keys(context, keys, Order())
    assert apart(world) == {bad}


@pytest.mark.hazard(86)
def test_a_row_longer_than_a_block_of_the_reader_arrives(world, stores):
    """70 MB alone in its batch, and between others."""
    world.legacy("INSERT INTO clip SELECT n, 'narrow' FROM generate_series(1, 4) n")
    world.legacy("UPDATE clip SET body = repeat('lorem ipsum ', 70 * 1000000 / 12) WHERE id = 2")
    context = EntityContext.open(CLIP, stores)
    sync_keys(context, context.origin.key.parse(["2"]), Order())
    assert apart(world) == {1, 3, 4}
    sync_keys(context, context.origin.key.parse(["1", "2", "3", "4"]), Order(force=True))
    assert apart(world) == set()
