"""Parts whose table identifies them by an id of their own: they move, in any order of batches, and are never lost."""

import time
from dataclasses import replace
from functools import partial
from itertools import permutations, product

import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.page_size import PageSize
from sync_pipeline.errors import DeclarationError
from sync_pipeline.explain.why import why
from sync_pipeline.operate.repair import repair
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.rebuild.rebuild import clear, rebuild_table
from sync_pipeline.rebuild.report import COMPARED, FILLED
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run import live
from sync_pipeline.run.backfill import backfill
from sync_pipeline.run.sweep import sweep
from tests.installed import world_of_parts
from tests.posters import FILES, MONOLITH, PLAIN, POSTER, UNDONE, Held, edited, put, see, stopping
from tests.rebuilt import Once
from tests.world import wait_for


@pytest.fixture(scope="module")
def world(fleet):
    with world_of_parts(fleet, "own_ids", MONOLITH, POSTER) as world:
        yield world


@pytest.fixture
def context(world, monkeypatch):
    """An empty entity; at the end both sides agree, by the engine's own word and by ours."""
    context = EntityContext.open(POSTER, world.stores)
    yield context
    monkeypatch.delenv("SYNC_TEST_GUARDS_OFF", raising=False)
    work(world, context)
    assert agreed(world, context)
    empty(world, context)


def empty(world, context):
    world.legacy("TRUNCATE poster; TRUNCATE outbox; TRUNCATE film")
    world.legacy("INSERT INTO film SELECT n, 'film ' || n FROM generate_series(1, 9) n")
    repair(context, reconcile(context).findings)
    assert agreed(world, context)
    world.target("TRUNCATE sync.ledger_poster, sync.roots_poster, sync.backfill, sync.due")


def work(world, context):
    """Everything that is due."""
    for _ in range(40):
        world.hurry("true")
        if not live.work(context, lambda *_: None):
            return
    raise AssertionError(f"it never ends: {world.target('SELECT reason, keys FROM sync.due')}")


def agreed(world, context):
    legacy = set(world.legacy(f"SELECT film_id, id, title, film FROM ({POSTER.origin.sql}) q"))
    assert set(world.target("SELECT film_id, id, title, film FROM catalog.poster")) == legacy
    world.document("POST", "poster/_refresh")
    hits = world.document("GET", "poster/_search?size=1000")["hits"]["hits"]
    documents = {(hit["_source"]["film_id"], hit["_source"]["id"], hit["_source"]["title"]) for hit in hits}
    assert documents == {row[:3] for row in legacy}
    assert reconcile(context).findings == []
    return True


def clean(world, context):
    """Of an entity beside the fixture's nothing is left, neither in its table nor owed."""
    world.legacy("TRUNCATE poster, outbox")
    repair(context, reconcile(context).findings)
    see(context, *range(1, 10))
    work(world, context)
    assert rows(world, context.entity.name) == []
    assert world.target("SELECT * FROM sync.due WHERE entity = %s", [context.entity.name]) == []


def rows(world, table="poster"):
    return world.target(f"SELECT film_id, id, title FROM catalog.{table} ORDER BY id")


def due(world):
    return world.target("SELECT reason, keys FROM sync.due ORDER BY id")


# Batches, each of one film. The old ones read before the poster moves from film 1 to film 2, the new ones after it.
OLD, NEW = ("old 1", "old 2"), ("new 1", "new 2")
MOVED = [(2, 7, "moved")]


def play(world, context, step, reads, writes):
    """The new ones read in one order, all write in another. A row that has left its former film does not go back."""
    put(world, 1, 7, "edited")
    batches = {name: Held(partial(see, context, name[-1]), step) for name in OLD}
    put(world, 2, 7, "moved")
    batches |= {name: Held(partial(see, context, name[-1]), step) for name in reads}
    arrived = False
    for name in writes:
        batches[name].let_go()
        arrived = arrived or rows(world, "plain") == MOVED
        assert not arrived or rows(world, "plain") == MOVED, (name, reads, writes)


