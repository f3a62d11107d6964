"""The demo's entities under each source; the outbox that tells versions is written by triggers of the monolith's."""

from dataclasses import replace

from demo.databases import READER
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity
from sync_pipeline.run.capture import open_cursor
from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.source import Capture
from tests.caught._tables import TABLES
from tests.installed import SOURCES as UNVERSIONED
from tests.installed import made
from tests.newsroom import UNSTAMPED
from tests.oracle import KINDS
from tests.world import World

VERSIONED = "versioned outbox"
SOURCES: dict[str, Capture] = {
    **UNVERSIONED,
    VERSIONED: Outbox(version="version"),
}
# kinds of changes that a source does not claim, where no regular sweep comes
UNCLAIMED = {"watermark": UNSTAMPED}
# a change that raises no version, as a view, tells none, nor does a delete, also one into the bin: no row shows it
_VERSIONED = f"""
    CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, aggregate_type text NOT NULL,
        aggregate_id text NOT NULL, version bigint, processed_at timestamptz, attempts integer NOT NULL DEFAULT 0,
        last_error text);
    CREATE INDEX outbox_pending ON outbox (id) WHERE processed_at IS NULL;
    CREATE INDEX outbox_processed ON outbox (processed_at) WHERE processed_at IS NOT NULL;
    GRANT SELECT, DELETE ON outbox TO {READER};
    GRANT UPDATE (processed_at, attempts, last_error) ON outbox TO {READER};
    CREATE FUNCTION tell_content() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_OP = 'DELETE' THEN
            INSERT INTO outbox (aggregate_type, aggregate_id) VALUES (OLD.kind, OLD.id);
        ELSIF NEW.deleted_at IS NOT NULL OR (TG_OP = 'UPDATE' AND NEW.version = OLD.version) THEN
            INSERT INTO outbox (aggregate_type, aggregate_id) VALUES (NEW.kind, NEW.id);
        ELSE
            INSERT INTO outbox (aggregate_type, aggregate_id, version) VALUES (NEW.kind, NEW.id, NEW.version);
        END IF;
        RETURN NULL; END $$;
    CREATE TRIGGER tell_content AFTER INSERT OR UPDATE OR DELETE ON content
        FOR EACH ROW EXECUTE FUNCTION tell_content();
    CREATE FUNCTION tell_author() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO outbox (aggregate_type, aggregate_id) SELECT kind, id FROM content WHERE author_id = NEW.id;
        RETURN NULL; END $$;
    CREATE TRIGGER tell_author AFTER UPDATE ON authors FOR EACH ROW EXECUTE FUNCTION tell_author();
"""


def captured(world: World, source: str) -> list[EntityContext]:
    """All entities under one source, installed and filled; the regular sweep is a whole period away."""
    if source == VERSIONED:
        world.legacy(_VERSIONED)
    contexts = [EntityContext.open(_entity(world, kind, source), world.stores) for kind in KINDS]
    for context in contexts:
        for statement in made(context):
            world.legacy(statement)
        open_cursor(context)
        world.all_in(context.entity.name)
    world.target("UPDATE sync.cursor SET filled_at = now(), swept_at = now()")
    return contexts


def _entity(world: World, kind: str, source: str) -> Entity:
    return replace(world.context(kind).entity, capture=SOURCES[source], tables=TABLES)
