"""The account PostgreSQL runs under: it refuses root, so root lends it another."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.errors import DemoError

_NAME = "nobody"
# reach the folder, run the program, be somebody else than root
_TRIAL = 'cd "$1" && "$2" --version >/dev/null && test "$(id -u)" -ne 0'


@dataclass(frozen=True)
class Account:
    """How to run a program: arguments for subprocess, and words before the command."""

    options: dict[str, Any] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    # who must own the files; None leaves them as they are
    owner: tuple[int, int] | None = None

    def own(self, path: Path) -> None:
        """Give a path to the account."""
        if self.owner is not None:
            os.chown(path, *self.owner)

    def can_run(self, program: Path, folder: Path) -> bool:
        """Whether the program runs in the folder under this account."""
        command = [*self.prefix, "/bin/sh", "-c", _TRIAL, "sh", str(folder), str(program)]
        return subprocess.run(command, capture_output=True, check=False, **self.options).returncode == 0


def account_for(program: Path, folder: Path) -> Account:
    """The current user; for root, the first of two accounts that reaches program and folder."""
    if os.geteuid() != 0:
        return Account()
    for account in (_unprivileged(), _mapped()):
        account.own(folder)
        if account.can_run(program, folder):
            return account
    raise DemoError(
        f"PostgreSQL does not run as root, and the user {_NAME} reaches {program} or {folder} not:"
        " run the demo as an ordinary user, or from a folder everybody may enter."
    )


def _unprivileged() -> Account:
    entry = pwd.getpwnam(_NAME)
    options = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    return Account(options=options, owner=(entry.pw_uid, entry.pw_gid))


def _mapped() -> Account:
    """Root's own files seen from a user namespace where root is nobody (Linux): enters folders closed to others."""
    if shutil.which("unshare") is None:
        return _unprivileged()
    entry = pwd.getpwnam(_NAME)
    prefix = ("unshare", "--user", f"--map-user={entry.pw_uid}", f"--map-group={entry.pw_gid}")
    return Account(prefix=prefix, owner=(0, 0))
