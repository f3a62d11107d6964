"""A full disk at the target.

Nothing is mounted or filled: a trigger raises what PostgreSQL raises when a file cannot grow (SQLSTATE 53100), at the
statement or at the commit. So it shows what the engine does with that error, not what the server does.
"""

from collections.abc import Iterator
from random import Random

from tests.chaos.faults.fault import fault
from tests.chaos.scene import Scene

_FULL = """
    CREATE OR REPLACE FUNCTION public.full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$"""
_AT_ONCE = "CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON {} EXECUTE FUNCTION public.full_disk()"
_AT_COMMIT = """
    CREATE CONSTRAINT TRIGGER full_disk AFTER INSERT OR UPDATE ON {} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    EXECUTE FUNCTION public.full_disk()"""


@fault(weight=2)
def disk_full(scene: Scene, dice: Random) -> Iterator[None]:
    """For a table of rows, of the ledger, or for what is owed."""
    entity = dice.choice([context.entity for context in scene.world.contexts.values()])
    rows = entity.table.name
    table = dice.choice((rows, rows, f"sync.ledger_{entity.name}", "sync.due", "sync.cursor"))
    with scene.alone["disk"]:
        scene.world.target(_FULL)
        try:
            scene.world.target(dice.choice((_AT_ONCE, _AT_COMMIT)).format(table))
            scene.done[f"{table} full"] += 1
            yield
        finally:
            scene.heal(lambda: scene.world.target("DROP FUNCTION IF EXISTS public.full_disk() CASCADE"))
