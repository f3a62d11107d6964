"""Servers of a round's own, for a side that is to fail over: the shared ones keep their timeline."""

import copy
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from demo.fleet import Fleet
from tests.chaos.faults import FAULTS
from tests.chaos.network import Network
from tests.chaos.plan import Plan
from tests.failover import SETTING, Pair


@contextmanager
def paired_fleet(fleet: Fleet, network: Network, plan: Plan) -> Iterator[Fleet]:
    """The fleet, with a pair in place of each side that a fault of the plan fails over; the network leads there."""
    own = copy.copy(fleet)
    with ExitStack() as stack:
        for side in sorted({FAULTS[strike.fault].fails_over for strike in plan.strikes} - {""}):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{side}-", dir=fleet.home.root)))
            folder.chmod(0o755)  # servers may run under another account
            pair = Pair(folder, side)
            stack.callback(pair.close)
            stack.enter_context(network.leading(SETTING[side], pair.port))
            setattr(own, side, pair)
        yield own
