"""Runs the checks of a preflight: one that fails is a notice, and hides none of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg2

from sync_pipeline.errors import SyncError, UnreachableError
from sync_pipeline.model.notices import Notice

Check = Callable[[], Iterator[Notice]]


@dataclass(frozen=True)
class CheckResult:
    """The notices of a check. Where `reached` is false its store did not answer: checks that need it are left out."""

    notices: list[Notice]
    reached: bool = True


def run_check(about: str, at: Check) -> CheckResult:
    """Runs a check; an error that ends it is a notice too, so that the other checks go on."""
    notices: list[Notice] = []
    try:
        notices.extend(at())
    except UnreachableError as error:
        return CheckResult(
            [*notices, Notice("error", about, str(error), "start it, or mend the setting")], reached=False
        )
    except (SyncError, psycopg2.Error) as error:
        notices.append(Notice("error", about, str(error).strip()))
    return CheckResult(notices)