@pytest.mark.hazard(144)
@pytest.mark.parametrize(
    ("step", "known"),
    [
        pytest.param("write", False, id="write-unknown"),
        pytest.param("write", True, id="write-known", marks=pytest.mark.long),
        pytest.param("prepare", True, id="prepare-known"),
        pytest.param("prepare", False, id="prepare-unknown", marks=pytest.mark.long),
    ],
)
def test_a_part_moves_in_any_order_of_batches(world, step, known):
    """All 48 orders of two old and two new batches, one for each film."""
    context = EntityContext.open(PLAIN, world.stores)
    for reads, writes in product(permutations(NEW), permutations(OLD + NEW)):
        if known:
            put(world, 1, 7)
            see(context, 1, 2)
        with stopping():
            play(world, context, step, reads, writes)
        work(world, context)
        assert rows(world, "plain") == MOVED, (reads, writes)
        assert world.target("SELECT film_id, id FROM sync.ledger_plain WHERE digest IS NOT NULL") == [(2, 7)]
        world.legacy("TRUNCATE poster, outbox")
        world.target("TRUNCATE sync.ledger_plain, sync.roots_plain, sync.due, catalog.plain")


def moved_behind_a_stalled_batch(world, context):
    """A batch reads a new poster and stalls; the poster moves, and its new film is seen first."""
    put(world, 1, 7)
    with stopping():
        old = Held(lambda: see(context, 1), "write")
        put(world, 2, 7, "moved")
        see(context, 2)
        old.let_go()


@pytest.mark.hazard(144)
def test_an_older_batch_takes_no_part_back(world, context):
    moved_behind_a_stalled_batch(world, context)
    assert rows(world) == [(2, 7, "moved")]
    assert due(world) == [("moved", ['["1","7"]', '["2","7"]'])]
    work(world, context)
    assert due(world) == []


@pytest.mark.hazard(144)
def test_without_its_guard_an_older_batch_takes_a_part_back_and_its_former_film_removes_it(world, context, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "144")
    moved_behind_a_stalled_batch(world, context)
    assert rows(world) == [(1, 7, "as it was")]
    see(context, 1)
    assert rows(world) == []
    assert {finding.kind for finding in reconcile(context).findings} == {"missing"}
    monkeypatch.delenv("SYNC_TEST_GUARDS_OFF")
    repair(context, reconcile(context).findings)


@pytest.mark.hazard(144)
@pytest.mark.parametrize("films", [[(1, 2)], [(1,), (2,)], [(2,), (1,)]], ids=str)
def test_two_parts_exchange_their_roots_in_one_transaction(world, context, films):
    put(world, 1, 7, "seven")
    put(world, 2, 8, "eight")
    see(context, 1, 2)
    world.legacy("UPDATE poster SET film_id = 3 - film_id")
    for each in films:
        see(context, *each)
    work(world, context)
    assert rows(world) == [(2, 7, "seven"), (1, 8, "eight")]


def test_one_batch_moves_a_row_in_its_place_with_what_refers_to_it(world, context):
    """A foreign key of the new side's own goes by the id; columns that are not ours stay as they are."""
    world.target(
        "ALTER TABLE catalog.poster ADD note text; CREATE TABLE catalog.wall (poster bigint"
        " REFERENCES catalog.poster (id))"
    )
    try:
        put(world, 1, 7)
        see(context, 1)
        world.target("UPDATE catalog.poster SET note = 'ours'; INSERT INTO catalog.wall VALUES (7)")
        put(world, 2, 7, "moved")
        see(context, 1, 2)
        assert world.target("SELECT film_id, id, title, note FROM catalog.poster") == [(2, 7, "moved", "ours")]
        put(world, 3, 7, "again")
        see(context, 3)  # the new film alone: the former one is read with it
        work(world, context)
        assert world.target("SELECT film_id, id, title, note FROM catalog.poster") == [(3, 7, "again", "ours")]
        assert world.target("SELECT * FROM catalog.wall") == [(7,)]
    finally:
        world.target("DROP TABLE catalog.wall; ALTER TABLE catalog.poster DROP note")


