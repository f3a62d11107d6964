"""What is played on: a monolith with its writers, its ledger, and an oracle that knows what must be there."""

from tests.chaos.grounds.awkward import Awkward
from tests.chaos.grounds.demo import Demo
from tests.chaos.grounds.ground import Ground

GROUNDS: dict[str, Ground] = {"demo": Demo(), "awkward": Awkward()}
__all__ = ["GROUNDS", "Ground"]
