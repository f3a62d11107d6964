"""Whose an outbox's events are: one ledger acknowledges an aggregate's events, and a second one would miss changes.

Functions that `outbox install` made bear the ledger's id in their comment. An outbox that is filled by the monolith's
own code has no place for one, so whoever reads it shows it for as long as it does: by a shared advisory lock, whose
first number stands for outbox and aggregate, and whose second one is the ledger's id. Nothing waits for such a lock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from sync_pipeline.db.sql import Cursor
from sync_pipeline.errors import SettingError
from sync_pipeline.model.faults import guarded
from sync_pipeline.sources.outbox_catalogue import Events, Function, filling
from sync_pipeline.sources.source import Subject

_READERS = """
    SELECT DISTINCT objid::bigint FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 2 AND mode = 'ShareLock' AND classid = %s
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND objid <> %s
"""


def refuse_rivals(
    subject: Subject, events: Events, located: str, found: Iterable[Function], ledger: str | None
) -> None:
    """Raise SettingError where functions of another ledger fill the outbox with events of the same aggregate."""
    for function in filling(found, located):
        mark = function.mark
        if guarded(64) and events.include(mark.aggregate) and mark.ledger not in (None, ledger):
            raise SettingError(
                _refusal(subject, located, events.aggregate, str(mark.ledger), ledger)
                + f" If ledger {mark.ledger} is gone: sync-pipeline outbox install {subject.entity} --take-over"
            )


def show_reader(cursor: Cursor, located: str, aggregate: str, ledger: str | None) -> None:
    """Show, for as long as this session lasts, that a ledger acknowledges an aggregate's events."""
    if ledger:
        cursor.execute("SELECT pg_try_advisory_lock_shared(%s, %s)", (_signed(_place(located, aggregate)), _id(ledger)))


def refuse_readers(cursor: Cursor, subject: Subject, located: str, aggregate: str, ledger: str | None) -> None:
    """Raise SettingError where another ledger acknowledges the same events now."""
    if not ledger or not guarded(64):
        return
    cursor.execute(_READERS, (_place(located, aggregate), int(ledger, 16)))
    for (other,) in cursor.fetchall():
        raise SettingError(_refusal(subject, located, aggregate, f"{other:08x}", ledger))


def _refusal(subject: Subject, located: str, aggregate: str, other: str, ledger: str | None) -> str:
    return (
        f"entity {subject.entity}: events of {located}, aggregate {aggregate!r}, are acknowledged by ledger {other},"
        f" and this one is {ledger}: each would miss what the other one acknowledges. Give one of them an"
        " Outbox(table=…) or Outbox(aggregate=…) of its own."
    )


def _place(located: str, aggregate: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{located}\n{aggregate}".encode()).digest()[:4], "big")


def _signed(number: int) -> int:
    """The same 32 bits as PostgreSQL's integer, which advisory locks take."""
    return number - (1 << 32) if number >= 1 << 31 else number


def _id(ledger: str) -> int:
    return _signed(int(ledger, 16))