def test_a_row_that_others_refer_to_stays_until_it_can_move_in_its_place(world, context):
    """The former film is seen first, and a foreign key keeps its row."""
    world.target("CREATE TABLE catalog.wall (poster bigint REFERENCES catalog.poster (id))")
    try:
        put(world, 1, 7)
        see(context, 1)
        world.target("INSERT INTO catalog.wall VALUES (7)")
        put(world, 2, 7, "moved")
        see(context, 1)
        assert rows(world) == [(1, 7, "as it was")]
        see(context, 2)
        work(world, context)
        assert rows(world) == [(2, 7, "moved")]
        assert due(world) == []
    finally:
        world.target("DROP TABLE catalog.wall")


def test_moved_parts_exchange_a_unique_value(world, context):
    world.target("CREATE UNIQUE INDEX once ON catalog.poster (title)")
    try:
        put(world, 1, 7, "one")
        put(world, 2, 8, "two")
        see(context, 1, 2)
        world.legacy("UPDATE poster SET film_id = 3 - film_id, title = CASE title WHEN 'one' THEN 'two' ELSE 'one' END")
        see(context, 1, 2)
        assert rows(world) == [(2, 7, "two"), (1, 8, "one")]
        assert due(world) == []
    finally:
        world.target("DROP INDEX catalog.once")


def test_two_batches_that_exchange_parts_at_once_do_not_wait_for_each_other(world):
    """Each deletes what the other writes; a trigger makes them linger between the two."""
    context = EntityContext.open(PLAIN, world.stores)
    world.legacy("INSERT INTO poster SELECT n, 1 + mod(n, 2) FROM generate_series(1, 20) n")
    see(context, 1, 2)
    world.legacy("UPDATE poster SET film_id = 3 - film_id")
    world.target(
        "CREATE FUNCTION catalog.linger() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END';"
        "CREATE TRIGGER linger AFTER DELETE ON catalog.plain EXECUTE FUNCTION catalog.linger()"
    )
    with stopping():
        batches = [Held(partial(see, context, film), "write") for film in (1, 2)]
        for batch in batches:
            batch.go_on()
        for batch in batches:
            batch.let_go()
    world.target("DROP FUNCTION catalog.linger CASCADE")
    work(world, context)
    assert rows(world, "plain") == world.legacy("SELECT film_id, id, title FROM poster ORDER BY id")
    clean(world, context)


def test_two_roots_that_are_too_large_for_one_page_are_read_together_all_the_same(world, context):
    """Only so it shows that the query gives the poster twice."""
    context = replace(context, origin=replace(context.origin, page_size=PageSize(500)))
    for film, poster in ((1, 6), (1, 7), (2, 8)):
        put(world, film, poster, "x" * 2000)
    world.legacy("UPDATE poster SET also = 2 WHERE id = 7")
    see(context, 1)
    see(context, 2)
    work_once(world, context)
    assert world.target("SELECT reason, key, error FROM sync.due") == [("rejected", '["2","7"]', "RepeatedKey")]
    world.legacy("UPDATE poster SET also = NULL")
    see(context, 2)


def test_an_index_in_the_order_of_the_whole_key_is_asked_for(world, context):
    def said():
        return [notice.what for notice in POSTER.table.preflight(world.stores, POSTER.name) if notice.level != "ok"]

    assert said() == []
    world.target("DROP INDEX catalog.poster_film_id_id")
    missing = "no index gives the rows of catalog.poster in the order of its key: each comparison sorts all of them"
    assert said() == [missing]
    world.target("CREATE INDEX poster_film_id_id ON catalog.poster (film_id, id)")
    world.target(
        "ALTER TABLE catalog.poster DROP CONSTRAINT poster_pkey; CREATE UNIQUE INDEX ON catalog.poster (id, film_id)"
    )
    assert said() == ["catalog.poster has no unique index on exactly its primary_key (id)"]
    world.target("ALTER TABLE catalog.poster ADD PRIMARY KEY (id)")


