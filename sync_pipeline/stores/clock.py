"""Readings of this machine's own clocks, so that a step of a server's clock is noticed.

The time that has passed between two readings on one host is taken from a clock that nothing can set. Between two
hosts, or across a reboot, only their wall clocks can be compared.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Reading:
    """One look at this machine's clocks, in seconds."""

    boot: str  # names the host's present boot; empty where the system does not tell it
    up: float  # since that boot, suspended time included
    wall: float  # since 1970, as the wall clock says

    @classmethod
    def now(cls) -> Reading:
        """Read the clocks."""
        return cls(_boot(), time.clock_gettime(time.CLOCK_BOOTTIME), time.time())

    def since(self, earlier: Reading) -> dt.timedelta:
        """Return the time that has passed since an earlier reading, of this process or another."""
        is_comparable = self.boot and self.boot == earlier.boot
        seconds = self.up - earlier.up if is_comparable else self.wall - earlier.wall
        return dt.timedelta(seconds=max(0.0, seconds))

    def as_state(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {"boot": self.boot, "up": self.up, "wall": self.wall}  # asdict would copy each, five times a second

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Reading:
        """Return a reading from JSON."""
        return cls(**state)


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
