"""Rows that are parts of a legacy row, and come and go with it, whoever writes last."""

import time

import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.operate.repair import repair
from sync_pipeline.pipeline import sync_roots
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run import live
from sync_pipeline.run.backfill import backfill
from sync_pipeline.run.sweep import sweep
from tests.installed import world_of_parts
from tests.parted import FILES, LANGUAGES, MONOLITH, TITLE, edited
from tests.stalled import stalled
from tests.world import wait_for


@pytest.fixture(scope="module")
def world(fleet):
    with world_of_parts(fleet, "parted", MONOLITH, TITLE) as world:
        yield world


@pytest.fixture
def context(world, monkeypatch):
    """An empty entity; at the end both sides agree, by the engine's own word and by ours."""
    context = EntityContext.open(TITLE, world.stores)
    yield context
    monkeypatch.delenv("SYNC_TEST_GUARDS_OFF", raising=False)
    work(context)
    assert agreed(world, context)
    world.legacy("TRUNCATE work, work_title; TRUNCATE outbox")
    assert agreed(world, mended(world, context))
    world.target("TRUNCATE sync.ledger_title, sync.roots_title, sync.backfill")


def mended(world, context):
    repair(context, reconcile(context).findings)
    return context


def agreed(world, context):
    legacy = set(world.legacy(f"SELECT id, lang, title, genre FROM ({TITLE.origin.sql}) q"))
    rows = set(world.target("SELECT id, lang, title, genre FROM catalog.title"))
    world.document("POST", "title/_refresh")
    hits = world.document("GET", "title/_search?size=1000")["hits"]["hits"]
    documents = {(hit["_source"]["id"], hit["_source"]["lang"], hit["_source"]["title"]) for hit in hits}
    assert rows == legacy
    assert documents == {row[:3] for row in legacy}
    assert reconcile(context).findings == []
    return True


def put(world, key, **titles):
    """A work with these titles, and no others."""
    world.legacy("INSERT INTO work VALUES (%s, 'poetry') ON CONFLICT (id) DO NOTHING", [key])
    world.legacy("DELETE FROM work_title WHERE work_id = %s AND lang <> ALL(%s)", [key, list(titles)])
    for lang, title in titles.items():
        world.legacy(
            "INSERT INTO work_title (work_id, lang, title) VALUES (%s, %s, %s)"
            " ON CONFLICT (work_id, lang) DO UPDATE SET title = excluded.title",
            [key, lang, title],
        )


def see(context, *roots):
    """The roots' events are applied."""
    return sync_roots(context, context.origin.root.parse(map(str, roots)), Order(acknowledge=True))


def work(context):
    with context.stores.target() as cursor:
        cursor.execute("UPDATE sync.due SET not_before = now()")
    for _ in range(20):
        if not live.work(context, lambda *_: None):
            return


def rows(world):
    return world.target("SELECT id, lang, title FROM catalog.title ORDER BY 1, 2")


def test_parts_come_and_go(world, context):
    see(context, 1)
    put(world, 1, en="One", fr="Un")
    assert see(context, 1).written == 2
    put(world, 1, de="Eins", en="One!")
    outcome = see(context, 1)
    assert (outcome.written, outcome.deleted) == (2, 1)
    assert rows(world) == [(1, "de", "Eins"), (1, "en", "One!")]
    outcome = see(context, 1)
    assert (outcome.written, outcome.deleted, outcome.documents) == (0, 0, 0)
    put(world, 1)
    see(context, 1)
    assert rows(world) == []


def removed_meanwhile(world, context):
    """A batch reads a part for the first time and stalls; the part goes, and that is acknowledged."""
    put(world, 1, en="One", fr="Un")
    with stalled(context, '["1", "en"]', Order()):
        put(world, 1, en="One")
        see(context, 1)


def root_removed_meanwhile(world, context):
    """The same with all there is of a root: the newer batch reads nothing at all."""
    put(world, 1, en="One")
    with stalled(context, '["1", "en"]', Order(acknowledge=True)):
        put(world, 1)
        see(context, 1)


SCENES = [removed_meanwhile, root_removed_meanwhile]


@pytest.mark.hazard(50)
@pytest.mark.parametrize("scene", SCENES)
def test_an_older_batch_brings_back_no_part(world, context, scene):
    scene(world, context)
    assert {lang for _, lang, _ in rows(world)} <= {"en"}


@pytest.mark.hazard(50)
@pytest.mark.parametrize("scene", SCENES)
def test_without_its_gate_it_does(world, context, scene, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "50")
    scene(world, context)
    assert {finding.kind for finding in reconcile(context).findings} == {"extra"}
    mended(world, context)


