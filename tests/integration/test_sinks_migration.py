"""A ledger of the release before there was a registry of sinks, with rows and work in it, is migrated forward."""

import pytest

from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.files import load_entities
from sync_pipeline.ledger import ledger, release, sinks
from sync_pipeline.ledger.ledger import migrate
from tests.world import opened

FORMER = """
    INSERT INTO sync.cursor (entity) VALUES ('text');
    CREATE TABLE sync.ledger_text (id bigint, seen bigint NOT NULL, written bigint NOT NULL, digest bigint,
        basis integer NOT NULL, held smallint NOT NULL, target_digest bigint, PRIMARY KEY (id));
    INSERT INTO sync.ledger_text SELECT n, 7, 7, n, 0, 3, NULL FROM generate_series(1, 50) n;
    INSERT INTO sync.due (entity, reason, keys, revision, priority) VALUES ('text', 'documents', '{1,2}', 7, 1),
        ('text', 'media', '{3}', 7, 2);
    INSERT INTO sync.due (entity, reason, key, step, error, message, revision, priority)
        VALUES ('text', 'rejected', '4', 'document', 'mapper_parsing_exception', 'no', 7, 9),
        ('text', 'rejected', '5', 'adapt', 'ValueError', 'no', 7, 9);
    INSERT INTO sync.rebuild (entity, kind, name, former, declared, state)
        VALUES ('text', 'index', 'text-000002', 'text-000001', '{}', 'filling');
    INSERT INTO sync.recovery (entity, part, cause) VALUES ('text', 'index', 'a test'), ('text', 'files', 'a test');
    INSERT INTO sync.media_ref VALUES ('text', '6', 'a.jpg', 'text/a.jpg');
"""


@pytest.fixture
def world(fleet, monkeypatch):
    with opened(fleet, "sinks_migration") as world:
        known = release.migrations()
        before = [file for file in known if file.name < "0028"]
        with monkeypatch.context() as patched:
            for module in (release, ledger):
                patched.setattr(module, "migrations", lambda: before)
            migrate(world.stores)
        with world.stores.target() as cursor:  # under the pipeline's own role
            cursor.execute(FORMER)
        yield world


def test_what_was_in_it_belongs_to_its_sinks(world):
    migrate(world.stores)
    registry = "SELECT name, bit, parts FROM sync.sink WHERE entity = 'text' ORDER BY 1"
    assert world.target(registry) == [
        ("media", None, ["files"]),
        ("relational", 1, []),
        ("search", 2, ["index", "filling index", "ledger"]),
    ]
    owed = "SELECT reason, coalesce(key, keys[1]), sink FROM sync.due WHERE entity = 'text' ORDER BY 2"
    assert world.target(owed) == [
        ("documents", "1", "search"),
        ("media", "3", None),
        ("rejected", "4", "search"),
        ("rejected", "5", None),
    ]
    assert world.target("SELECT sink FROM sync.rebuild") == [("search",)]
    assert world.target("SELECT part, sink FROM sync.recovery ORDER BY 1") == [("files", "media"), ("index", "search")]
    assert world.target("SELECT sink FROM sync.media_ref") == [("media",)]
    assert world.target("SELECT oldest_writer FROM sync.ledger_identity") == [(28,)]


def test_its_entity_is_opened_and_no_sink_lacks_rows(world):
    world.target("DELETE FROM sync.rebuild")
    entity = load_entities("assets.entities")["text"]
    context = EntityContext.open(entity, world.stores)
    assert context.bits.bits == {"relational": 1, "search": 2}
    with world.stores.target() as cursor:
        assert sinks.filling(cursor, "text", entity.sink_names) == []
    assert world.target("SELECT DISTINCT held FROM sync.ledger_text") == [(3,)]
