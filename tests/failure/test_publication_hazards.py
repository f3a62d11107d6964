"""What happens to a publication and its tables under a follower: nothing vanishes; the source stops, or has it swept.

Each poll is ours, and no sweep helps. `outcome` says what became of a change that the log did not tell whole.
"""

from contextlib import closing
from dataclasses import replace

import pandas as pd
import pytest

from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.errors import DeclarationError, SettingError
from sync_pipeline.ledger.cursor import Lease
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.run import live
from sync_pipeline.run.capture import open_cursor, resumed
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources import wal
from sync_pipeline.sources.table import Table
from sync_pipeline.sources.wal import Wal
from sync_pipeline.stores.stores import Stores
from tests.installed import made, unmade
from tests.world import opened, wait_for

MONOLITH = """
    CREATE TABLE note (id bigint PRIMARY KEY);
    CREATE TABLE mark (id bigint NOT NULL, note bigint) PARTITION BY RANGE (id);
    CREATE TABLE mark_a PARTITION OF mark (PRIMARY KEY (id)) FOR VALUES FROM (0) TO (10);
    CREATE TABLE mark_b PARTITION OF mark FOR VALUES FROM (10) TO (20);
    CREATE TABLE word (id bigint PRIMARY KEY, note bigint);
    CREATE TABLE heir () INHERITS (word);
    GRANT SELECT ON ALL TABLES IN SCHEMA public TO sync_reader;
"""
QUERY = """
    SELECT id, (SELECT count(*) FROM mark WHERE note = n.id) + (SELECT count(*) FROM word WHERE note = n.id) AS children
    FROM note n
"""
NOTE = Entity(
    name="note",
    owner="team:tests",
    origin=LegacyQuery(QUERY, key=("id",)),
    tables=(Table("note", key=("id",)), Table("mark", key=("note",)), Table("word", key=("note",))),
    capture=Wal(),
    adapt=lambda legacy: pd.DataFrame({name: legacy[name] for name in ("id", "children")}),
    sinks=(RelationalTable("catalog.note", key=("id",), columns={"id": "bigint", "children": "bigint"}),),
    partitions=KeyRanges(1),
)
STOPPED, SWEPT, LOST, ARRIVED = "stopped", "swept", "lost", "arrived"
LAST = 1_000


@pytest.fixture(scope="module")
def world(fleet):
    with opened(fleet, "publication_hazards", SYNC_SWEEP_SECONDS="1e9") as world:
        yield world


@pytest.fixture
def context(world):
    """Two notes with children, over on the new side."""
    world.legacy(MONOLITH)
    context = EntityContext.open(NOTE, world.stores)
    for statement in made(context):
        world.legacy(statement)
    world.target("UPDATE sync.cursor SET state = NULL, gap_at = NULL")
    open_cursor(context)
    world.legacy(
        "INSERT INTO note VALUES (1), (2); INSERT INTO mark VALUES (1, 1), (2, 2), (11, 1), (12, 2);"
        " INSERT INTO word VALUES (1, 1); INSERT INTO heir VALUES (2, 2)"
    )
    with Polling(context) as poll:
        wait_for(lambda: poll() is None and apart(world) == set())
    yield context
    wait_for(lambda: world.legacy("SELECT 1 FROM pg_replication_slots WHERE active_pid IS NOT NULL") == [])
    for statement in unmade(context):
        world.legacy(statement)
    world.legacy("DROP TABLE note, mark, word CASCADE; DROP TABLE IF EXISTS mark_a, stray")
    world.target("TRUNCATE catalog.note, sync.ledger_note, sync.due")


class Polling:
    """A function that polls once, as a source that is opened anew."""

    def __init__(self, context):
        self.context = context

    def __enter__(self):
        self.lease = Lease.take(self.context.stores, "note", "test")
        self.source = None
        return self.poll

    def poll(self):
        self.source = self.source or resumed(self.context)
        live.poll(self.context, self.lease, self.source, lambda *_: None, keep_idle=True)

    def __exit__(self, *_):
        if self.source:
            self.source.close()
        self.lease.give_back(self.context.stores)


def apart(world):
    """Notes on which the two sides do not agree."""
    return {key for key, *_ in set(world.legacy(QUERY)) ^ set(world.target("SELECT * FROM catalog.note"))}


