"""The gate of an entity whose legacy rows come as several parts each: which revision looked at a root last.

Parts come and go, so what a batch read of a root replaces all that is known of it, in one transaction. The gate lets a
root through only to a higher revision than the last: who read less, or something that is no more, comes too late.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.db.columns import DIGEST
from sync_pipeline.db.keys import Key
from sync_pipeline.db.sql import Cursor, copy_out, quote
from sync_pipeline.ledger.ledger import Ledger
from sync_pipeline.model.faults import guarded


@dataclass(frozen=True)
class Gate:
    """One entity's roots in the ledger."""

    ledger: Ledger
    root: Key

    @property
    def table(self) -> str:
        """The entity's table of roots."""
        return f"sync.{quote('roots_' + self.ledger.entity)}"

    def ensure(self, cursor: Cursor) -> None:
        """Make the table where it is not there."""
        cursor.execute("SELECT to_regclass(%s) IS NULL", (self.table,))
        if cursor.fetchone()[0]:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext('sync.table'))")
            cursor.execute(
                f"CREATE TABLE IF NOT EXISTS {self.table} ({self.root.ddl()}, seen bigint NOT NULL,"
                f" PRIMARY KEY ({self.root.plain()})) WITH (fillfactor = 80)"
            )

    def pass_through(self, cursor: Cursor, roots: pa.Table, revision: int) -> pa.Table:
        """Those of the roots that no higher revision has looked at; they are this one's until the transaction ends."""
        columns = self.root.plain()
        newer = "g.seen < excluded.seen" if guarded(50) else "true"
        cursor.execute(
            f"INSERT INTO {self.table} AS g ({columns}, seen) SELECT {columns}, {revision} FROM"
            f" (SELECT * FROM {self.root.listed(cursor, roots)} r ({columns}) ORDER BY {self.root.ordered()}) r"
            f" ON CONFLICT ({columns}) DO UPDATE SET seen = greatest(g.seen, excluded.seen) WHERE {newer}"
            f" RETURNING {self.root.text_expression('g')}"
        )
        return self.root.parse(text for (text,) in cursor.fetchall())

    def others(self, cursor: Cursor, roots: pa.Table, known: list[str]) -> pa.Table:
        """The other parts that the ledger has of these roots: key columns and `_digest`, NULL where they are gone."""
        key = self.ledger.key
        found = copy_out(
            cursor,
            f"SELECT {key.plain('l')}, l.digest FROM {self.ledger.table} l WHERE {self.root.is_in(cursor, 'l', roots)}",
            key.schema.append(pa.field(DIGEST, pa.int64())),
        )
        return found.filter(pc.invert(pc.is_in(key.texts(found), value_set=pa.array(known, pa.string()))))