def test_a_source_that_reports_the_new_root_alone_has_the_former_one_read_with_it(world, context):
    put(world, 1, 7)
    see(context, 1)
    put(world, 2, 7, "moved")
    assert see(context, 2).written == 0
    assert due(world) == [("moved", ['["2","7"]', '["1","7"]'])]
    answer = why(context, '["2","7"]')
    assert answer.label == "owed"
    assert "another row holds its id" in answer.verdict
    assert {finding.kind for finding in reconcile(context).findings} == {"pending"}
    work(world, context)
    assert rows(world) == [(2, 7, "moved")]


@pytest.mark.hazard(144)
@pytest.mark.parametrize("films", [[(1, 2)], [(1,), (2,)], [(2,), (1,)]], ids=str)
@pytest.mark.parametrize("order", [{}, {"force": True}], ids=str)
def test_an_id_that_the_query_gives_twice_is_parked_by_name(world, context, films, order):
    put(world, 1, 7)
    world.legacy("UPDATE poster SET also = 2")
    for each in films:
        see(context, *each, order=Order(acknowledge=True, **order))
    work_once(world, context)
    before = rows(world)
    letters = world.target("SELECT key, step, error, message FROM sync.due WHERE reason = 'rejected' ORDER BY key")
    parked = {key for key, *_ in letters}
    assert parked | {f'["{film}","{poster}"]' for film, poster, _ in before} == {'["1","7"]', '["2","7"]'}
    assert len(before) == (0 if len(films) == 1 else 1)
    for key, step, error, message in letters:
        other = '["1","7"]' if key == '["2","7"]' else '["2","7"]'
        assert (step, error) == ("row", "RepeatedKey")
        assert message.startswith(f"the query gives {other} the same id, and catalog.poster holds one row of it")
        assert "parked" in why(context, key).label
    work_once(world, context)  # they are tried again, and nothing is overwritten
    assert rows(world) == before
    assert reconcile(context).status == "clean" or {f.kind for f in reconcile(context).findings} == {"pending"}
    world.legacy("UPDATE poster SET also = NULL")
    see(context, 1, 2)


def work_once(world, context):
    """What is due, and dead letters once."""
    world.hurry("true")
    for _ in range(6):
        live.work(context, lambda *_: None)
        world.hurry("reason <> 'rejected'")


@pytest.mark.hazard(144)
def test_without_its_guard_an_id_that_the_query_gives_twice_is_overwritten(world, context, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "144")
    put(world, 1, 7)
    world.legacy("UPDATE poster SET also = 2")
    see(context, 1)
    see(context, 2)
    assert world.target("SELECT film_id, id FROM catalog.poster") == [(2, 7)]
    assert world.target("SELECT * FROM sync.due") == []
    world.legacy("UPDATE poster SET also = NULL")
    monkeypatch.delenv("SYNC_TEST_GUARDS_OFF")
    see(context, 1, 2)
    repair(context, reconcile(context).findings)


def test_another_entity_of_the_ledger_that_refers_to_its_rows_is_named(world, context):
    """Of another code location, whose files are not read together with this one."""
    world.target("CREATE TABLE catalog.wall (film_id bigint, poster_id bigint)")
    try:
        world.target(
            "INSERT INTO sync.reference VALUES ('wall', 'poster', 'catalog.wall', '{poster_id}', '{film_id,poster_id}')"
        )
        put(world, 1, 7)
        with pytest.raises(DeclarationError, match=r"entity wall refers to poster by \(film_id, id\)"):
            see(context, 1)
    finally:
        world.target("DELETE FROM sync.reference; DROP TABLE catalog.wall")
    see(context, 1)


