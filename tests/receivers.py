"""The demo's receiver in a process of its own, to be killed and started again on the same port and file."""

import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

from demo.receiver import Items
from tests.world import wait_for

# the setting in which entities of tests name it
SETTING = "TEST_RECEIVER_URL"


class ReceiverProcess:
    """Objects in a file, and the service that writes it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "items.sqlite"
        self._log = folder / "receiver.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "demo.receiver", "--port", str(self.port), "--file", str(self.file)]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(self._answers)

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self._process.kill()
        self._process.wait()

    def renew(self) -> None:
        """Start it without objects."""
        self.kill()
        for file in self.file.parent.glob(f"{self.file.name}*"):
            file.unlink()
        self.start()

    def items(self) -> dict[str, dict]:
        """All objects by key, as its file has them."""
        with closing(Items(self.file)) as held:
            return {key: held.read(key)[1] for key in held.all_keys()}

    def spoil(self, key: str, body: dict | None) -> None:
        """Write an object behind the pipeline's back, under the revision that is there."""
        with closing(Items(self.file)) as held:
            held.write(key, max(1, held.read(key)[0]), body)

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/items/none", timeout=5):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
