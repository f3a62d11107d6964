"""Releases of the ledger: a migration's number says which form of the ledger a program knows.

A program may be older than the ledger while an upgrade is rolled out. Migrations come in two steps, so that both go on
side by side: the first one only adds, and the second one changes what the former release wrote, after it has refused
the former release. See ADR 36.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable
from functools import cache
from importlib.resources.abc import Traversable

from sync_pipeline.db.sql import Cursor
from sync_pipeline.errors import FormerReleaseError
from sync_pipeline.model.faults import guarded

# the ledger's own error: a program of a former release writes
FORMER_RELEASE = "SYL03"
# a session says its program's release in this setting, which triggers of the ledger read
_SETTING = "sync.writer"
_ANY_RELEASE = 2_147_483_647
_OLDEST = "SELECT (to_jsonb(i) ->> 'oldest_writer')::integer FROM sync.ledger_identity i"


@cache
def migrations() -> list[Traversable]:
    """Return the files of all migrations that this program knows, in their order."""
    files = importlib.resources.files("sync_pipeline.ledger").joinpath("migrations").iterdir()
    return sorted((file for file in files if file.name.endswith(".sql")), key=lambda file: file.name)


def release() -> int:
    """Return the number of the last migration that this program knows."""
    return int(migrations()[-1].name.partition("_")[0])


def writer_settings() -> dict[str, str]:
    """Return what a session at the new side must hold, so that the ledger knows the release of its program."""
    return {_SETTING: str(release() if guarded(145) else _ANY_RELEASE)}


def refuse_if_former(cursor: Cursor, applied: Iterable[str]) -> None:
    """Raise FormerReleaseError where newer migrations (names) than ours have been applied and our release is refused.

    The ledger refuses each write by itself. This says so before anything is opened.
    """
    newer = sorted(set(applied) - {file.name for file in migrations()})
    if not newer:
        return
    cursor.execute(_OLDEST)
    oldest = cursor.fetchone()[0] or 0
    if oldest > release() and guarded(145):
        raise FormerReleaseError(former_release(f"its migration {newer[-1]} is newer than this program"))


def former_release(reason: str) -> str:
    """Return the message for a program of a former release."""
    return (
        f"SYNC_TARGET_DB: the ledger refuses this program: {reason}. A newer release has migrated the ledger: upgrade"
        " sync-pipeline here, and stop programs of the former release. Nothing was written"
    )