def test_a_part_that_has_moved_and_is_bad_is_a_dead_letter_until_it_is_mended(world, context):
    put(world, 1, 7)
    see(context, 1)
    put(world, 2, 7, "bad")
    see(context, 1, 2)
    assert world.target("SELECT key, reason FROM sync.due") == [('["2","7"]', "rejected")]
    assert rows(world) == []  # film 1 does not have it any more
    put(world, 2, 7, "good")
    see(context, 2)
    assert rows(world) == [(2, 7, "good")]


def test_history_sweep_reconciliation_and_repair(world, context):
    """Chunks of three films; posters have moved between pages, and rows are not as the ledger has them."""
    for poster in range(1, 31):
        put(world, 1 + poster % 9, poster, f"poster {poster}")
    for partition in POSTER.partitions.names():
        backfill(context, partition)
    assert agreed(world, context)
    world.legacy("UPDATE poster SET film_id = 1 + mod(film_id + 3, 9) WHERE mod(id, 2) = 0")
    swept = sweep(context)
    assert (swept.changed, swept.gone) == (15, 15)
    work(world, context)
    assert agreed(world, context)
    # by another program: one row lies under another film, one is gone, one never was
    world.target("UPDATE catalog.poster SET film_id = 8 WHERE id = 3; DELETE FROM catalog.poster WHERE id = 5")
    world.target("INSERT INTO catalog.poster (film_id, id) VALUES (9, 99)")
    found = {(f.sink, f.kind, f.key) for f in reconcile(context).findings}
    assert found == {
        ("relational", "extra", '["8","3"]'),
        ("relational", "missing", '["4","3"]'),
        ("relational", "missing", '["6","5"]'),
        ("relational", "extra", '["9","99"]'),
    }
    assert why(context, '["4","3"]').label == "drift"
    repair(context, reconcile(context).findings)
    assert agreed(world, context)


def test_a_row_that_nothing_accounts_for_makes_way(world, context):
    """A row of the same id, which is in neither the monolith nor the ledger: its film is read, and it goes."""
    world.target("INSERT INTO catalog.poster (film_id, id, title) VALUES (5, 7, 'of a restore')")
    put(world, 1, 7)
    assert see(context, 1).written == 0
    work(world, context)
    assert rows(world) == [(1, 7, "as it was")]


def test_a_former_root_deletes_no_row_of_another_key(world, context):
    """The table was restored from a copy in which the poster has moved already."""
    put(world, 1, 7)
    see(context, 1)
    world.target("UPDATE catalog.poster SET film_id = 2")
    put(world, 2, 7, "moved")
    see(context, 1)
    assert rows(world) == [(2, 7, "as it was")]
    see(context, 2)
    assert rows(world) == [(2, 7, "moved")]


def test_a_backfill_that_is_overtaken_takes_nothing_back(world, context):
    put(world, 1, 7)
    with stopping():
        history = Held(lambda: [backfill(context, name) for name in POSTER.partitions.names()], "write")
        put(world, 2, 7, "moved")
        see(context, 2)
        history.let_go()
    assert rows(world) == [(2, 7, "moved")]


def test_a_repair_of_both_keys_in_pages_of_their_own(world, context):
    put(world, 1, 7)
    see(context, 1)
    world.target("UPDATE catalog.poster SET film_id = 9")
    for key in ('["1","7"]', '["9","7"]'):  # the missing one first
        sync_keys(context, context.origin.key.parse([key]), Order(force=True))
    work(world, context)
    assert rows(world) == [(1, 7, "as it was")]


def test_a_table_is_rebuilt_while_parts_move(world, context):
    """The poster of film 1 is in the new table already when it moves, and comes again with the page of film 8."""
    for poster in range(1, 19):
        put(world, 1 + poster % 9, poster)
    see(context, *range(1, 10))

    def edit():
        put(world, 8, 9, "moved")
        see(context, 8)  # whose former film no source reports
        world.legacy("UPDATE poster SET film_id = 11 - film_id WHERE film_id IN (2, 9)")
        see(context, 2)
        see(context, 9)

    made = rebuild_table(context, Once(edit), like=True)
    assert made.findings == []
    work(world, context)
    assert agreed(world, context)
    clear(world.stores, POSTER)


