"""The recovery after the new side has lost commits: its outer sinks and files are compared with what its ledger knows.

A database that fails over to a standby, or is restored, may lack its last transactions, while the cluster and the
bucket keep what those had written. The sweep compares the monolith with the ledger, so it does not see what the ledger
knows nothing of. The recovery has each sink compare its parts, such as ids and versions of an index and then documents
that the ledger counts on, page by page, and queues each difference. It keeps its place in the ledger, beside the live
delta.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from sync_pipeline.db.sql import Cursor
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import UnreachableError
from sync_pipeline.model.reasons import Reason
from sync_pipeline.queue import due
from sync_pipeline.sinks.sink import PartPage
from sync_pipeline.stores.stores import SEARCH_SECONDS

log = logging.getLogger(__name__)

REASON = Reason.RECOVERED
# a request that a worker had sent for a lost transaction has arrived by then, or never will
SETTLE_SECONDS = 2.0 * SEARCH_SECONDS
_CLAIM_SECONDS = 120
_CLAIM = f"""
    UPDATE sync.recovery SET claimed_until = clock_timestamp() + interval '{_CLAIM_SECONDS} s'
    WHERE (entity, sink, part) = (
        SELECT entity, sink, part FROM sync.recovery WHERE entity = %s AND done_at IS NULL
            AND asked_at NOT BETWEEN clock_timestamp() - %s * interval '1 s' AND clock_timestamp()
            AND (claimed_until IS NULL OR claimed_until NOT BETWEEN clock_timestamp()
                AND clock_timestamp() + 2 * interval '{_CLAIM_SECONDS} s')
        ORDER BY part DESC, sink LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING sink, part, asked_at, position
"""
_ADVANCE = """
    UPDATE sync.recovery SET position = %s, checked = checked + %s, queued = queued + %s, claimed_until = NULL,
        done_at = CASE WHEN %s THEN clock_timestamp() END
    WHERE (entity, sink, part, asked_at) = (%s, %s, %s, %s) AND position IS NOT DISTINCT FROM %s
"""


@dataclass(frozen=True)
class _Place:
    """How far a part of a sink has been compared."""

    sink: str
    part: str
    asked_at: object
    position: list[str] | None


def recover(context: EntityContext, halt: threading.Event) -> None:
    """Compare page by page what is left to compare, and queue what differs, until nothing is left or `halt` is set.

    Each page is one worker's. Raises UnreachableError.
    """
    while not halt.is_set() and context.stores.servers.recovers:
        with context.stores.target() as cursor:
            cursor.execute(_CLAIM, (context.entity.name, SETTLE_SECONDS))
            found = cursor.fetchone()
        if not found:
            return
        _compare(context, _Place(*found))


def _compare(context: EntityContext, place: _Place) -> None:
    sink = context.entity.sink(place.sink)
    if sink is None or place.part not in sink.recovery_parts:
        page = PartPage(None, 0)  # the entity's file declares it no longer
    else:
        page = sink.compare_part(context.of_sinks, place.part, place.position)
    with context.stores.target() as cursor:
        _advance(context, cursor, place, page)


def _advance(context: EntityContext, cursor: Cursor, place: _Place, page: PartPage) -> None:
    """Note that a page is compared; nothing of it counts where the recovery was asked for anew meanwhile."""
    name = context.entity.name
    due.owe(cursor, name, REASON, page.keys)
    copied = _copy_again(cursor, page.lost) if page.lost else 0
    is_last = page.position is None
    values = page.position or place.position, page.checked, len(page.keys) + copied, is_last
    cursor.execute(_ADVANCE, (*values, name, place.sink, place.part, place.asked_at, place.position))
    if cursor.rowcount != 1:
        raise UnreachableError(f"entity {name}: the recovery of its {place.part} was begun anew meanwhile")
    if is_last:
        log.info("recovered", extra={"entity": name, "part": place.part})


def _copy_again(cursor: Cursor, lost: Sequence[str]) -> int:
    """Forget files that were removed by lost transactions, and have all rows that name them copy them."""
    cursor.execute("SELECT DISTINCT entity, key FROM sync.media_ref WHERE target_key = ANY(%s)", (list(lost),))
    naming: dict[str, list[str]] = {}
    for entity, key in cursor.fetchall():
        naming.setdefault(entity, []).append(key)
    for entity, keys in sorted(naming.items()):
        due.owe(cursor, entity, Reason.MEDIA, sorted(keys))
    cursor.execute("DELETE FROM sync.media WHERE target_key = ANY(%s)", (list(lost),))
    return sum(map(len, naming.values()))
