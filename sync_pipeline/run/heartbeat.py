"""Heartbeats: each worker adds a beat every few seconds; one that was killed or hangs falls silent.

A process of this machine that has ended is known at once: host, boot, process number and the kernel's start tick name
one process for ever. Of any other process only its beats are known. Silence is measured by whoever watches, by its own
monotonic clock, so that a step of the ledger's clock or of a host's makes no worker look lost.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import psycopg2
from sqlalchemy.exc import SQLAlchemyError

from sync_pipeline.errors import FormerReleaseError, LeaseLostError, UnreachableError
from sync_pipeline.ledger import cursor_table
from sync_pipeline.ledger.ledger import migrate
from sync_pipeline.run.background import in_background
from sync_pipeline.stores.sessions import Purpose
from sync_pipeline.stores.stores import Stores
from sync_pipeline.stores.takeover import end_lost_sessions

log = logging.getLogger(__name__)

BEAT_SECONDS = 3.0


@contextmanager
def beating(stores: Stores, name: str) -> Iterator[None]:
    """Be seen under a name until the end of the block; a ledger that does not answer is told later."""
    with in_background(partial(_beat_until, stores, name), "heartbeat"):
        yield


def beat(stores: Stores, name: str, worked_seconds: float = 0.0, hanging: Iterable[str] = ()) -> None:
    """Add a beat, with the seconds worked by our own clock and the entities that hang. Raises UnreachableError.

    One statement: nothing stays locked where this host is lost in the middle of it.
    """
    with stores.target_at_once(Purpose.LOOK) as cursor:
        cursor.execute(
            "INSERT INTO sync.heartbeat AS h (name, host, pid, started_ticks, beats, worked_seconds, hanging)"
            " VALUES (%s, %s, %s, %s, 1, %s, %s) ON CONFLICT (name) DO UPDATE SET seen_at = now(),"
            " started_at = CASE WHEN h.pid = excluded.pid THEN h.started_at ELSE now() END, host = excluded.host,"
            " pid = excluded.pid, started_ticks = excluded.started_ticks, beats = h.beats + 1,"
            " worked_seconds = excluded.worked_seconds, hanging = excluded.hanging",
            (name, here(), os.getpid(), started_ticks(os.getpid()), worked_seconds, list(hanging)),
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
class LastHeartbeat:
    """The last heartbeat of a worker.

    `started_ticks` and `worked_seconds` are None for a worker of a version that did not record them.
    """

    host: str
    pid: int
    started_ticks: int | None = None
    beats: int = 0
    seen_at: str = ""
    worked_seconds: float | None = None
    hanging: tuple[str, ...] = ()

    @property
    def mark(self) -> str:
        """A text that differs from beat to beat, and says nothing about when."""
        return f"{self.host} {self.pid} {self.started_ticks} {self.beats} {self.seen_at}"

    def kill(self) -> bool:
        """End a silent process of this machine; return whether it is, or was, a process of this machine.

        A process whose start tick is not known is left alone unless it has ended: its number may be another's by now.
        """
        if self.is_gone:
            return True
        if not self._is_here or self.started_ticks is None:
            return False
        os.kill(self.pid, signal.SIGKILL)
        return True

    @property
    def is_gone(self) -> bool:
        """Whether it was a process of this machine that has ended."""
        if not self._is_here:
            return False
        ticks = started_ticks(self.pid)
        return ticks is None or self.started_ticks not in (None, ticks)

    @property
    def _is_here(self) -> bool:
        return bool(self.host) and self.host == here()


@dataclass(frozen=True)
class Workers:
    """The ledger's id, or None before there is one, and the last heartbeat of each worker, by its name."""

    ledger: str | None
    last_heartbeats: dict[str, LastHeartbeat]


def read_workers(stores: Stores) -> Workers:
    """Read all workers that have not taken their leave, and the ledger's id beside them. Raises UnreachableError."""
    with stores.target() as cursor:
        cursor.execute(
            "SELECT to_regclass('sync.heartbeat') IS NOT NULL, to_regclass('sync.ledger_identity') IS NOT NULL"
        )
        seen, named = cursor.fetchone()
        if not seen:
            return Workers(None, {})
        # as JSON: a ledger that an older version has made lacks columns
        cursor.execute(
            "SELECT i.id, to_jsonb(h) FROM sync.ledger_identity i LEFT JOIN sync.heartbeat h ON true"
            if named
            else "SELECT NULL, to_jsonb(h) FROM sync.heartbeat h"
        )
        found = cursor.fetchall()
    ledger = found[0][0] if found else None
    return Workers(ledger, {row["name"]: _last_heartbeat(row) for _, row in found if row})


def last_heartbeats(stores: Stores) -> dict[str, LastHeartbeat]:
    """All workers that have not taken their leave, by name. Raises UnreachableError."""
    return read_workers(stores).last_heartbeats


def free_leases(stores: Stores, name: str) -> None:
    """Let others take a dead follower's leases at once, and end what it left at work. Raises UnreachableError."""
    with stores.target_at_once(Purpose.LOOK) as cursor:
        freed = cursor_table.free_leases_of(cursor, name)
        cursor.execute("SELECT to_regclass('sync.sweep') IS NOT NULL")
        if cursor.fetchone()[0]:
            cursor.execute("UPDATE sync.sweep SET owner = NULL, lease_until = NULL WHERE owner = %s", (name,))
    for entity, epoch in freed:
        end_lost_sessions(stores, entity, epoch + 1)


def free_leases_of_the_gone(stores: Stores) -> None:
    """Leases of followers of this machine that were killed need not run out. Raises UnreachableError."""
    for name, seen in last_heartbeats(stores).items():
        if seen.is_gone:
            free_leases(stores, name)


def quietly(act: Callable[[], None]) -> None:
    """Do it, or say in the log why it could not be done now."""
    try:
        act()
    except (UnreachableError, LeaseLostError, FormerReleaseError, psycopg2.Error, SQLAlchemyError) as error:
        # it may be read only for a time, or all connections are in use; whom it refuses keeps saying so until upgraded
        log.warning("ledger not told", extra={"error": str(error)})


@cache
def here() -> str:
    """Where a process number is ours to judge: this boot of this host, and in it this container; "" if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def started_ticks(pid: int) -> int | None:
    """The kernel's tick, since this machine's boot, at which a process began; None when it has ended.

    No clock that can be set enters into it, so process number and tick name one process of one boot.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def _last_heartbeat(row: dict[str, Any]) -> LastHeartbeat:
    return LastHeartbeat(
        row["host"],
        row["pid"],
        row.get("started_ticks"),
        row.get("beats", 0),
        row["seen_at"],
        row.get("worked_seconds"),
        tuple(row.get("hanging", ())),
    )


def _beat_until(stores: Stores, name: str, stop: threading.Event) -> None:
    began = time.monotonic()
    quietly(partial(migrate, stores))
    quietly(partial(beat, stores, name))
    while not stop.wait(BEAT_SECONDS):
        quietly(lambda: beat(stores, name, time.monotonic() - began))
    quietly(partial(leave, stores, name))
