"""Followers and backfills in processes of their own, started again whenever they end: what a supervisor does."""

import os
import signal
import threading
from collections import Counter
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
        self.point = ""  # where the present process is to die by itself
        self.done = False
        self.retired = False
        self._armed = ""
        self._killed = False

    def keep(self, settings: dict[str, str]) -> tuple[str, int] | None:
        """Start it unless it runs; (where it was to die, exit code) when it has ended since the last look."""
        if self.done or (self.command and self.command.alive()):
            return None
        ended = (self.point if not self._killed else "", self.command.wait()) if self.command else None
        self.command, self._killed = None, False
        self.done = self.retired or (self.ends and ended is not None and ended[1] == 0)
        if not self.done:
            self.point, self._armed = self._armed, ""
            crash = {"SYNC_TEST_CRASH_AT": self.point} if self.point else {}
            self.command = Command(self.log, *self.arguments, **settings, **crash)
        return ended

    def signal(self, number: int) -> None:
        """Send a signal to the present process, if there is one."""
        command = self.command
        if command is not None:
            self._killed = self._killed or number == signal.SIGKILL
            with suppress(ProcessLookupError):
                os.kill(command.pid, number)

    def arm(self, point: str) -> None:
        """Have the next process die at a crash point (`point:nth`); the present one goes now."""
        self._armed = point
        self.signal(signal.SIGKILL)


class Crew:
    """All workers of a round; how they ended is counted."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.folder = folder
        self.settings = settings
        self.followers: list[Worker] = []
        self.histories: list[Worker] = []
        self.died_at: Counter[str] = Counter()  # crash points
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
        for worker in (*self.followers, *self.histories):
            if worker.command:
                worker.command.kill()
        self._keeper.check()

    def follow(self) -> Worker:
        """One more follower."""
        worker = Worker(self.folder / f"live-{len(self.followers)}.log", "sync", "--all", "--follow")
        with self._lock:
            self.followers.append(worker)
        return worker

    def fill(self, entity: str) -> Worker:
        """A backfill, until it has succeeded."""
        worker = Worker(self.folder / f"history-{len(self.histories)}.log", "backfill", entity, ends=True)
        with self._lock:
            self.histories.append(worker)
        return worker

    def retire(self, worker: Worker, number: int = signal.SIGTERM) -> None:
        """End one for good: asked to, or by force."""
        worker.retired = True
        worker.signal(number)

    def end(self) -> list[int]:
        """Ask all followers to end in order; their exit codes."""
        before = Counter(self.ends)
        for worker in self.followers:
            self.retire(worker)
        wait_for(lambda: all(worker.done for worker in self.followers), _PATIENCE)
        return sorted((self.ends - before).elements())

    def tail(self) -> str:
        """The end of what each has said."""
        return "\n".join(
            f"{worker.log.name}: {worker.log.read_text()[-1_500:]}"
            for worker in (*self.followers, *self.histories)
            if worker.log.exists()
        )

    def _keep(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            with self._lock:
                workers = [*self.followers, *self.histories]
            for worker in workers:
                ended = worker.keep(self.settings)
                if ended:
                    self._count(*ended)

    def _count(self, point: str, code: int) -> None:
        self.ends[code] += 1
        if point and code == -signal.SIGKILL:
            self.died_at[point.partition(":")[0]] += 1
        elif code not in {0, -signal.SIGKILL}:
            self._stop.wait(_AGAIN_SECONDS)  # it could not begin: a store is away
