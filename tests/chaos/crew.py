"""Followers and backfills in processes of their own, started again whenever they end: what a supervisor does."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.chaos.guarded import Guarded
from tests.command import Command
from tests.world import wait_for

_LOOK_SECONDS = 0.05
_AGAIN_SECONDS = 0.3
_PATIENCE = 60


class Worker:
    """A command that is kept going; one of history ends when it has succeeded."""

    def __init__(self, log: Path, *arguments: str, ends: bool = False) -> None:
        self.log = log
        self.arguments = arguments
        self.ends = ends
        self.command: Command | None = None
        self.code: int | None = None  # the last process's
        self.died_at = ""  # the boundary at which it died by itself
        self.done = False
        self._point = ""  # where the present process is to die
        self._next_point = ""
        self._killed = False
        self._farewell: int | None = None

    def keep(self, settings: dict[str, str]) -> bool:
        """Start it unless it runs or is done; whether a process has ended since the last look."""
        if self.done:
            return False
        if self.command and self.command.alive():
            return False
        ended = self.command is not None
        if self.command:
            self._note_end(self.command.wait())
        self.done = self._farewell is not None or (self.ends and ended and self.code == 0)
        if not self.done:
            self._start(settings)
        return ended

    def send(self, number: int) -> None:
        """Send a signal to the present process, if there is one."""
        command = self.command
        if command is not None:
            self._killed = self._killed or number == signal.SIGKILL
            with suppress(ProcessLookupError):
                os.kill(command.pid, number)

    def arm(self, point: str) -> None:
        """Have the next process die at a crash point (`point:nth`); the present one goes now."""
        self._next_point, self.died_at = point, ""
        self.send(signal.SIGKILL)

    def retire(self, number: int = signal.SIGTERM) -> None:
        """End it for good: asked to, or by force."""
        self._farewell = number
        self.send(number)

    def _start(self, settings: dict[str, str]) -> None:
        self._point, self._next_point, self._killed = self._next_point, "", False
        crash = {"SYNC_TEST_CRASH_AT": self._point} if self._point else {}
        self.command = Command(self.log, *self.arguments, **settings, **crash)
        if self._farewell is not None:  # it came while this one was started
            self.send(self._farewell)

    def _note_end(self, code: int) -> None:
        self.code, self.command = code, None
        by_itself = code == -signal.SIGKILL and not self._killed
        self.died_at = self._point.partition(":")[0] if by_itself else ""


class Crew:
    """All workers of a round; how they ended is counted."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.folder = folder
        self.settings = settings
        self.followers: list[Worker] = []
        self.histories: list[Worker] = []
        self.rebuilds: list[Worker] = []
        self.died_at: Counter[str] = Counter()  # boundaries
        self.ends: Counter[int] = Counter()  # exit codes
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._keeper = Guarded(self._keep)

    def __enter__(self) -> "Crew":
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._keeper.join()
        for worker in self._all:
            if worker.command:
                worker.command.kill()
        self._keeper.check()

    def follow(self) -> Worker:
        """One more follower."""
        return self._add(self.followers, "live", "sync", "--all", "--follow")

    def fill(self, entity: str) -> Worker:
        """A backfill, until it has succeeded."""
        return self._add(self.histories, "history", "backfill", entity, ends=True)

    def rebuild(self, *arguments: str) -> Worker:
        """A rebuild, until it has succeeded."""
        return self._add(self.rebuilds, "rebuild", "rebuild", *arguments, ends=True)

    @property
    def _all(self) -> list[Worker]:
        return [*self.followers, *self.histories, *self.rebuilds]

    def end(self, workers: Sequence[Worker]) -> list[Worker]:
        """Ask followers to end in order, and wait until they have; those that had to be killed."""
        for worker in workers:
            worker.retire()
        with suppress(AssertionError):
            wait_for(lambda: all(worker.done for worker in workers), _PATIENCE)
        hanging = [worker for worker in workers if not worker.done]
        for worker in hanging:
            worker.retire(signal.SIGKILL)
        wait_for(lambda: all(worker.done for worker in workers), _PATIENCE)
        return hanging

    def _add(self, workers: list[Worker], name: str, *arguments: str, ends: bool = False) -> Worker:
        worker = Worker(self.folder / f"{name}-{len(workers)}.log", *arguments, ends=ends)
        with self._lock:
            workers.append(worker)
        return worker

    def _keep(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            with self._lock:
                workers = self._all
            for worker in workers:
                if worker.keep(self.settings):
                    self._count(worker)

    def _count(self, worker: Worker) -> None:
        self.ends[worker.code or 0] += 1
        if worker.died_at:
            self.died_at[worker.died_at] += 1
        elif worker.code not in {0, -signal.SIGKILL}:
            self._stop.wait(_AGAIN_SECONDS)  # it could not begin: a store is away
