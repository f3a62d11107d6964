"""The awkward monolith and its writers. The ledger is filled by triggers, so in the writers' own transactions."""

from collections.abc import Iterator
from contextlib import contextmanager

from demo.fleet import Fleet
from tests.awkward import changes
from tests.awkward.ground import ENTITIES, awkward_world, differences
from tests.awkward.writers import Writers
from tests.chaos.plan import Plan
from tests.observer import Observer
from tests.oracle import Difference
from tests.world import World

_DOCUMENTS = ("aw_title", "aw_label", "aw_airing", "aw_work", "aw_edition")
# table, the entity it is of, its row's key as the new side writes it, and whether the new side wants the row
_NOTED = (
    ('"Old Vault"."Film"', "title", '"Id"::text', "\"State\" <> 'X'"),
    ("clip", "title", "id::text", "state <> 'X'"),
    ("label", "label", "code", "state <> 'X'"),
    ("book", "work", "'book ' || no", "true"),
    ('"Old Vault"."Disc"', "work", "'disc ' || \"No\"", "true"),
    ("scene", "scene", "id::text", "true"),
)
_LEDGER = """
    CREATE SCHEMA chaos;
    CREATE TABLE chaos.ledger (n bigint GENERATED ALWAYS AS IDENTITY, entity text NOT NULL, source text NOT NULL,
        key text NOT NULL, is_there boolean NOT NULL, xid xid8 NOT NULL DEFAULT pg_current_xact_id())"""
_TRIGGER = """
    CREATE FUNCTION chaos.{name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_OP <> 'INSERT' THEN INSERT INTO chaos.ledger (entity, source, key, is_there)
            SELECT '{entity}', '{name}', {key}, false FROM (SELECT OLD.*) r; END IF;
        IF TG_OP <> 'DELETE' THEN INSERT INTO chaos.ledger (entity, source, key, is_there)
            SELECT '{entity}', '{name}', {key}, {wanted} FROM (SELECT NEW.*) r; END IF;
        RETURN NULL; END $$;
    CREATE TRIGGER chaos AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION chaos.{name}()"""
_LAST = """
    SELECT entity, key, bool_or(is_there) FROM (
        SELECT DISTINCT ON (source, key) entity, key, is_there FROM chaos.ledger ORDER BY source, key, n DESC) l
    GROUP BY entity, key"""
_HELD = """
    SELECT 'title', id::text FROM awkward.title UNION ALL SELECT 'label', code FROM awkward.label
    UNION ALL SELECT 'work', kind || ' ' || number FROM awkward.work UNION ALL SELECT 'scene', id::text
    FROM awkward.scene"""
_PARKED = "SELECT substr(entity, 4), key FROM sync.due WHERE reason = 'rejected'"


class Awkward:
    """Six entities, no versions, hardly a stamp; rows of two tables, parts, children and parents."""

    entities = ENTITIES

    @contextmanager
    def opened(self, fleet: Fleet, plan: Plan, settings: dict[str, str]) -> Iterator[World]:
        rest = {name: value for name, value in settings.items() if name != "TEST_CAPTURE"}
        with awkward_world(fleet, plan.name, plan.source, rows=plan.contents // 4, **rest) as world:
            world.legacy(_LEDGER)
            for n, (table, entity, key, wanted) in enumerate(_NOTED):
                world.legacy(_TRIGGER.format(name=f"note_{n}", table=table, entity=entity, key=key, wanted=wanted))
            yield world

    @contextmanager
    def written(self, world: World, plan: Plan) -> Iterator[None]:
        without = frozenset(getattr(changes, name) for name in plan.without if hasattr(changes, name))
        with Writers(world, plan.writers_seed, without).at_work():
            yield

    def observer(self, world: World) -> Observer:
        return Observer(world.target_url, world.search_url, rows=(), documents=_DOCUMENTS)

    def versions(self, url: str) -> dict[int, int]:
        return {}  # no row of it has one

    def commits(self, world: World) -> int:
        ((count,),) = world.legacy("SELECT count(DISTINCT xid) FROM chaos.ledger")
        return int(count)

    def differences(self, world: World) -> list[Difference]:
        return differences(world)

    def noted(self, world: World) -> list[str]:
        held, parked = set(world.target(_HELD)), set(world.target(_PARKED))
        found = []
        for entity, key, is_there in world.legacy(_LAST):
            if is_there and (entity, key) not in held | parked:
                found.append(f"ledger: {entity} {key!r} is lost")
            if not is_there and (entity, key) in held:
                found.append(f"ledger: {entity} {key!r} is back")
        return found
