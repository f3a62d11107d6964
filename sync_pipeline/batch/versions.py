"""Versions of events, where the monolith counts its rows' changes.

An event whose version the row does not show yet is from the future (a replica lags, or the outbox is in another
database): its key waits in `due`. One at or below the version that was applied is dropped, and its row is not read.
An event that tells none has its row applied as it stands, and takes nothing from what others wait for.
Only event batches are held back; what is known as applied is no more than a short cut, and forgotten with the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.db.columns import array_literal
from sync_pipeline.db.keys import Key
from sync_pipeline.db.sql import Cursor
from sync_pipeline.entities.origin import Rows
from sync_pipeline.ledger import cursor_table
from sync_pipeline.sources.source import EventVersions

AGAIN_SECONDS = 1.0
_KEYS = "unnest(%(keys)s::text[]) AS w(key)"
_PAIRS = "unnest(%(keys)s::text[], %(versions)s::bigint[]) AS w(key, version)"


@dataclass
class Expected:
    """What is told (by key, as text) of the versions that a batch's rows must show in `column`.

    `future` holds the keys whose row is yet to come, `ended` those that were deleted.
    """

    column: str
    event_versions: Mapping[str, EventVersions]
    future: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def hold_back(self, key: Key, keys: pa.Table, rows: Rows) -> tuple[pa.Table, Rows]:
        """Keys and rows without those from the future, unless they are to be applied as they stand, too."""
        if not self.event_versions:
            return keys, rows
        texts = key.texts(rows.table)
        shown = dict(zip(texts.to_pylist(), rows.table.column(self.column).to_pylist(), strict=True))
        shown |= {reject.key: None for reject in rows.rejects}
        self.future = [
            text for text, each in self.event_versions.items() if each.is_ahead(text in shown, shown.get(text))
        ]
        self.ended = [text for text, each in self.event_versions.items() if each.ends_plain and text not in shown]
        held = pa.array([text for text in self.future if not self.event_versions[text].plain], pa.string())
        kept = rows.table.filter(pc.invert(pc.is_in(texts, value_set=held)))
        return keys.filter(pc.invert(pc.is_in(key.texts(keys), value_set=held))), replace(rows, table=kept)


def applied(cursor: Cursor, entity: str, event_versions: Mapping[str, EventVersions]) -> set[str]:
    """Those of the keys of which nothing but versions was told that are known to be applied."""
    versions = {
        text: each.version for text, each in event_versions.items() if each.version is not None and not each.plain
    }
    cursor.execute(
        f"SELECT w.key FROM {_PAIRS} JOIN sync.version v ON v.entity = %(entity)s AND v.key = w.key"
        " AND v.applied >= w.version",
        _bound(entity, versions),
    )
    return {text for (text,) in cursor.fetchall()}


def record(cursor: Cursor, entity: str, versions: Mapping[str, int], deleted: Sequence[str]) -> None:
    """Remember what rows were written at which version; of a row that is gone nothing is known."""
    cursor.execute(
        f"INSERT INTO sync.version AS v (entity, key, applied) SELECT %(entity)s, w.key, w.version FROM {_PAIRS}"
        " ORDER BY w.key ON CONFLICT (entity, key) DO UPDATE SET applied = excluded.applied",
        _bound(entity, versions),
    )
    cursor.execute(
        "UPDATE sync.version SET applied = NULL WHERE entity = %s AND key = ANY(%s::text[])", (entity, _texts(deleted))
    )


def defer(cursor: Cursor, entity: str, expected: Expected) -> None:
    """Remember which versions are waited for."""
    versions = {
        text: version for text in expected.future if (version := expected.event_versions[text].version) is not None
    }
    cursor.execute(
        f"INSERT INTO sync.version AS v (entity, key, awaited) SELECT %(entity)s, w.key, w.version FROM {_PAIRS}"
        " ORDER BY w.key ON CONFLICT (entity, key) DO UPDATE SET awaited = greatest(v.awaited, excluded.awaited)",
        _bound(entity, versions),
    )


def awaited(cursor: Cursor, entity: str, keys: Sequence[str]) -> dict[str, int]:
    """The versions that are waited for, of those keys that still wait."""
    cursor.execute(
        f"SELECT w.key, v.awaited FROM {_KEYS} JOIN sync.version v ON v.entity = %(entity)s AND v.key = w.key"
        " AND v.awaited IS NOT NULL",
        {"entity": entity, "keys": _texts(keys)},
    )
    return dict(cursor.fetchall())


def wait_no_more(cursor: Cursor, entity: str, keys: Sequence[str]) -> None:
    """These keys were applied as they stand."""
    cursor.execute(
        "UPDATE sync.version SET awaited = NULL WHERE entity = %s AND key = ANY(%s::text[]) AND awaited IS NOT NULL",
        (entity, _texts(keys)),
    )


def count(cursor: Cursor, entity: str, *, deferred: int = 0, dropped: int = 0, unmet: int = 0) -> None:
    """Add to what the cursor counts."""
    if deferred or dropped or unmet:
        cursor_table.count_events(cursor, entity, deferred, dropped, unmet)


def _bound(entity: str, versions: Mapping[str, int]) -> dict[str, object]:
    return {"entity": entity, "keys": _texts([*versions]), "versions": list(versions.values())}


def _texts(keys: Sequence[str]) -> str:
    return array_literal(pa.array(keys, pa.string()))
