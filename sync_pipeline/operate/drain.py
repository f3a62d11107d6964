"""Draining: once the monolith's writers are fenced off, all that they committed is brought over, and that is proven.

Whoever has a transaction open at the fence is waited for; then a whole sweep is begun beside the sources. What is in
all sinks after that leaves nothing out.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import StoppedError
from sync_pipeline.ledger import queue_reads
from sync_pipeline.ledger.bases import count_former
from sync_pipeline.ledger.queue_reads import ParkedRecord
from sync_pipeline.model.reasons import PARKED
from sync_pipeline.operate.fence import Fence, Held, Holder, horizon_of, put_fence, written_since
from sync_pipeline.operate.status import status_of
from sync_pipeline.run.live import caught_up, mark
from sync_pipeline.stores.stores import Stores

_LOOK_SECONDS = 0.2
_SHOWN = 20


@dataclass
class Drained:
    """What came of a drain. Times are the monolith's."""

    fence: Fence
    waited_for: list[Holder] = field(default_factory=list)
    still_open: list[Holder] = field(default_factory=list)
    through: dt.datetime | None = None  # everything committed before is in all sinks; None: that is not known
    entities: dict[str, dict[str, Any]] = field(default_factory=dict)  # as status tells
    parked: list[ParkedRecord] = field(default_factory=list)  # some of the rows that are not in
    written_since: list[str] = field(default_factory=list)  # sentences: by whoever was not fenced off

    @property
    def verdict(self) -> str:
        """`unknown` before `open fence` before `parked` before `drained`."""
        if self.through is None:
            return "unknown"
        if self.written_since:
            return "open fence"
        return "parked" if self.parked else "drained"


def drain(
    contexts: list[EntityContext], seconds: float, halt: threading.Event, failures: Collection[str] = ()
) -> Drained:
    """Wait until everything committed before now, or by whoever has a transaction open now, is in all sinks.

    Somebody must follow meanwhile; what `failures` comes to name is not waited for once all others are through. Gives
    up after so many seconds, or when `halt` is set. Raises SettingError at a replica, StoppedError where a history is
    not in.
    """
    limit = time.monotonic() + seconds
    # of no entity in particular; tables are counted as the entities read them
    stores = contexts[0].stores.of_entity("", filtered=any(context.entity.is_filtered for context in contexts))
    _refuse(contexts)

    def come(is_so: Callable[[], bool]) -> bool:
        """Wait for it; False when it does not come in time."""
        while not is_so():
            if time.monotonic() > limit or halt.wait(_LOOK_SECONDS):
                return False
        return True

    drained = Drained(put_fence(stores))
    held = Held(stores)
    drained.waited_for = held.open
    gone = come(held.have_ended)
    drained.still_open = held.open
    if gone:
        horizon = horizon_of(stores, (table.name for context in contexts for table in context.entity.tables))
        since = mark(contexts)
        come(lambda: _behind(contexts, since) <= {*failures})
        if not _behind(contexts, since):
            drained.through, drained.written_since = since, written_since(stores, horizon)
    drained.entities = {context.entity.name: status_of(stores, context.entity) for context in contexts}
    drained.parked = _parked(stores, drained.entities)
    return drained


def _behind(contexts: list[EntityContext], since: dt.datetime) -> set[str]:
    """Entities that have not caught up."""
    return {context.entity.name for context in contexts if not caught_up(context, since)}


def _refuse(contexts: Iterable[EntityContext]) -> None:
    """A sweep finds nothing of what was never filled, nor in rows of an older version. Raises StoppedError."""
    reasons = []
    for context in contexts:
        name, ledger = context.entity.name, context.ledger
        with context.stores.target() as cursor:
            cursor.execute(
                "SELECT filled_at IS NOT NULL, (SELECT count(*) FROM"
                f" {ledger.table} WHERE digest IS NOT NULL AND basis <> %s) FROM sync.cursor WHERE entity = %s",
                (ledger.basis, name),
            )
            is_filled, outdated = cursor.fetchone()
            former = count_former(cursor, name, ledger.table) if outdated else 0
        if not is_filled:
            reasons.append(f"entity {name}: its history is not all in: sync-pipeline backfill {name}")
        elif outdated == former > 0:
            reasons.append(
                f"entity {name}: {former:,} rows bear a former digest, so that it is not known whether they have"
                f" changed: wait until sweeps have compared them, which sync-pipeline status {name} shows"
            )
        elif outdated:
            reasons.append(
                f"entity {name}: {outdated:,} rows are of an older version, so that no sweep can tell whether they have"
                f" changed: sync-pipeline backfill {name}"
            )
    if reasons:
        raise StoppedError(*reasons)


def _parked(stores: Stores, entities: Iterable[str]) -> list[ParkedRecord]:
    with stores.target() as cursor:
        return queue_reads.parked(cursor, entities, PARKED, _SHOWN)
