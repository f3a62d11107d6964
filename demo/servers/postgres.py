"""A PostgreSQL 18 server."""

from __future__ import annotations

import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil  # type: ignore[import-untyped]
import psycopg2

from demo.errors import DemoError
from demo.machine import postgres_program
from demo.servers.account import Account, account_for
from demo.servers.server import Server

SUPERUSER = "postgres"

# Both sides. Durable as shipped; the rest is size and what lag is measured by.
_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "160MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "on",
    "track_commit_timestamp": "on",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# The monolith's side: what change capture by WAL slot would need, and prepared transactions.
LEGACY_OPTIONS = {"wal_level": "logical", "max_prepared_transactions": "20"}


class PostgresServer(Server):
    """`options` go to the server over the demo's own."""

    stop_seconds = 30.0

    def __init__(self, home: Path, name: str, port: int, options: Mapping[str, str] | None = None) -> None:
        super().__init__(home, name, port)
        self.options = {**_OPTIONS, **(options or {})}
        self.pgdata = self.folder / "pgdata"

    @cached_property
    def account(self) -> Account:
        """Who runs it; the folder must be there."""
        return account_for(postgres_program("postgres"), self.folder)

    @property
    def password(self) -> str:
        """The password of every role the demo makes on this server."""
        return self._password_file.read_text().strip()

    @property
    def _password_file(self) -> Path:
        return self.folder / "password"

    def url(self, database: str, user: str = SUPERUSER) -> str:
        """A connection string."""
        return f"postgresql://{user}:{quote(self.password)}@{self.address}/{database}"

    def command(self) -> list[str]:
        settings = [f"--{name.replace('_', '-')}={value}" for name, value in sorted(self.options.items())]
        program = str(postgres_program("postgres"))
        return [*self.account.prefix, program, "-D", str(self.pgdata), "-p", str(self.port), *settings]

    def marks(self) -> set[str]:
        return {str(postgres_program("postgres")), "-D", str(self.pgdata)}

    def spawn_options(self) -> dict[str, Any]:
        return {**self.account.options, "cwd": self.folder}

    def is_part(self, candidate: psutil.Process) -> bool:
        """Children carry another title, and an initdb may be left, but all of them work in the server's folder."""
        at_home = Path(candidate.cwd()).is_relative_to(self.folder)
        return candidate.name() in {"postgres", "initdb"} and at_home

    def ask_to_stop(self, leader: psutil.Process) -> None:
        """A fast shutdown: open transactions are rolled back."""
        leader.send_signal(signal.SIGINT)

    def prepare(self) -> None:
        """Make the database folder under another name first: a half-made one is never taken for whole."""
        self.account.own(self.folder)
        if self.pgdata.exists():
            # a start comes here only when nothing of ours runs; a zombie would still pass for the file's owner
            (self.pgdata / "postmaster.pid").unlink(missing_ok=True)
            return
        fresh = self.folder / "pgdata.new"
        shutil.rmtree(fresh, ignore_errors=True)
        self._write_password()
        self._initdb(fresh)
        fresh.rename(self.pgdata)

    def _write_password(self) -> None:
        self._password_file.write_text(secrets.token_hex(12))
        self._password_file.chmod(0o600)
        self.account.own(self._password_file)

    def _initdb(self, folder: Path) -> None:
        command = [
            *self.account.prefix,
            str(postgres_program("initdb")),
            f"--pgdata={folder}",
            f"--username={SUPERUSER}",
            f"--pwfile={self._password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
        ]
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, check=False, **self.account.options
        )
        if done.returncode != 0:
            raise DemoError(f"{self.name}: initdb failed: {done.stderr.strip()}")

    def answers(self) -> bool:
        try:
            psycopg2.connect(self.url("postgres"), connect_timeout=2).close()
        except (psycopg2.Error, OSError):
            return False
        return True
