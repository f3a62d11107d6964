"""The judge of chaos finds what is planted behind the engine's back: by the oracle, the ledger, or the observer."""

from contextlib import closing

import psycopg2
import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.pipeline import sync_keys
from tests.chaos.draw import draw
from tests.chaos.faults.transactions import create, edit
from tests.chaos.grounds import GROUNDS
from tests.chaos.judge import violations
from tests.chaos.rounds import settings
from tests.chaos.scene import Scene
from tests.oracle import KINDS
from tests.receivers import SETTING
from tests.world import wait_for

DEMO = GROUNDS["demo"]


@pytest.fixture(scope="module")
def scene(fleet, receiver):
    """A world in which everything has gone well."""
    plan = draw("judge", 0, source="watermark", ground="demo")
    with DEMO.opened(fleet, plan, settings(plan) | {SETTING: receiver.url}) as world:
        with closing(psycopg2.connect(world.monolith.admin_url)) as connection:
            made = create(connection.cursor(), "new", 30)
            edit(connection.cursor(), "edited", made[:10])
            connection.commit()
        for kind in KINDS:
            world.all_in(kind)
        yield Scene(plan, world, crew=None, network=None)


@pytest.fixture
def observer(scene):
    """It has seen everything as it is."""
    with DEMO.observer(scene.world) as observer:
        looked(observer)
        yield observer


def looked(observer):
    """It has looked once more at everything."""
    tracks = [*observer.rows.values(), *observer.documents.values()]
    before = [track.looks for track in tracks]
    wait_for(lambda: all(track.looks > looks + 1 for track, looks in zip(tracks, before, strict=True)))


@pytest.fixture
def key(scene):
    """A text that the ledger knows; what a test does to it is mended."""
    world = scene.world
    ((key,),) = world.target("SELECT max(id) FROM catalog.text")
    kept = "kept AS SELECT * FROM catalog.text WHERE id = %s"
    world.target(f"CREATE TABLE {kept}", [key])
    yield key
    for kind in KINDS:
        world.target(f"DELETE FROM catalog.{kind} WHERE id = %s", [key])
    world.target("INSERT INTO catalog.text SELECT * FROM kept")
    world.target("DROP TABLE kept")


def found(scene, observer, *words):
    """Whether a violation has all these words."""
    said = violations(scene, observer)
    assert any(all(word in one for word in words) for one in said), said


def test_nothing_is_found_where_nothing_is_wrong(scene, observer):
    assert violations(scene, observer) == []


def test_a_row_that_is_lost(scene, observer, key):
    scene.world.target("DELETE FROM catalog.text WHERE id = %s", [key])
    found(scene, observer, "oracle: row text", str(key), "missing")
    found(scene, observer, "ledger:", str(key), "is lost")


def test_a_row_that_is_doubled(scene, observer, key):
    scene.world.target(
        "INSERT INTO catalog.video (id, header, price, rating, attrs, version, tags, cover, files, is_public)"
        " SELECT id, header, price, rating, attrs, version, tags, cover, files, is_public FROM catalog.text"
        " WHERE id = %s",
        [key],
    )
    found(scene, observer, "oracle: row video", str(key), "doubled")
    found(scene, observer, "ledger:", str(key), "is doubled")


def test_a_row_that_goes_back(scene, observer, key):
    scene.world.target("UPDATE catalog.text SET version = version - 1 WHERE id = %s", [key])
    looked(observer)
    found(scene, observer, "observer: row of text", str(key), "went from")
    found(scene, observer, "ledger:", str(key), "is at")


def test_a_row_that_goes_back_for_a_moment(scene, observer, key):
    scene.world.target("UPDATE catalog.text SET version = version - 1 WHERE id = %s", [key])
    looked(observer)
    scene.world.target("UPDATE catalog.text SET version = version + 1 WHERE id = %s", [key])
    assert [one for one in violations(scene, observer) if "observer" not in one] == []
    found(scene, observer, "observer: row of text", str(key))


def test_a_document_that_is_lost(scene, observer, key):
    scene.world.document("DELETE", f"text/_doc/{key}?refresh=true")
    found(scene, observer, "oracle: document text", str(key), "missing")
    context = scene.world.context("text")
    sync_keys(context, context.origin.key.parse([str(key)]), Order(force=True))


def test_what_is_owed_for_ever(scene, observer, key):
    scene.world.target(
        "INSERT INTO sync.due (entity, reason, keys, revision, priority) VALUES ('text', 'documents', %s, 1, 1)",
        [[str(key)]],
    )
    found(scene, observer, "oracle: due text", str(key), "owed")
    scene.world.target("DELETE FROM sync.due")


def test_a_row_that_is_parked_and_no_poison(scene, observer, key):
    scene.world.target(
        "INSERT INTO sync.due (entity, reason, key, revision, priority) VALUES ('text', 'rejected', %s, 1, 5)",
        [str(key)],
    )
    found(scene, observer, "oracle: due text", str(key), "owed")
    scene.world.target("DELETE FROM sync.due")


@pytest.mark.parametrize("body", [None, {"header": "spoiled", "version": 1}])
def test_an_item_that_is_lost_or_spoiled(scene, observer, receiver, body):
    key, item = next(iter(receiver.items().items()))
    receiver.spoil(key, body)
    try:
        assert found(scene, observer, "item", key) is None
    finally:
        receiver.spoil(key, item)
