"""The ledger's identity: eight hexadecimal digits, drawn once when the ledger is made.

Everything that we own outside the ledger bears this id, so that two deployments never take each other's slot,
publication, outbox, index, bucket prefix or Dagster run for their own.
"""

from __future__ import annotations

from sync_pipeline.db.sql import Cursor


def read_ledger_id(cursor: Cursor) -> str | None:
    """Return the id of the ledger in the cursor's database, or None where no ledger has been made yet."""
    cursor.execute("SELECT to_regclass('sync.ledger_identity') IS NOT NULL")
    if not cursor.fetchone()[0]:
        return None
    cursor.execute("SELECT id FROM sync.ledger_identity")
    found = cursor.fetchone()
    return str(found[0]) if found else None