def test_an_older_batch_removes_no_part(world, context):
    put(world, 1, en="One")
    with stalled(context, '["1", "en"]', Order(acknowledge=True)):
        put(world, 1, en="One", fr="Un")
        see(context, 1)
    assert rows(world) == [(1, "en", "One"), (1, "fr", "Un")]


@pytest.mark.parametrize("order", [{"documents": True}, {"force": True}])
def test_what_the_gate_refuses_by_force_is_owed_again(world, context, order):
    put(world, 1, en="One")
    with stalled(context, '["1", "en"]', Order(**order)):
        see(context, 1)
    reason = "overtaken" if "force" in order else "documents"
    assert world.target("SELECT reason, keys FROM sync.due") == [(reason, ['["1","en"]'])]


def test_a_part_that_comes_back_to_what_it_was(world, context):
    """Hazard 45: one batch reads B and stalls; the part is A again, and that is acknowledged."""
    put(world, 1, en="A", fr="Un")
    see(context, 1)
    put(world, 1, en="B")
    with stalled(context, '["1", "en"]', Order(acknowledge=True)):
        put(world, 1, en="A", fr="Un")
        see(context, 1)
    assert rows(world) == [(1, "en", "A"), (1, "fr", "Un")]


def test_a_bad_part_is_parked_alone_and_let_go_with_its_part(world, context):
    put(world, 1, de="bad", en="One")
    put(world, 2, en="Two")
    assert see(context, 1, 2).parked == 1
    assert rows(world) == [(1, "en", "One"), (2, "en", "Two")]
    assert reconcile(context).status == "clean"
    put(world, 1, en="One")
    see(context, 1)
    assert world.target("SELECT * FROM sync.due") == []


def test_files_of_parts(world, context):
    world.client.put_object(Bucket=world.legacy_bucket, Key="un.png", Body=b"un", ContentType="image/png")
    put(world, 1, en="One", fr="Un")
    world.legacy("UPDATE work_title SET cover = 'un.png' WHERE lang = 'fr'")
    see(context, 1)
    assert world.target("SELECT key, source_key FROM sync.media_ref") == [('["1","fr"]', "un.png")]
    assert reconcile(context).status == "clean"
    put(world, 1, en="One")
    see(context, 1)
    assert world.target("SELECT key FROM sync.media_ref") == []


def test_history_sweep_reconciliation_and_repair(world, context):
    """Chunks of three roots, whose parts are never torn apart."""
    for key in range(1, 21):
        put(world, key, **{lang: f"{lang} {key}" for lang in LANGUAGES[: key % 5]})
    for partition in TITLE.partitions.names():
        backfill(context, partition)
    assert agreed(world, context)
    put(world, 4, it="new", en="en 4")
    put(world, 3)
    put(world, 5, fr="of none")
    swept = sweep(context)
    assert (swept.changed, swept.gone) == (2, 5)
    work(context)
    assert agreed(world, context)
    world.target("INSERT INTO catalog.title (id, lang) VALUES (7, 'xx'), (99, 'en')")
    world.target("DELETE FROM catalog.title WHERE (id, lang) = (8, 'de')")
    world.document("DELETE", "title/_doc/%5B%228%22%2C%22en%22%5D?refresh=true")
    world.document("PUT", "title/_doc/%5B%228%22%2C%22yy%22%5D?refresh=true", {"id": 8, "lang": "yy", "title": ""})
    found = {(f.sink, f.kind, f.key) for f in reconcile(context).findings}
    assert found == {
        ("relational", "extra", '["7","xx"]'),
        ("relational", "extra", '["99","en"]'),
        ("relational", "missing", '["8","de"]'),
        ("search", "missing", '["8","en"]'),
        ("search", "extra", '["8","yy"]'),
    }
    mended(world, context)


def test_under_editors_with_history_beside_them(world, context):
    for n in range(FILES):
        world.client.put_object(Bucket=world.legacy_bucket, Key=f"{n}.png", Body=b"%d" % n, ContentType="image/png")
    with world.following([context]), edited(world):
        limit = time.monotonic() + 8
        while time.monotonic() < limit:
            for partition in TITLE.partitions.names():
                backfill(context, partition)
    # what is committed by now is applied, with the sweep off
    with world.following([context]):
        ((since,),) = world.legacy("SELECT clock_timestamp()")
        wait_for(lambda: world.target("SELECT 1 FROM sync.cursor WHERE applied_through > %s", [since]))
        wait_for(lambda: not world.target("SELECT 1 FROM sync.due"))
    assert world.target("SELECT 1 FROM sync.cursor WHERE swept_from > now() - interval '1 s'") == []
