"""Repair: drifting keys go through the pipeline again, by force; nothing else is touched."""

from __future__ import annotations

import pyarrow as pa

from sync_pipeline.batch.order import Order, Outcome
from sync_pipeline.garbage import collect
from sync_pipeline.lane import Lane
from sync_pipeline.ledger.media import abandon
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.reconcile.files import rows_naming
from sync_pipeline.reconcile.reconcile import keys_of
from sync_pipeline.reconcile.verdict import KNOWN, Finding
from sync_pipeline.visibility import check_visibility

# the cause of its batches, in the log
CAUSE = "repair"
_CHUNK = 2_000


def repair(lane: Lane, findings: list[Finding]) -> list[Outcome]:
    """Mend what a reconciliation found. Findings that are pending, discarded or unknown are left alone.

    Raises HiddenRowsError where the monolith may hide rows that would be deleted for it.
    """
    check_visibility(lane.entity, lane.stores)
    findings = [finding for finding in findings if finding.kind not in {*KNOWN, "unknown"}]
    _remove_extra(lane, findings)
    keys = pa.concat_tables([keys_of(lane, findings), _renewed(lane, findings)])
    keys = keys.group_by(keys.column_names).aggregate([])
    chunks = (keys.slice(first, _CHUNK) for first in range(0, keys.num_rows, _CHUNK))
    return [sync_keys(lane, chunk, Order(force=True, cause=CAUSE)) for chunk in chunks]


def _renewed(lane: Lane, findings: list[Finding]) -> pa.Table:
    """Keys of the rows whose files must be copied anew; of damaged objects the ledger must not believe it has them.

    A stale one is whole: rows may go back to it until it is garbage.
    """
    media = [finding for finding in findings if finding.sink == "media" and finding.kind != "extra"]
    rows = rows_naming(lane, [finding.key for finding in media])
    with lane.stores.target() as cursor:
        damaged = [finding.key for finding in media if finding.kind != "stale"]
        cursor.execute("DELETE FROM sync.media WHERE target_key = ANY(%s)", (damaged,))
    return lane.origin.key.parse(sorted(set().union(*rows.values())))


def _remove_extra(lane: Lane, findings: list[Finding]) -> None:
    """Objects that we never put there, under our own prefix; but for those that were, or are about to be, by now."""
    extra = [finding.key for finding in findings if finding.sink == "media" and finding.kind == "extra"]
    if extra:
        with lane.stores.target() as cursor:
            abandon(cursor, extra)
        while collect(lane.stores):
            pass
