"""Killed at every boundary under editors: of rows that are parts, none is lost, and none stays."""

import signal

from sync_pipeline.entities.context import EntityContext
from sync_pipeline.model.faults import CRASH_POINTS
from sync_pipeline.reconcile.reconcile import reconcile
from tests.installed import made
from tests.newsroom import WITHOUT_SWEEP, follow, settle
from tests.parted import FILES, MONOLITH, TITLE, edited
from tests.world import opened


def test_killed_at_every_boundary(fleet, tmp_path):
    settings = {"SYNC_ENTITIES": "tests.killed", "SYNC_RECHECK_SECONDS": "0", **WITHOUT_SWEEP}
    with opened(fleet, "parts_killed", **settings) as world:
        world.legacy(MONOLITH)
        for n in range(FILES):
            world.client.put_object(Bucket=world.legacy_bucket, Key=f"{n}.png", Body=b"%d" % n)
        context = EntityContext.open(TITLE, world.stores)
        for statement in made(context):
            world.legacy(statement)
        world.target("UPDATE sync.cursor SET swept_at = now()")
        with edited(world):
            for point in CRASH_POINTS:
                live = follow(tmp_path / point, SYNC_TEST_CRASH_AT=f"{point}:2")
                assert live.wait() == -signal.SIGKILL, f"{point}: {live.tail()}"
        settle(world, tmp_path / "live")
        legacy = world.legacy(f"SELECT id, lang, title FROM ({TITLE.origin.sql}) q")
        assert len(legacy) > 20
        assert set(world.target("SELECT id, lang, title FROM catalog.title")) == set(legacy)
        assert reconcile(context).findings == []
        assert world.target("SELECT 1 FROM sync.cursor WHERE swept_from IS NOT NULL") == []
