"""Parents and children made, moved and deleted in any order, each entity followed on its own, with foreign keys."""

import dataclasses
import time
from contextlib import ExitStack

import pytest

from sync_pipeline.entities.context import EntityContext
from sync_pipeline.sources.outbox import Outbox
from tests.hands import at_work
from tests.installed import made
from tests.kin import EPISODE, FOLDER, FOREIGN_KEYS, MONOLITH, SERIES
from tests.world import opened, wait_for

PARENTS, CHILDREN = 6, 40
ENTITIES = {e.name: dataclasses.replace(e, capture=Outbox()) for e in (SERIES, EPISODE, FOLDER)}
UPSERT = (
    "INSERT INTO {0} (id, title, {1}) VALUES (%s, %s, %s) ON CONFLICT (id) DO UPDATE"
    " SET title = excluded.title, {1} = excluded.{1}, updated_at = clock_timestamp()"
)
# what refers to nothing at the end is taken away, so that nothing may be left to wait
TIDY = """
    DELETE FROM episode e WHERE series_id IS NOT NULL AND NOT EXISTS (SELECT FROM series s WHERE s.id = e.series_id);
    UPDATE folder f SET parent_id = NULL WHERE NOT EXISTS (SELECT FROM folder p WHERE p.id = f.parent_id)
"""


@pytest.fixture(scope="module")
def world(fleet):
    settings = {"SYNC_SWEEP_SECONDS": "1e9", "SYNC_MARGIN_SECONDS": "0", "SYNC_POLL_SECONDS": "0.02"}
    with opened(fleet, "kin_edited", **settings) as world:
        world.legacy(MONOLITH)
        for entity in ENTITIES.values():
            for statement in made(EntityContext.open(entity, world.stores)):
                world.legacy(statement)
        world.target(FOREIGN_KEYS)
        world.target("UPDATE sync.cursor SET swept_at = now()")
        yield world


def edit(cursor, dice):
    """A change of any row, without a look at the others."""
    parent, child = dice.randint(1, PARENTS), dice.randint(1, CHILDREN)
    above = dice.choice([None, dice.randrange(child)])
    acts = {
        "series": (UPSERT.format("series", "pilot_id"), (parent, str(dice.random()), None)),
        "episode": (UPSERT.format("episode", "series_id"), (child, str(dice.random()), dice.choice([None, parent]))),
        "folder": (UPSERT.format("folder", "parent_id"), (child, str(dice.random()), above)),
        "no series": ("DELETE FROM series WHERE id = %s", (parent,)),
        "no episode": ("DELETE FROM episode WHERE id = %s", (child,)),
        "no folder": ("DELETE FROM folder WHERE id = %s", (child,)),
    }
    cursor.execute(*acts[dice.choice(sorted(acts))])


def edited(world):
    return at_work(world.monolith.admin_url, edit)


def apart(world):
    return {
        name: sorted(set(world.legacy(entity.origin.sql)) ^ set(world.target(f"SELECT * FROM catalog.{name}")))
        for name, entity in ENTITIES.items()
    }


def test_whatever_comes_first_all_of_it_arrives(world, caplog):
    seen = set()
    with ExitStack() as followers:
        for entity in ENTITIES.values():
            followers.enter_context(world.following([EntityContext.open(entity, world.stores)]))
        with edited(world):
            limit = time.monotonic() + 8
            while time.monotonic() < limit:
                seen |= {reason for (reason,) in world.target("SELECT reason FROM sync.due")}
                assert world.target("SELECT 1 FROM sync.due WHERE reason = 'rejected'") == []
        world.legacy(TIDY)
        ((since,),) = world.legacy("SELECT clock_timestamp()")
        through = "SELECT count(*) FROM sync.cursor WHERE applied_through > %s"
        wait_for(lambda: world.target(through, [since]) == [(len(ENTITIES),)])
        wait_for(lambda: not world.target("SELECT 1 FROM sync.due"))
    assert apart(world) == {name: [] for name in ENTITIES}
    assert {"parent", "children", "released"} <= seen
    assert [record.message for record in caplog.records if record.levelname != "INFO"] == []
    assert world.target("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [(0,)]
