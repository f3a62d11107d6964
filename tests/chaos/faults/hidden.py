"""What the monolith hides from our role for a while: rows behind a policy, a table behind a revoked grant."""

from collections.abc import Iterator
from random import Random

from tests.chaos.faults.fault import DEMO, fault
from tests.chaos.scene import Scene

_HIDE = """
    CREATE POLICY hidden ON content TO sync_reader USING (id %% 10 <> {});
    ALTER TABLE content ENABLE ROW LEVEL SECURITY"""
_SHOW = "ALTER TABLE content DISABLE ROW LEVEL SECURITY; DROP POLICY IF EXISTS hidden ON content"


@fault(weight=2, grounds=DEMO)
def policy_switched_on(scene: Scene, dice: Random) -> Iterator[None]:
    """A tenth of all contents is hidden from our role: nothing of it may be deleted on the new side."""
    with scene.alone["schema"]:
        try:
            scene.heal(lambda: scene.world.legacy(_HIDE.format(dice.randrange(10))))
            yield
        finally:
            scene.heal(lambda: scene.world.legacy(_SHOW))


@fault(weight=1, grounds=DEMO)
def grant_revoked(scene: Scene, dice: Random) -> Iterator[None]:
    """Our role may not read one of the entity's tables."""
    table = dice.choice(("content_tags", "media_files", "authors"))
    with scene.alone["schema"]:
        try:
            scene.heal(lambda: scene.world.legacy(f"REVOKE SELECT ON {table} FROM sync_reader"))
            yield
        finally:
            scene.heal(lambda: scene.world.legacy(f"GRANT SELECT ON {table} TO sync_reader"))
