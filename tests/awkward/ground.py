"""A world with the awkward monolith in it: opened, filled, followed, and compared."""

import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2

from demo.fleet import Fleet
from tests import oracle as general
from tests.awkward import oracle
from tests.awkward.load import load
from tests.installed import made, unmade
from tests.world import World, opened

ENTITIES = "tests.awkward.entities"
# what is left out, the sweep finds or a follower will do
_UNREAD = """
    SELECT entity, applied_through::text FROM sync.cursor WHERE applied_through IS NULL OR applied_through < %(since)s
    UNION ALL SELECT entity, 'not swept' FROM sync.cursor WHERE %(swept)s AND coalesce(swept_from < %(since)s, true)"""
_BEHIND = f"""{_UNREAD}
    UNION ALL SELECT entity, reason || ' ' || coalesce(message, '') FROM sync.due d WHERE reason <> 'rejected'
      AND NOT (reason = 'sweep' AND keys <@ ARRAY(  -- which a sweep owes again and again
        SELECT key FROM sync.due p WHERE p.entity = d.entity AND p.reason = 'rejected'))"""


@contextmanager
def awkward_world(fleet: Fleet, name: str, source: str, *, rows: int = 240, **settings: str) -> Iterator[World]:
    """A world whose monolith is the awkward one, with what the source needs; entities read the source at import."""
    _forget()
    with opened(fleet, name, SYNC_ENTITIES=ENTITIES, TEST_CAPTURE=source, **settings) as world:
        load(
            world.monolith.admin_url, world.client, world.legacy_bucket, films=rows, clips=rows // 3, airings=rows // 2
        )
        yield world


def caught_by(world: World, source: str) -> None:
    """The same world, with its entities caught in another way."""
    _forget()
    os.environ["TEST_CAPTURE"] = source
    world.__dict__.pop("contexts", None)


def _forget() -> None:
    for module in [module for module in sys.modules if module.startswith(f"{ENTITIES}.")]:
        del sys.modules[module]


@contextmanager
def installed(world: World) -> Iterator[None]:
    """What the entities' source needs in the monolith, until the end of the block."""
    for context in world.contexts.values():
        for statement in made(context):
            world.legacy(statement)
    try:
        yield
    finally:
        for context in world.contexts.values():
            for statement in unmade(context):
                world.legacy(statement)


@contextmanager
def followed(world: World) -> Iterator[None]:
    """The live delta of all entities; nobody waits for a first sweep."""
    world.target("UPDATE sync.cursor SET swept_at = now()")
    with world.following([*world.contexts.values()]):
        yield


def differences(world: World) -> list[general.Difference]:
    """What the oracle finds wrong."""
    with (
        closing(psycopg2.connect(world.monolith.admin_url)) as legacy,
        closing(psycopg2.connect(world.target_url)) as target,
    ):
        return oracle.differences(legacy, target, world.search_url, _buckets(world))


def wanted(world: World) -> dict[str, dict[str, object]]:
    """By entity and key, what the new side should hold: a row with the ETags of its files; of parked ones nothing."""
    with closing(psycopg2.connect(world.monolith.admin_url)) as legacy:
        monolith = oracle.monolith(legacy, _buckets(world))
    return {
        kind: {
            key: key not in wanted.parked and (row, [monolith.bucket[path] for path in oracle.named(row, wanted.files)])
            for key, row in wanted.rows.items()
        }
        for kind, wanted in monolith.wanted().items()
    }


def _buckets(world: World) -> general.Buckets:
    return general.Buckets(world.client, world.legacy_bucket, world.client, world.target_bucket)


def behind(world: World, since: object, *, swept: bool) -> list[tuple[str, str]]:
    """What is not done yet of all that was committed before `since`."""
    return world.target(_BEHIND, {"since": since, "swept": swept})


def unread(world: World, since: object) -> list[tuple[str, str]]:
    """Entities that have not read, or not swept, all that was committed before `since`."""
    return world.target(_UNREAD, {"since": since, "swept": True})
