"""Heartbeats: whoever works says so every few seconds; one that was killed or hangs falls silent.

A process of this machine that is gone is known at once; of any other, only that it has not been seen for a while.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import psycopg2

from sync_pipeline.beside import beside
from sync_pipeline.errors import LeaseLostError, UnreachableError
from sync_pipeline.ledger.ledger import migrate
from sync_pipeline.stores import Stores

log = logging.getLogger(__name__)

BEAT_SECONDS = 3.0
# the database's clock and the machine's do not run quite alike
_CLOCK_SECONDS = 2.0


@contextmanager
def beating(stores: Stores, name: str) -> Iterator[None]:
    """Be seen under a name until the end of the block; a ledger that does not answer is told later."""
    with beside(partial(_beat_until, stores, name), "heartbeat"):
        yield


def beat(stores: Stores, name: str) -> None:
    """Be seen now. Raises UnreachableError."""
    with stores.target() as cursor:
        cursor.execute(
            "INSERT INTO sync.heartbeat AS h (name, host, pid) VALUES (%s, %s, %s) ON CONFLICT (name) DO UPDATE SET"
            " seen_at = now(), started_at = CASE WHEN h.pid = excluded.pid THEN h.started_at ELSE now() END,"
            " host = excluded.host, pid = excluded.pid",
            (name, here(), os.getpid()),
        )


def leave(stores: Stores, name: str) -> None:
    """Be missed by nobody; those who were not seen for a week are not missed any more either.

    Raises UnreachableError.
    """
    with stores.target() as cursor:
        cursor.execute(
            "DELETE FROM sync.heartbeat WHERE name = %s OR seen_at < now() - interval '7 days'",
            (name,),
        )


@dataclass(frozen=True)
class Sighting:
    """When a worker was seen last; times are in seconds, and infinite for a process that is gone."""

    unseen: float
    known: float
    host: str
    pid: int

    def kill(self) -> bool:
        """End a process that hangs on this machine; whether it is one of this machine."""
        age = _age(self.pid) if self._is_here else None
        if age is not None and self._is_it(age):
            os.kill(self.pid, signal.SIGKILL)
        return self._is_here

    @property
    def is_gone(self) -> bool:
        """Whether it was a process of this machine that has ended."""
        if not self._is_here:
            return False
        age = _age(self.pid)
        return age is None or not self._is_it(age)

    @property
    def _is_here(self) -> bool:
        return bool(self.host) and self.host == here()

    def _is_it(self, age: float) -> bool:
        """Whether a process of this age can be it, or only has its number."""
        return age >= self.known - _CLOCK_SECONDS


def sightings(stores: Stores) -> dict[str, Sighting]:
    """All workers that have not taken their leave, by name. Raises UnreachableError."""
    with stores.target() as cursor:
        cursor.execute("SELECT to_regclass('sync.heartbeat') IS NOT NULL")
        if not cursor.fetchone()[0]:
            return {}
        cursor.execute(
            "SELECT name, extract(epoch FROM now() - seen_at)::float8, extract(epoch FROM now() - started_at)::float8,"
            " host, pid FROM sync.heartbeat"
        )
        found = {name: Sighting(*rest) for name, *rest in cursor.fetchall()}
    return {name: replace(seen, unseen=math.inf) if seen.is_gone else seen for name, seen in found.items()}


def free_leases(stores: Stores, name: str) -> None:
    """Let others take a dead follower's leases at once. Raises UnreachableError."""
    with stores.target() as cursor:
        cursor.execute("UPDATE sync.cursor SET owner = NULL, lease_until = NULL WHERE owner = %s", (name,))
        cursor.execute("SELECT to_regclass('sync.sweep') IS NOT NULL")
        if cursor.fetchone()[0]:
            cursor.execute("UPDATE sync.sweep SET owner = NULL, lease_until = NULL WHERE owner = %s", (name,))


def free_leases_of_the_gone(stores: Stores) -> None:
    """Leases of followers of this machine that were killed need not run out. Raises UnreachableError."""
    for name, seen in sightings(stores).items():
        if seen.unseen == math.inf:
            free_leases(stores, name)


def quietly(act: Callable[[], None]) -> None:
    """Do it, or say in the log why it could not be done now."""
    try:
        act()
    except (UnreachableError, LeaseLostError, psycopg2.Error) as error:  # it may be read only for a time
        log.warning("ledger not told", extra={"error": str(error)})


@cache
def here() -> str:
    """Where a process number is ours to judge: this boot of this host, and in it this container; "" if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _beat_until(stores: Stores, name: str, stop: threading.Event) -> None:
    quietly(partial(migrate, stores))
    quietly(partial(beat, stores, name))
    while not stop.wait(BEAT_SECONDS):
        quietly(partial(beat, stores, name))
    quietly(partial(leave, stores, name))


def _age(pid: int) -> float | None:
    """Seconds since a process of this machine began; None when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return None if fields[0] in {"Z", "X"} else time.clock_gettime(time.CLOCK_BOOTTIME) - began
