"""The command line in processes of its own, to be killed. They are forked from one that has imported everything."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    ["sync_pipeline.cli", "assets.entities.text", "boto3.s3.transfer", "elasticsearch", "tests.command"]
)


class Command:
    """`sync-pipeline ARGUMENTS`, with settings over those of the environment; its output goes to a file."""

    def __init__(self, log: Path, *arguments: str, **settings: str) -> None:
        self.arguments = arguments
        self.log = log
        environment = {**os.environ, **settings}
        self._process = _PROCESSES.Process(target=_main, args=(arguments, environment, str(log)), daemon=True)
        self._process.start()

    def wait(self, seconds: float = 240) -> int:
        """Its exit code; a signal's number is negative. Fails when it does not end in time."""
        self._process.join(seconds)
        code = self._process.exitcode
        assert code is not None, f"{self.arguments} goes on after {seconds} s:\n{self.tail()}"
        return code

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.is_alive()

    def interrupt(self) -> None:
        """Ask it to end in order."""
        os.kill(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self._process.kill()
        self._process.join()

    def tail(self) -> str:
        """The end of its output."""
        return self.log.read_text()[-3_000:]


def _main(arguments: tuple[str, ...], environment: dict[str, str], log: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.argv = ["sync-pipeline", *arguments]
    from sync_pipeline.cli import main

    main()
