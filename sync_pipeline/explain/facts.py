"""All that is known of one object: in the monolith, in the ledger, in `due` and in each sink, now."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from botocore.exceptions import BotoCoreError, ClientError

from sync_pipeline.batch.adapt import adapt
from sync_pipeline.db.columns import DIGEST
from sync_pipeline.db.sql import Cursor, named
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import UnreachableError
from sync_pipeline.ledger import queue_reads
from sync_pipeline.ledger.log import time_of
from sync_pipeline.ledger.queue_reads import ObjectRecord
from sync_pipeline.ledger.states import Signs, State, state_of
from sync_pipeline.model.reasons import Reason
from sync_pipeline.model.rows import Adapted, Reject
from sync_pipeline.sinks.media.faults import MISSING, code
from sync_pipeline.sinks.outer import Seen
from sync_pipeline.sinks.sink import Sink

_FILES = """
    SELECT r.source_key, r.target_key, m.size, m.copied_at, r.sink
    FROM sync.media_ref r LEFT JOIN sync.media m USING (target_key)
    WHERE (r.entity, r.key) = (%(entity)s, %(key)s) AND r.target_key <> '' ORDER BY 1
"""
_CURSOR = """
    SELECT applied_through, source, swept_at, filled_at, coalesce(lease_until > now(), false) AS followed
    FROM sync.cursor WHERE entity = %(entity)s
"""


@dataclass(frozen=True)
class Legacy:
    """The monolith's row: its digest, None where there is no row; what the sinks want of it; who refuses it."""

    digest: int | None = None
    held: int | None = None
    refused: Reject | None = None
    adapted: Adapted | None = None

    @property
    def there(self) -> bool:
        """Whether the monolith holds the row."""
        return self.digest is not None


@dataclass(frozen=True)
class Entry:
    """The key's row in the ledger."""

    seen: int
    written: int
    digest: int | None
    held: int
    current: bool  # written by the entity's present version
    bears_former_digest: bool  # of that version, but under another expression


@dataclass(frozen=True)
class Facts:
    """What is known of one object; what could not be asked for is named in `unknown`."""

    entity: str
    key: str
    legacy: Legacy
    entry: Entry | None
    owed: list[ObjectRecord]
    row: bool
    objects: Mapping[str, Seen]  # what outer sinks hold, by their names
    files: list[dict[str, Any]]  # source_key, target_key, size, copied_at, sink, there
    cursor: dict[str, Any]
    written_at: dt.datetime | None  # when the revision that wrote it last did; None where the log does not tell
    unknown: dict[str, str]  # sink -> why it could not be looked at
    copied: bool = False  # files that its row is to name are there, and no row names them yet

    @property
    def document(self) -> int | None:
        """The lowest version that an outer sink holds; None where none holds anything."""
        return min((seen.version for seen in self.objects.values() if seen.version), default=None)

    def owing(self, *reasons: str) -> ObjectRecord | None:
        """The first record owed for one of these reasons."""
        return next((record for reason in reasons for record in self.owed if record.reason == reason), None)

    @property
    def undone(self) -> bool:
        """Whether its document was refused, and it was put back as it was before."""
        dead_letter = self.owing(Reason.REJECTED, Reason.DISCARDED)
        return bool(dead_letter and dead_letter.undone_at)

    @property
    def changed(self) -> bool:
        """Whether the monolith's row is another than the one that the ledger takes for applied."""
        return self.legacy.digest != (self.entry.digest if self.entry else None)

    @property
    def state(self) -> State:
        """Where the object stands."""
        entry = self.entry
        return state_of(
            Signs(
                self.legacy.there,
                entry.digest if entry else None,
                entry.written if entry else 0,
                self.changed or bool(entry and not entry.current and self.legacy.there),
                frozenset(record.reason for record in self.owed),
                self.copied,
                self.undone,
                self.document,
            )
        )


