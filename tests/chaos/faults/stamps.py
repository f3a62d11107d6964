"""Stamps: very many rows of one time, and application servers whose clocks are behind."""

from collections.abc import Iterator
from random import Random

from tests.chaos.faults.fault import DEMO, fault
from tests.chaos.ledger import note
from tests.chaos.scene import Scene

_MANY = """
    WITH made AS (
        INSERT INTO content (kind, title, status, created_at, updated_at)
        SELECT (ARRAY['text', 'video', 'audio'])[1 + n %% 3], 'one of many ' || n,
               CASE WHEN n %% 20 = 0 THEN 'published' ELSE 'draft' END, now(), now()
        FROM generate_series(1, %s) n RETURNING id, version)
    INSERT INTO demo.edit_log (content_id, kind, version, deleted) SELECT id, 'many', version, false FROM made"""
_BEHIND = """
    UPDATE content SET title = %s, updated_at = now() - %s * interval '1 s', version = version + 1
    WHERE id = ANY(%s)"""


@fault(weight=1, grounds=DEMO)
def one_stamp(scene: Scene, dice: Random) -> Iterator[None]:
    """Ten thousand rows of one transaction; a hundred thousand now and then."""
    rows = 100_000 if dice.random() < 0.03 else 10_000
    scene.world.legacy(_MANY, (rows,))
    scene.done[f"{rows} rows of one stamp"] += 1
    yield


@fault(weight=2, grounds=DEMO)
def clock_behind(scene: Scene, dice: Random) -> Iterator[None]:
    """By less than the margin: every source must report it."""
    _stamp_behind(scene, dice, scene.plan.margin * 0.8)
    yield


@fault(weight=2, swept=("watermark",), grounds=DEMO)
def clock_far_behind(scene: Scene, dice: Random) -> Iterator[None]:
    """By more than the margin: no watermark can see it."""
    _stamp_behind(scene, dice, dice.uniform(2, 3_600))
    yield


def _stamp_behind(scene: Scene, dice: Random, seconds: float) -> None:
    with scene.writer() as connection:
        for n in range(10):
            contents = scene.contents(dice, 2)
            connection.cursor().execute(_BEHIND, (f"behind {n}", seconds, contents))
            note(connection.cursor(), "behind", contents)
            connection.commit()
            scene.over.wait(dice.random() / 10)
