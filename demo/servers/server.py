"""What all servers of the demo share: start detached, be recognised, stop, be killed."""

from __future__ import annotations

import shlex
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from demo.errors import DemoError
from demo.machine import port_is_free

# The shell in between gives the server to init, so that no parent has to wait for it.
_DETACH = '"$@" &'
_POLL_SECONDS = 0.05


class Server(ABC):
    """One server, its folder and its port.

    A server is recognised by its command line, which names its folder: no pid is kept, so none can go stale
    and none of somebody else's is ever signalled.
    """

    stop_seconds = 20.0
    healthy_seconds = 90.0

    def __init__(self, home: Path, name: str, port: int) -> None:
        self.name = name
        self.port = port
        self.folder = home.absolute() / name
        self.log = self.folder / "server.log"

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    @abstractmethod
    def command(self) -> list[str]:
        """The command line; `marks` must be in it."""

    @abstractmethod
    def marks(self) -> set[str]:
        """Arguments that only this server's command line holds together."""

    @abstractmethod
    def prepare(self) -> None:
        """Make the folder ready for a start; harmless when it is."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it takes requests."""

    def spawn_options(self) -> dict[str, Any]:
        """More arguments for the start, such as the user to run as."""
        return {}

    def leader(self) -> psutil.Process | None:
        """The running server, or None."""
        return next(iter(_running(self.is_leader)), None)

    def is_leader(self, candidate: psutil.Process) -> bool:
        """Whether this is the server itself."""
        return self.marks() <= set(candidate.cmdline())

    def is_part(self, candidate: psutil.Process) -> bool:
        """Whether this belongs to the server: itself, or a child that outlived it."""
        return self.is_leader(candidate)

    def pid(self) -> int | None:
        """The running server's pid."""
        leader = self.leader()
        return leader.pid if leader else None

    def alive(self) -> bool:
        """Whether it runs, healthy or not."""
        return self.leader() is not None

    def healthy(self) -> bool:
        """Whether it runs and takes requests."""
        return self.alive() and self.answers()

    def start(self) -> None:
        """Start it unless it runs; clears away what a killed one left. Does not wait for health."""
        if self.alive():
            return
        self.clear()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.prepare()
        with self.log.open("ab") as log:
            subprocess.run(
                ["/bin/sh", "-c", _DETACH, "sh", *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                check=True,
                **self.spawn_options(),
            )

    def clear(self) -> None:
        """Clear away what a killed one left running."""
        self.kill()

    def wait_healthy(self, seconds: float | None = None) -> None:
        """Wait until it takes requests; raises when it ends or the time is up."""
        limit = time.monotonic() + (self.healthy_seconds if seconds is None else seconds)
        grace = time.monotonic() + 5  # the shell in between may not have become the server yet
        while not self.healthy():
            now = time.monotonic()
            if now > limit or (now > grace and not self.alive()):
                raise DemoError(f"{self.name} did not become healthy; its log ({self.log}) ends:\n{self._log_tail()}")
            time.sleep(_POLL_SECONDS)  # a server that starts can only be asked again

    def stop(self) -> None:
        """End it in order; kill it when that takes too long."""
        leader = self.leader()
        if leader is not None:
            self.ask_to_stop(leader)
            _wait_until(lambda: not _is_running(leader), self.stop_seconds)
        self.kill()

    def ask_to_stop(self, leader: psutil.Process) -> None:
        """Send the signal that ends it in order."""
        _signal(leader.terminate)

    def kill(self) -> None:
        """SIGKILL, with all its children, and wait until they are gone and what they held is free."""
        parts = _running(self.is_part)
        for part in parts:
            _signal(part.kill)
        _wait_until(lambda: not any(_is_running(part) for part in parts), 10)
        if parts and self.port:
            # a killed program of many threads is a zombie before the last of them lets go of the port
            _wait_until(lambda: port_is_free(self.port), 10)

    def restart(self) -> None:
        """Stop, start on the same port and folder, wait for health."""
        self.stop()
        self.start()
        self.wait_healthy()

    def _log_tail(self) -> str:
        if not self.log.exists():
            return f"(nothing; the command was {shlex.join(self.command())})"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


def _running(wanted: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    """Running programs that match; those that end or hide meanwhile do not."""
    found = []
    for candidate in psutil.process_iter():
        try:
            if candidate.status() != psutil.STATUS_ZOMBIE and wanted(candidate):
                found.append(candidate)
        except psutil.Error:
            continue
    return found


def _signal(send: Callable[[], None]) -> None:
    try:
        send()
    except psutil.NoSuchProcess:
        return


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and not condition():
        time.sleep(
            _POLL_SECONDS
        )  # neither the end of a process that is no child of ours nor a free port can be waited for


def _is_running(part: psutil.Process) -> bool:
    try:
        return bool(part.is_running() and part.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
