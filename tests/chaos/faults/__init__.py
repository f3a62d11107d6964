"""The faults, a family in each file."""

from tests.chaos.faults import (
    clocks,
    connections,
    deployments,
    disks,
    failovers,
    files,
    followers,
    hidden,
    hosts,
    kills,
    rebuilds,
    receivers,
    restarts,
    rows,
    schema,
    search,
    slots,
    stamps,
    transactions,
)
from tests.chaos.faults.fault import FAULTS, Fault

FAMILIES = (
    *(clocks, connections, deployments, disks, failovers, files, followers, hidden, hosts, kills),
    *(rebuilds, receivers, restarts, rows, schema, search, slots, stamps, transactions),
)
__all__ = ["FAMILIES", "FAULTS", "Fault"]
