"""The faults, a family in each file."""

from tests.chaos.faults import followers, kills, restarts, rows, slots, stamps, transactions
from tests.chaos.faults.fault import FAULTS, Fault

__all__ = ["FAULTS", "Fault", "followers", "kills", "restarts", "rows", "slots", "stamps", "transactions"]