def outcome(world, poll):
    """What became of a change, once all that was committed by now has been read; or that the source stopped before."""
    world.legacy("INSERT INTO note VALUES (%s) ON CONFLICT DO NOTHING", [LAST])
    ((now,),) = world.legacy("SELECT clock_timestamp()")
    passed = "SELECT 1 FROM sync.cursor WHERE entity = 'note' AND applied_through > %s"
    try:
        wait_for(lambda: poll() or world.target(passed, [now]))
    except (DeclarationError, SettingError):
        return STOPPED
    if world.target("SELECT gap_at FROM sync.cursor WHERE entity = 'note'") != [(None,)]:
        return SWEPT
    return LOST if apart(world) else ARRIVED


BORN = "CREATE TABLE mark_new PARTITION OF mark (PRIMARY KEY (id)) FOR VALUES FROM (20) TO (30); "
ATTACHED = (
    "CREATE TABLE mark_new (LIKE mark, PRIMARY KEY (id)); INSERT INTO mark_new VALUES (21, 1);"
    " ALTER TABLE mark_new REPLICA IDENTITY FULL;"
    " ALTER TABLE mark ATTACH PARTITION mark_new FOR VALUES FROM (20) TO (30); "
)
# by hazard: what is done under a follower, what becomes of it, and what would without the guard
SCENES = {
    "a new leaf that logs its key alone": (
        55,
        [BORN, "INSERT INTO mark VALUES (21, 1)", "DELETE FROM mark WHERE id = 21"],
    ),
    "a leaf that logs its key alone from now on": (
        55,
        ["ALTER TABLE mark_a REPLICA IDENTITY DEFAULT", "DELETE FROM mark WHERE id = 1"],
    ),
    "a leaf emptied": (56, ["TRUNCATE mark_a"]),
    "a leaf detached": (56, ["ALTER TABLE mark DETACH PARTITION mark_a"]),
    "a leaf dropped": (56, ["DROP TABLE mark_b"]),
    "a leaf attached with its rows": (56, [ATTACHED]),
    "a publication dropped for a moment": (57, None),
}
AFTER = {"a new leaf that logs its key alone": STOPPED, "a leaf that logs its key alone from now on": STOPPED}


def play(world, context, scene, monkeypatch):
    hazard, statements = SCENES[scene]
    # the stream itself tells of leaves before the next look, and of nothing when they are emptied
    monkeypatch.setattr(wal, "WATCH_SECONDS", 0.0 if hazard == 56 else 1e9)
    with Polling(context) as poll:
        poll()
        if statements is None:
            statements = recreation(context)
        *first, last = statements
        for statement in first:
            world.legacy(statement)
            if outcome(world, poll) == STOPPED:
                return STOPPED
        world.legacy(last)
        return outcome(world, poll)


def recreation(context):
    create = [s for s in made_anew(context) if "PUBLICATION" in s]
    return ["; ".join(["DROP PUBLICATION sync_note", "COMMIT", "DELETE FROM word WHERE id = 1", "COMMIT", *create])]


def made_anew(context):
    """The statements of an install where there is none, in their order."""
    with closing(Stores(replace(context.stores.settings, slot_prefix="other"))) as stores:
        return [s.replace("other_note", "sync_note") for s in made(EntityContext.open(NOTE, stores))]


@pytest.mark.parametrize("scene", [pytest.param(s, marks=pytest.mark.hazard(h)) for s, (h, _) in SCENES.items()])
def test_what_the_log_does_not_tell_stops_the_source_or_is_swept(world, context, scene, monkeypatch):
    assert play(world, context, scene, monkeypatch) == AFTER.get(scene, SWEPT)


