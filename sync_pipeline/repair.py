"""Repair: drifting keys go through the pipeline again, by force; nothing else is touched."""

from __future__ import annotations

import pyarrow as pa
from botocore.exceptions import BotoCoreError, ClientError

from sync_pipeline.errors import UnreachableError
from sync_pipeline.lane import Lane
from sync_pipeline.pipeline import Order, Outcome, sync_keys
from sync_pipeline.reconcile.reconcile import keys_of
from sync_pipeline.reconcile.verdict import Finding

_CHUNK = 2_000


def repair(lane: Lane, findings: list[Finding]) -> list[Outcome]:
    """Mend what a reconciliation found. Findings that are pending or unknown are left alone."""
    findings = [finding for finding in findings if finding.kind not in {"pending", "unknown"}]
    lost = [f.key for f in findings if f.sink == "media" and f.kind != "extra"]
    _remove_extra(lane, findings)
    keys = pa.concat_tables([keys_of(lane, findings), _forget(lane, lost)])
    keys = keys.group_by(keys.column_names).aggregate([])
    chunks = (keys.slice(first, _CHUNK) for first in range(0, keys.num_rows, _CHUNK))
    return [sync_keys(lane, chunk, Order(force=True)) for chunk in chunks]


def _forget(lane: Lane, objects: list[str]) -> pa.Table:
    """Let damaged objects be copied anew; gives the keys of the rows that name them."""
    with lane.stores.target() as cursor:
        cursor.execute(
            "SELECT DISTINCT key FROM sync.media_ref WHERE entity = %s AND target_key = ANY(%s)",
            (lane.entity.name, objects),
        )
        keys = [key for (key,) in cursor.fetchall()]
        cursor.execute("DELETE FROM sync.media WHERE target_key = ANY(%s)", (objects,))
    return lane.origin.key.parse(keys)


def _remove_extra(lane: Lane, findings: list[Finding]) -> None:
    """Objects that we never put there, under our own prefix."""
    bucket = lane.stores.settings.target_bucket.name
    try:
        for finding in findings:
            if finding.sink == "media" and finding.kind == "extra":
                lane.stores.target_s3.delete_object(Bucket=bucket, Key=finding.key)
    except (BotoCoreError, ClientError) as error:
        raise UnreachableError(f"SYNC_TARGET_S3_BUCKET: {error}") from error