def test_a_row_of_the_new_table_is_moved_with_the_live_one(world, context):
    put(world, 1, 7)
    see(context, 1)
    shown = []

    def edit():
        put(world, 2, 7, "moved")
        see(context, 2)
        work(world, context)
        shown.extend(world.target("SELECT film_id, id, title FROM catalog.poster_next"))

    assert rebuild_table(context, Once(edit), like=True).findings == []
    assert shown == [(2, 7, "moved")]
    clear(world.stores, POSTER)


def test_a_row_in_the_way_of_the_new_table_alone_goes(world, context):
    """The batch that finds it has nothing new to write: what it could not write is written whatever the ledger says."""
    for film in range(1, 10):
        put(world, film, 10 + film)
    see(context, *range(1, 10))
    planted = []

    def report(step, _):
        if step == FILLED and not planted:
            planted.append(world.target("INSERT INTO catalog.poster_next (film_id, id) VALUES (4, 19)"))
        if step == COMPARED:
            work(world, context)

    # the page of film 9 comes after that
    assert rebuild_table(context, report, like=True).findings == []
    clear(world.stores, POSTER)


@pytest.mark.parametrize("films", [[(1, 2)], [(2,), (1,)]], ids=str)
def test_a_part_whose_document_is_refused_after_it_has_moved_is_absent_by_name(world, films):
    """What readers had was the part under its former film, and that is gone: there is nothing to be put back."""
    context = EntityContext.open(UNDONE, world.stores)
    put(world, 1, 7, "5")
    see(context, 1)
    put(world, 2, 7, "heavy")
    for each in films:
        see(context, *each)
    work(world, context)
    assert rows(world, "undone") == []
    letters = world.target("SELECT key, step, undone_at IS NOT NULL FROM sync.due WHERE entity = 'undone'")
    assert letters == [('["2","7"]', "document", True)]
    put(world, 3, 7, "6")
    for each in ((2,), (3,)):
        see(context, *each)
    work(world, context)
    assert rows(world, "undone") == [(3, 7, "6")]
    assert reconcile(context).findings == []
    clean(world, context)


def test_a_row_whose_id_another_one_has_is_not_put_back_over_it(world):
    context = EntityContext.open(UNDONE, world.stores)
    put(world, 1, 7, "5")
    see(context, 1)
    put(world, 1, 7, "heavy")
    see(context, 1)
    world.target("UPDATE catalog.undone SET film_id = 9")  # by another program
    for _ in range(3):
        live.work(context, lambda *_: None)
        world.hurry("reason <> 'rejected'")
    assert rows(world, "undone") == [(9, 7, "heavy")]
    assert world.target('SELECT error FROM sync.due WHERE key = \'["1","7"]\'') == [("CompensationFailed",)]
    clean(world, context)


def test_under_editors_with_history_beside_them(world, context):
    for n in range(FILES):
        world.client.put_object(Bucket=world.legacy_bucket, Key=f"{n}.png", Body=b"%d" % n, ContentType="image/png")
    with world.following([context]), edited(world):
        limit = time.monotonic() + 8
        while time.monotonic() < limit:
            for partition in POSTER.partitions.names():
                backfill(context, partition)
    # what is committed by now is applied, with the sweep off
    with world.following([context]):
        ((since,),) = world.legacy("SELECT clock_timestamp()")
        wait_for(lambda: world.target("SELECT 1 FROM sync.cursor WHERE applied_through > %s", [since]))
        wait_for(lambda: not world.target("SELECT 1 FROM sync.due"))
    assert world.target("SELECT 1 FROM sync.cursor WHERE swept_from > now() - interval '1 s'") == []
