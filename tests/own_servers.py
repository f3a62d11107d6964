"""Servers of a run's own, for programs that are no pytest session: `make chaos` and `make matrix`."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.fleet import Fleet, down, up
from demo.home import JARS_SETTING, Home

REPOSITORY = Path(__file__).resolve().parents[1]


@contextmanager
def own_servers(prefix: str) -> Iterator[Fleet]:
    """Bring servers up in a temporary folder, and leave nothing of them."""
    os.environ.setdefault(JARS_SETTING, str(REPOSITORY / ".demo" / "jars"))
    with tempfile.TemporaryDirectory(prefix=prefix) as folder:
        Path(folder).chmod(0o755)  # servers may run under another account
        home = Home(Path(folder) / "servers")
        try:
            yield up(home)
        finally:
            down(home)
