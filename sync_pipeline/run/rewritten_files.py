"""Files that were overwritten under one key: the legacy bucket's listing beside the names that rows bear.

A listing and the ledger are both in the order of keys, so a page of the one is compared with that range of the other,
and no transaction stays open over a request to the bucket. Where no row of the entity names a file for a while, the
listing leaps to the next one that is named: an entity with few files in a large bucket lists little of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc
from botocore.exceptions import BotoCoreError, ClientError

from sync_pipeline.db.columns import array_literal
from sync_pipeline.db.sql import Cursor, bind, copy_in, copy_out
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import UnreachableError
from sync_pipeline.ledger import queue_reads, queue_table
from sync_pipeline.ledger.sweeps import Walk
from sync_pipeline.model.faults import guarded
from sync_pipeline.model.reasons import Reason
from sync_pipeline.queue import due

_PAGE = 1_000
# keys of so many records are looked through; where more are queued, a row may be queued twice until the walk ends
_FEW_RECORDS = 100
_LISTED = pa.schema([("source_key", pa.string()), ("etag", pa.string())])
_SUSPECTS = pa.schema([("key", pa.string()), ("missing", pa.bool_())])
_NEXT = """
    SELECT min(source_key) FROM sync.media_ref WHERE entity = %(entity)s
    AND (%(after)s IS NULL OR source_key > %(after)s)
"""


@dataclass
class ListingPage:
    """What the legacy bucket holds of a range of keys; `until` is None at the end of what rows name."""

    after: str | None
    until: str | None
    listed: pa.Table = field(default_factory=_LISTED.empty_table)

    def queue(self, cursor: Cursor, context: EntityContext, walk: Walk) -> int:
        """Owe rows whose file is not the one that was copied; how many. In the caller's short transaction."""
        suspects = self._suspects(cursor, context.entity.name)
        keys = _not_known(cursor, context.entity.name, suspects, walk)
        due.owe_swept(cursor, context.entity.name, Reason.MEDIA, keys, walk.number)
        return len(keys)

    def confirmed(self, context: EntityContext) -> ListingPage:
        """This page, corrected by a HEAD of each file that seems to be another one, or not to be there.

        A store may list a file under another spelling of its name, or with another ETag than it answers with.
        """
        if not guarded(133):
            return self
        answered: dict[str, str] = {}
        for sink in context.entity.placing_sinks:
            with context.stores.target() as cursor:
                self._stage(cursor)
                differing = self._differing(cursor, context.entity.name)
                cursor.execute(f"SELECT DISTINCT r.source_key {differing} AND r.sink = {bind(cursor, sink.id)}")
                names = [name for (name,) in cursor.fetchall() if name not in answered]
            answered |= sink.identities(context.stores, names)
        if not answered:
            return self
        others = pc.invert(pc.is_in(self.listed["source_key"], value_set=pa.array([*answered], pa.string())))
        corrected = pa.table([[*answered], [*answered.values()]], schema=_LISTED)
        return replace(self, listed=pa.concat_tables([self.listed.filter(others), corrected]))

    def _suspects(self, cursor: Cursor, entity: str) -> pa.Table:
        """Rows (key texts) that name other bytes than the bucket holds, and whether it holds none at all."""
        self._stage(cursor)
        return copy_out(
            cursor,
            f"SELECT r.key, bool_and(l.etag IS NULL) {self._differing(cursor, entity)} GROUP BY r.key ORDER BY 1",
            _SUSPECTS,
        )

    def _stage(self, cursor: Cursor) -> None:
        cursor.execute("CREATE TEMP TABLE IF NOT EXISTS listing (source_key text, etag text) ON COMMIT DELETE ROWS")
        copy_in(cursor, "pg_temp.listing", "source_key, etag", self.listed)

    def _differing(self, cursor: Cursor, entity: str) -> str:
        """SQL of names in this range, with what was copied (m) and what is listed (l), where the two differ."""
        bounds = cursor.mogrify(
            "r.entity = %(entity)s AND (%(after)s IS NULL OR r.source_key > %(after)s)"
            " AND (%(until)s IS NULL OR r.source_key <= %(until)s)",
            {"entity": entity, "after": self.after, "until": self.until},
        ).decode()
        return (
            "FROM sync.media_ref r LEFT JOIN sync.media m USING (target_key)"
            f" LEFT JOIN pg_temp.listing l ON l.source_key = r.source_key WHERE {bounds}"
            " AND l.etag IS DISTINCT FROM m.source_etag"
        )


def compare_listing(context: EntityContext, after: str | None) -> ListingPage:
    """The bucket's keys behind `after`, from the next one that a row of the entity names. Raises UnreachableError."""
    with context.stores.target() as cursor:
        cursor.execute(_NEXT, {"entity": context.entity.name, "after": after})
        following = cursor.fetchone()[0]
    if following is None:
        _check_reachable(context)
        return ListingPage(after, None)
    # a key without its last character is below it, and below next to nothing else
    start = max(after or "", following[:-1])
    keys, etags, more = _list(context, start, _PAGE)
    until = max(keys[-1], following) if more else None
    if more and keys != sorted(keys, key=str.encode):
        raise UnreachableError("SYNC_LEGACY_S3_BUCKET lists its keys out of order: what is missing cannot be told")
    return ListingPage(after, until, pa.table([keys, etags], schema=_LISTED)).confirmed(context)


def _check_reachable(context: EntityContext) -> None:
    """An entity that names no file is swept only where the bucket answers, like any other."""
    _list(context, "", 1)


def _list(context: EntityContext, start: str, limit: int) -> tuple[list[str], list[str], bool]:
    """(keys, their ETags, whether there are more) behind a key."""
    bucket = context.stores.settings.legacy_bucket.name
    try:
        found = context.stores.legacy_s3.list_objects_v2(Bucket=bucket, StartAfter=start, MaxKeys=limit)
    except (BotoCoreError, ClientError) as error:
        raise UnreachableError(f"SYNC_LEGACY_S3_BUCKET could not be listed to its end: {error}") from error
    contents = found.get("Contents", [])
    # a server may list a file without an ETag while it is written: such a file is looked at again
    etags = [item.get("ETag", "") for item in contents]
    return [item["Key"] for item in contents], etags, bool(found.get("IsTruncated"))


def _not_known(cursor: Cursor, entity: str, suspects: pa.Table, walk: Walk) -> list[str]:
    """Those of the rows that are neither owed already, nor set aside as they are.

    A row that is parked since a file is missing is tried now, where its files are there; else it waits for its time.
    """
    if not suspects.num_rows:
        return []
    keys, missing = suspects.column("key").to_pylist(), set(suspects.filter(suspects["missing"])["key"].to_pylist())
    parked = queue_reads.refused_files(cursor, entity, keys)
    ids = [row.id for row in parked if row.reason == Reason.REJECTED and row.key not in missing]
    queue_table.wake(cursor, ids)
    known = {row.key for row in parked} | _owed(cursor, entity, keys, walk)
    return [key for key in keys if key not in known]


def _owed(cursor: Cursor, entity: str, keys: Sequence[str], walk: Walk) -> set[str]:
    """Those of the rows that are queued already; their records count as this walk's, which does not queue them."""
    found = queue_reads.owed_files(cursor, entity, keys, _FEW_RECORDS)
    queue_table.count_to_walk(cursor, entity, sorted({n for n, _ in found}), walk.number)
    return {key for _, key in found}


def _array(texts: Sequence[str]) -> str:
    return str(array_literal(pa.array(texts, pa.string())))