@pytest.mark.parametrize("scene", [pytest.param(s, marks=pytest.mark.hazard(h)) for s, (h, _) in SCENES.items()])
def test_without_its_guard_it_is_lost(world, context, scene, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", str(SCENES[scene][0]))
    assert play(world, context, scene, monkeypatch) == LOST


@pytest.mark.hazard(55)
def test_a_source_that_stopped_goes_on_after_install_and_has_the_past_swept(world, context):
    """The log keeps what was logged under the wrong identity: it must not stop the source for ever."""
    with Polling(context) as poll:
        poll()
        world.legacy("ALTER TABLE mark_a REPLICA IDENTITY DEFAULT")
        world.legacy("DELETE FROM mark WHERE id = 1")
        assert outcome(world, poll) == STOPPED
    with Polling(context) as poll:
        assert outcome(world, poll) == STOPPED
    for statement in made(context):
        world.legacy(statement)
    with Polling(context) as poll:
        wait_for(lambda: poll() or world.target("SELECT 1 FROM catalog.note WHERE id = %s", [LAST]))
        assert world.target("SELECT gap_at IS NOT NULL FROM sync.cursor WHERE entity = 'note'") == [(True,)]


@pytest.mark.hazard(55)
def test_a_table_that_the_entity_does_not_know_stops_the_source(world, context, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "57")  # the stream alone must tell
    with Polling(context) as poll:
        poll()
        world.legacy("CREATE TABLE stray (id int PRIMARY KEY); ALTER PUBLICATION sync_note ADD TABLE stray")
        world.legacy("INSERT INTO stray VALUES (1)")
        with pytest.raises(DeclarationError, match=r"tells of public\.stray, which is none of the entity's tables"):
            wait_for(poll)


@pytest.mark.hazard(55)
def test_a_table_that_left_the_publication_is_swept_and_not_stopped_at(world, context):
    """The log may still hold its changes: they must not stop the source for ever."""
    world.legacy("CREATE TABLE stray (id int PRIMARY KEY); ALTER PUBLICATION sync_note ADD TABLE stray")
    world.legacy("INSERT INTO stray VALUES (1)")
    world.legacy("ALTER PUBLICATION sync_note DROP TABLE stray")
    with Polling(context) as poll:
        assert outcome(world, poll) == SWEPT


@pytest.mark.hazard(54)
def test_what_happens_to_leaves_and_heirs_arrives(world, context):
    with Polling(context) as poll:
        poll()
        world.legacy(
            "DELETE FROM mark_a WHERE id = 1; UPDATE mark_b SET note = 1 WHERE id = 12;"
            " INSERT INTO mark VALUES (13, 2); UPDATE heir SET note = 1; DELETE FROM ONLY word;"
            " UPDATE mark SET id = 14 WHERE id = 2"
        )
        assert outcome(world, poll) == ARRIVED


@pytest.fixture
def only_roots(monkeypatch):
    """Has an install publish no heirs."""
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "54")


@pytest.mark.hazard(54)
@pytest.mark.usefixtures("only_roots")
def test_without_its_guard_what_happens_to_heirs_is_lost(world, context):
    with Polling(context) as poll:
        poll()
        world.legacy("UPDATE heir SET note = 1")
        assert outcome(world, poll) == LOST


@pytest.mark.hazard(57)
@pytest.mark.parametrize(
    "statement",
    [
        "DROP PUBLICATION sync_note",
        "ALTER PUBLICATION sync_note DROP TABLE word",
        "ALTER PUBLICATION sync_note SET (publish = 'insert, update')",
        "ALTER PUBLICATION sync_note SET TABLE note, mark, ONLY word, ONLY heir (id)",
    ],
)
def test_a_publication_that_leaves_something_out_stops_the_source_while_nothing_is_written(world, context, statement):
    with Polling(context) as poll:
        poll()
        world.legacy(statement)
        with pytest.raises(DeclarationError, match="wal install note"):
            wait_for(poll)


@pytest.mark.hazard(60)
def test_a_publication_that_another_ledger_takes_over_stops_the_source(world, context):
    with Polling(context) as poll:
        poll()
        world.legacy(
            """COMMENT ON PUBLICATION sync_note IS 'made by: sync-pipeline wal install {"ledger": "deadbeef"}'"""
        )
        with pytest.raises(SettingError, match="belong to ledger deadbeef"):
            wait_for(poll)
    world.legacy("COMMENT ON PUBLICATION sync_note IS NULL")


# how the state of the last poll is falsified: as if the server had failed over and lost what we have read
AHEAD = {
    "beyond the log's end": "jsonb_build_object('lsn', (state ->> 'lsn')::bigint + 3000000)",
    "on a timeline that the server's does not descend from": "jsonb_build_object('timeline', 7)",
    "in another server's log": "jsonb_build_object('system', '1')",
}


def ahead(world, context, how):
    world.target(f"UPDATE sync.cursor SET state = state || {AHEAD[how]} WHERE entity = 'note'")
    world.legacy("DELETE FROM mark WHERE id = 1")
    with Polling(context) as poll:
        return outcome(world, poll)


@pytest.mark.hazard(58)
@pytest.mark.parametrize("how", AHEAD)
def test_a_position_that_is_not_in_the_servers_log_is_a_gap(world, context, how):
    assert ahead(world, context, how) == SWEPT


@pytest.mark.hazard(58)
def test_without_its_guard_a_position_beyond_the_log_passes_commits_over(world, context, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "58")
    assert ahead(world, context, "beyond the log's end") == LOST


@pytest.mark.hazard(58)
def test_a_state_from_before_timelines_were_kept_is_no_gap(world, context):
    world.target("UPDATE sync.cursor SET state = state - 'timeline' - 'publication' - 'members' WHERE entity = 'note'")
    world.legacy("DELETE FROM mark WHERE id = 1")
    with Polling(context) as poll:
        assert outcome(world, poll) == ARRIVED
