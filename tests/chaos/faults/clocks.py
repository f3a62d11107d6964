"""Clocks that are set back: the ledger is left as a server's clock that ran an hour ahead would have left it."""

from collections.abc import Iterator
from random import Random

from tests.chaos.faults.fault import fault
from tests.chaos.scene import Scene

_NEW_SIDE = """
    UPDATE sync.server SET seen_at = seen_at + interval '1 hour' WHERE side = 'new-side';
    UPDATE sync.cursor SET lease_until = lease_until + interval '1 hour', swept_at = swept_at + interval '1 hour';
    UPDATE sync.due SET first_at = first_at + interval '1 hour', last_at = last_at + interval '1 hour',
        not_before = not_before + interval '1 hour', claimed_until = claimed_until + interval '1 hour';
    UPDATE sync.heartbeat SET seen_at = seen_at + interval '1 hour'"""
_MONOLITH = """
    UPDATE sync.server SET seen_at = seen_at + interval '1 hour' WHERE side = 'monolith';
    UPDATE sync.cursor SET applied_through = applied_through + interval '1 hour',
        swept_from = swept_from + interval '1 hour', compared_from = compared_from + interval '1 hour'"""


@fault(weight=1)
def clock_set_back(scene: Scene, dice: Random) -> Iterator[None]:
    """Of the new side or of the monolith: leases, what is due, and what is claimed lie in the future then."""
    side = dice.choice((_NEW_SIDE, _MONOLITH))
    scene.done["new side's clock" if side is _NEW_SIDE else "monolith's clock"] += 1
    scene.heal(lambda: scene.world.target(side))
    yield
