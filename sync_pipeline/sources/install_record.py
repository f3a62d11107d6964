"""What an install has changed in the monolith, as the comment of its publication keeps it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sync_pipeline.db.sql import Cursor

MARK = "made by: sync-pipeline wal install "
_OIDS = "SELECT n, to_regclass(n)::oid::bigint FROM unnest(%s::text[]) n"
_NAMES = """
    SELECT c.oid::bigint, quote_ident(n.nspname) || '.' || quote_ident(c.relname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = ANY(%s::oid[]) AND c.relkind IN ('r', 'p')
"""


@dataclass(frozen=True)
class Record:
    """Roles that were let replicate, tables that must log whole rows, and identities as they were before.

    `ledger` is None where the comment is from before ledgers had an id. Then `full` lists only what was changed.
    """

    ledger: str | None = None
    roles: tuple[str, ...] = ()
    full: frozenset[int] = frozenset()
    before: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def read(cls, cursor: Cursor, comment: str | None) -> Record | None:
        """The record of a publication of ours; None for a comment that is another's, or none.

        A table is found by its name, or by its oid where it has another name now. One that is gone is left out.
        """
        if not comment or not comment.startswith(MARK):
            return None
        try:
            kept: dict[str, Any] = json.loads(comment.removeprefix(MARK))
        except ValueError:
            return None
        full = kept.get("full", [])
        before = kept.get("before", {table: ["d", 0] for table in full})
        oids = _resolve(cursor, {**dict.fromkeys(full, 0), **{name: oid for name, (_, oid) in before.items()}})
        return cls(
            kept.get("ledger"),
            tuple(kept.get("roles", [])),
            frozenset(oids[name] for name in full if name in oids),
            {oids[name]: str(identity) for name, (identity, _) in before.items() if name in oids},
        )

    def written(self, cursor: Cursor) -> str:
        """The comment."""
        names = read_names(cursor, {*self.full, *self.before})
        kept = {
            "ledger": self.ledger,
            "roles": [*self.roles],
            "full": sorted(names[oid] for oid in self.full if oid in names),
            "before": {names[oid]: [was, oid] for oid, was in sorted(self.before.items()) if oid in names},
        }
        return MARK + json.dumps(kept)


def read_names(cursor: Cursor, oids: Iterable[int]) -> dict[int, str]:
    """Names of tables with their schemas, as SQL has them; without tables that are gone."""
    cursor.execute(_NAMES, ([*oids],))
    return dict(cursor.fetchall())


def _resolve(cursor: Cursor, tables: Mapping[str, int]) -> dict[str, int]:
    cursor.execute(_OIDS, ([*tables],))
    found: dict[str, int | None] = dict(cursor.fetchall())
    there = read_names(cursor, tables.values())
    return {name: found[name] or oid for name, oid in tables.items() if found[name] or oid in there}