def facts_of(context: EntityContext, key: str) -> Facts:
    """Look everywhere, once. Raises UnreachableError where monolith or ledger do not answer, LegacySchemaError."""
    keys = context.origin.key.parse([key])
    root = context.origin.root.texts(keys.select(list(context.origin.root.columns)))[0].as_py()
    values = {"entity": context.entity.name, "key": key}
    legacy = _legacy(context, keys)
    unknown: dict[str, str] = {}
    with context.stores.target() as cursor:
        entry = _entry(context, cursor, keys)
        owed = queue_reads.of_object(cursor, context.entity.name, key, root)
        files = named(cursor, _FILES, values)
        (cursor_row,) = named(cursor, _CURSOR, values)
        target = context.origin.key.named(context.entity.table.key)
        cursor.execute(
            f"SELECT EXISTS (SELECT FROM {context.entity.table.quoted} t WHERE {target.is_in(cursor, 't', keys)})"
        )
        row = bool(cursor.fetchone()[0])
        written_at = time_of(cursor, context.entity.name, entry.written) if entry else None
    objects: dict[str, Seen] = {}
    for sink in context.entity.outer_sinks:
        try:
            if (seen := sink.read(context.of_sinks, [key]).get(key)) is not None:
                objects[sink.id] = seen
        except UnreachableError as error:
            unknown[sink.id] = str(error)
    try:
        files = [{**file, "there": _is_there(context, file["target_key"])} for file in files]
    except UnreachableError as error:
        unknown |= dict.fromkeys((sink.id for sink in context.entity.placing_sinks), str(error))
    return Facts(
        context.entity.name,
        key,
        legacy,
        entry,
        owed,
        row,
        objects,
        files,
        cursor_row,
        written_at,
        unknown,
        _is_copied(context, legacy, files),
    )


def _legacy(context: EntityContext, keys: pa.Table) -> Legacy:
    rows = context.origin.by_keys(keys)
    if rows.rejects:
        return Legacy(rows.rejects[0].digest, None, rows.rejects[0])
    if not rows.table.num_rows:
        return Legacy()
    digest = rows.table.column(DIGEST)[0].as_py()
    adapted, rejects = adapt(context.entity, context.origin.key, rows.table, context.bits)
    return Legacy(digest, None, rejects[0]) if rejects else Legacy(digest, adapted.held[0].as_py(), None, adapted)


def _is_copied(context: EntityContext, legacy: Legacy, files: list[dict[str, Any]]) -> bool:
    sinks, adapted = context.entity.placing_sinks, legacy.adapted
    if not sinks or adapted is None:
        return False
    known = {sink.id: {file["source_key"] for file in files if file["sink"] == sink.id} for sink in sinks}
    return all(sink.are_placed(context.stores, context.origin.key, adapted, known[sink.id]) for sink in sinks)


def _entry(context: EntityContext, cursor: Cursor, keys: pa.Table) -> Entry | None:
    cursor.execute(
        f"SELECT seen, written, digest, held, basis = {context.ledger.basis}, basis IN (SELECT f.id FROM sync.basis f"
        f" JOIN sync.basis b USING (entity, entity_version) WHERE b.id = {context.ledger.basis} AND f.id <> b.id)"
        f" FROM {context.ledger.table} l WHERE {context.origin.key.is_in(cursor, 'l', keys)}"
    )
    found = cursor.fetchone()
    return Entry(*found) if found else None


def _is_there(context: EntityContext, target_key: str) -> bool:
    try:
        context.stores.target_s3.head_object(Bucket=context.stores.settings.target_bucket.name, Key=target_key)
    except ClientError as error:
        if code(error) in MISSING:
            return False
        raise UnreachableError(f"SYNC_TARGET_S3_BUCKET: {error}") from error
    except BotoCoreError as error:
        raise UnreachableError(f"SYNC_TARGET_S3_BUCKET: {error}") from error
    return True


def wants(context: EntityContext, facts: Facts, sink: Sink) -> bool:
    """Whether a sink is to hold something of the monolith's row as it is now."""
    return bool((facts.legacy.held or 0) & context.bits[sink.id])
