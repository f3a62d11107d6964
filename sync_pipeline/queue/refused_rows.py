"""Dead letters beside the monolith: which rows are no longer what was refused, and so are tried at once.

A row that was refused is tried again after minutes, then hours; the sweep does not queue it while it is as it was. Here
the sweep looks for those that changed unseen: back to what was last written, or gone. It looks at rows that wait for a
parent, too, and tries some of those that repeat the value of another row.
"""

from __future__ import annotations

from dataclasses import dataclass

from sync_pipeline.db.columns import DIGEST
from sync_pipeline.db.sql import Cursor
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.ledger import queue_reads, queue_table

_PAGE = 5_000
# Rows that wait for a file or a parent row have no timer in the end: each sweep tries those that were tried longest
# ago. Were it all of them, many would keep the entity busy for as long as they are there.
_A_SWEEP = 1_000


@dataclass
class RefusedPage:
    """Records to be tried now; `last` is the last one that was looked at, None at the end."""

    entity: str
    ids: list[int]
    last: int | None

    def wake(self, cursor: Cursor) -> None:
        """Make them due, in the caller's transaction."""
        queue_table.wake_refused(cursor, self.ids)
        if self.last is None:
            queue_table.wake_untimed(cursor, self.entity, _A_SWEEP)


def read_refused_page(context: EntityContext, after: int) -> RefusedPage:
    """Compare the next dead letters with their legacy rows. Raises UnreachableError, LegacySchemaError."""
    values = {"limit": _PAGE, "basis": context.ledger.basis}
    with context.stores.target() as cursor:
        rows = queue_reads.refused_page(cursor, context.entity.name, after, values)
    key = context.origin.key
    found = context.origin.digests_of(key.parse(row.key for row in rows))
    digests = dict(zip(key.texts(found).to_pylist(), found.column(DIGEST).to_pylist(), strict=True))
    ids = [
        row.id for row in rows if row.has_other_basis or (row.digest is not None and digests.get(row.key) != row.digest)
    ]
    return RefusedPage(context.entity.name, ids, rows[-1].id if len(rows) == _PAGE else None)
