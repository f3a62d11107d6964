"""Requests for sweeps: asks the follower of an entity for one, and says whether one is due or has answered."""

from __future__ import annotations

import datetime as dt
import threading
import time

from sync_pipeline.entities.context import EntityContext
from sync_pipeline.ledger import cursor_table, queue_reads, sweeps
from sync_pipeline.ledger.servers import take_back_claims
from sync_pipeline.model.faults import guarded
from sync_pipeline.model.reasons import Reason

_LOOK_SECONDS = 0.5


def sweep_is_due(context: EntityContext) -> bool:
    """Whether a sweep is under way, the last whole one is too long ago, or somebody waits for a newer one.

    One that the brake holds is made again after SYNC_SWEEP_SECONDS, or goes on at once when a person has approved it.
    """
    since = "swept_from" if guarded(82) else "swept_at"
    with context.stores.target() as cursor:
        cursor.execute(
            "SELECT coalesce(s.state, 'ended'), s.ended_at < now() - %(seconds)s * interval '1 s',"
            " EXISTS (SELECT FROM sync.sweep_approval a WHERE a.entity = c.entity AND a.ended_at IS NULL),"
            " swept_at IS NULL OR swept_at < now() - %(seconds)s * interval '1 s'"
            f" OR coalesce(sweep_wanted > coalesce({since}, '-infinity'), false)"
            " FROM sync.cursor c LEFT JOIN sync.sweep s USING (entity) WHERE entity = %(entity)s",
            {"seconds": context.stores.settings.sweep_seconds, "entity": context.entity.name},
        )
        state, is_old, is_approved, is_wanted = cursor.fetchone()
    if state == sweeps.HELD:
        return bool(is_old or is_approved)
    return bool(state == sweeps.WALKING or is_wanted)


def ask_for_sweep(context: EntityContext, since: dt.datetime) -> None:
    """Have whoever follows the entity sweep again, unless the last sweep began after `since` (legacy time).

    A sweep that seems to have begun after the monolith's present time did so by a clock that was set back since.
    """
    now = context.stores.legacy_now()
    with context.stores.target() as cursor:
        take_back_claims(cursor, now, context.entity.name, since)
        cursor_table.want_sweep(cursor, context.entity.name, since)


def await_sweep(context: EntityContext, seconds: float) -> bool:
    """Have whoever follows the entity sweep, and wait until what it found is applied; False when nobody follows.

    Waits no longer than `seconds`. Raises UnreachableError.
    """
    name = context.entity.name
    with context.stores.target() as cursor:
        cursor.execute("SELECT coalesce(lease_until > now(), false) FROM sync.cursor WHERE entity = %s", (name,))
        if not cursor.fetchone()[0]:
            return False
    since = context.stores.legacy_now()
    ask_for_sweep(context, since)
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and not is_swept(context, since):
        threading.Event().wait(_LOOK_SECONDS)
    return True


def is_swept(context: EntityContext, since: dt.datetime) -> bool:
    """Return whether a sweep has begun after `since` (legacy time), and what it found is applied."""
    with context.stores.target() as cursor:
        is_owed = queue_reads.has_reason(cursor, context.entity.name, (Reason.SWEEP, Reason.MEDIA))
        cursor.execute(
            f"SELECT coalesce(swept_from >= %s, false) AND NOT {is_owed} FROM sync.cursor c WHERE entity = %s",
            (since, context.entity.name),
        )
        return bool(cursor.fetchone()[0])
