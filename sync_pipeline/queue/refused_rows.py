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
from sync_pipeline.model.files import MISSING_FILE

_PAGE = 5_000
# Rows that wait for a file or a parent row have no timer in the end: each sweep tries those that were tried longest
# ago. Were it all of them, many would keep the entity busy for as long as they are there.
_A_SWEEP = 1_000
_LETTERS = """
    SELECT id, key, digest, basis IS DISTINCT FROM %(basis)s AND basis IS NOT NULL FROM sync.due
    WHERE entity = %(entity)s AND reason = ANY (ARRAY['rejected', 'parent']) AND id > %(after)s
    ORDER BY id LIMIT %(limit)s
"""
_WAKE = """
    UPDATE sync.due SET not_before = now() WHERE id IN (SELECT id FROM sync.due WHERE id = ANY(%s)
    AND not_before > now() AND step IS DISTINCT FROM 'document' AND reason = ANY (ARRAY['rejected', 'parent'])
    FOR UPDATE SKIP LOCKED)
"""
# A row that repeats another's value may pass once that one has changed, which no digest of its own shows.
# The conditions of both are those of an index in the order of last_at, word for word (migration 0021).
_WAKE_REPEATING = """
    UPDATE sync.due SET not_before = now() WHERE not_before > now() AND id IN (SELECT id FROM sync.due WHERE entity = %s
    AND reason = 'rejected' AND step = 'row' AND error = ANY (ARRAY['UniqueViolation', 'ExclusionViolation'])
    AND waits_for IS NULL ORDER BY last_at LIMIT %s
    FOR UPDATE SKIP LOCKED)
"""
_WAKE_UNTIMED = f"""
    UPDATE sync.due SET not_before = now() WHERE id IN (SELECT id FROM sync.due WHERE entity = %s
    AND reason = 'rejected' AND not_before = 'infinity' AND (error = '{MISSING_FILE}' OR waits_for IS NOT NULL)
    ORDER BY last_at LIMIT %s
    FOR UPDATE SKIP LOCKED)
"""


@dataclass
class RefusedPage:
    """Records to be tried now; `last` is the last one that was looked at, None at the end."""

    entity: str
    ids: list[int]
    last: int | None

    def wake(self, cursor: Cursor) -> None:
        """Make them due, in the caller's transaction."""
        cursor.execute(_WAKE, (self.ids,))
        if self.last is None:
            cursor.execute(_WAKE_UNTIMED, (self.entity, _A_SWEEP))
            cursor.execute(_WAKE_REPEATING, (self.entity, _A_SWEEP))


def read_refused_page(context: EntityContext, after: int) -> RefusedPage:
    """Compare the next dead letters with their legacy rows. Raises UnreachableError, LegacySchemaError."""
    values = {"entity": context.entity.name, "after": after, "limit": _PAGE, "basis": context.ledger.basis}
    with context.stores.target() as cursor:
        cursor.execute(_LETTERS, values)
        rows = cursor.fetchall()
    key = context.origin.key
    found = context.origin.digests_of(key.parse(text for _, text, _, _ in rows))
    digests = dict(zip(key.texts(found).to_pylist(), found.column(DIGEST).to_pylist(), strict=True))
    ids = [n for n, text, digest, other in rows if other or (digest is not None and digests.get(text) != digest)]
    return RefusedPage(context.entity.name, ids, rows[-1][0] if len(rows) == _PAGE else None)
