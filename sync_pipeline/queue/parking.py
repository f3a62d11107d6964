"""Rows set aside until something else changes: dead letters, and those that wait for other rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
from psycopg2.extras import execute_values

from sync_pipeline.db.columns import array_literal
from sync_pipeline.db.sql import Cursor, bind
from sync_pipeline.ledger.log import record_events
from sync_pipeline.model.files import MISSING_FILE, REFUSED_FILE, UNFORESEEN_FILE
from sync_pipeline.model.reasons import DEAD_LETTERS, PARKED, SET_ASIDE, Reason
from sync_pipeline.model.rows import Reject
from sync_pipeline.queue.due import AGAIN, ASKED, KEYS_A_RECORD, PRIORITY

# a store may have its reasons for an hour: such a row is tried again after 1, 2, 4 … 240 minutes, for as long as it is
_REFUSED_FILES = (REFUSED_FILE, UNFORESEEN_FILE)
# the error of a letter whose row is to be put back as it was, and cannot be
NOT_UNDONE = "CompensationFailed"
_CHILDREN_SECONDS = 60
# a row that is refused is tried again after a minute, then after ever longer, up to
_AGAIN_SECONDS = 60
_LONGEST_SECONDS = 6 * 3600
_PARTNERS = 100
_REFUSED_BY = """
    SELECT d.key FROM unnest(%s::text[]) c (name), LATERAL (SELECT key FROM sync.due WHERE entity = %s
        AND reason = 'rejected' AND refused_by = c.name ORDER BY last_at DESC LIMIT %s) d
"""


# a row that was discarded stays so while it is the same
_PARK = f"""
    INSERT INTO sync.due (entity, reason, key, revision, priority, not_before, attempts, step, error, message, digest,
        basis, refused_by)
    SELECT r.* FROM (VALUES %s) r (entity, reason, key, revision, priority, not_before, attempts, step, error, message,
        digest, basis, refused_by)
    WHERE NOT EXISTS (SELECT FROM sync.due d
        WHERE (d.entity, d.key, d.reason) = (r.entity, r.key, '{Reason.DISCARDED}') AND d.digest = r.digest)
    ON CONFLICT (entity, key, reason) WHERE key IS NOT NULL DO UPDATE SET revision = excluded.revision,
        attempts = CASE WHEN due.message = excluded.message THEN due.attempts + 1 ELSE 1 END, step = excluded.step,
        error = excluded.error, message = excluded.message, digest = excluded.digest, last_at = now(),
        claimed_until = NULL, not_before = 'infinity', waits_for = NULL, waits_key = NULL, undone_at = NULL,
        refused = NULL, basis = excluded.basis, priority = excluded.priority, refused_by = excluded.refused_by
"""


@dataclass(frozen=True)
class Wait:
    """A row (key text) that waits for another one, of an entity: a child for its parent, or a parent for a child."""

    key: str
    reason: Reason
    entity: str
    awaited: str
    digest: int | None = None  # of the row that waits

    @property
    def message(self) -> str:
        """Why it waits."""
        if self.reason == Reason.PARENT:
            return f"refers to {self.entity} {self.awaited}, which is not in the new side"
        return f"gone from the monolith, but {self.entity} {self.awaited} still refers to it in the new side"


def park(
    cursor: Cursor, entity: str, rejects: Iterable[Reject], revision: int, retries: int, basis: int | None = None
) -> None:
    """Park rows with their reason, and with the basis under which they were refused, if a change of it may help.

    They wait for a change of the row, for a replay, or for their time: after 1, 2, 4 … minutes, 6 hours at most, more
    or less, since what refused them may have changed. A document waits for a change or a replay alone. A file may be
    uploaded after the row that names it: a row whose file is missing is tried again after 2, 4, 8 … 600 s, `retries`
    times for the same fault, and then by sweeps. A row that was discarded stays so while it is the same.
    """
    rows = [
        (entity, r.key, revision, r.step, r.error, storable(r.message)[:2000], r.digest, basis, r.constraint)
        for r in rejects
    ]
    if not rows:
        return
    keys = [key for _, key, *_ in rows]
    cursor.execute(
        "DELETE FROM sync.due WHERE entity = %s AND reason IN ('parent', 'children') AND key = ANY(%s)", (entity, keys)
    )
    execute_values(
        cursor,
        _PARK,
        sorted(rows, key=lambda row: row[1]),
        template=f"(%s, 'rejected', %s, %s, {AGAIN}, 'infinity'::timestamptz, 1, %s, %s, %s, %s::bigint, %s::integer,"
        " %s)",
    )
    _time_tries(cursor, entity, keys, retries)
    # the same fault again is no news
    cursor.execute(
        "SELECT key, step, error || ': ' || message FROM sync.due"
        " WHERE entity = %s AND reason = 'rejected' AND attempts = 1 AND key = ANY(%s) ORDER BY key",
        (entity, keys),
    )
    record_events(cursor, entity, "parked", cursor.fetchall(), revision)


def _time_tries(cursor: Cursor, entity: str, keys: list[str], retries: int) -> None:
    """Set when parked rows are tried again, by what refused them and how often."""
    cursor.execute(
        "UPDATE sync.due SET not_before = now() + interval '1 s' * CASE WHEN error = %(missing)s"
        "   THEN least(600, power(2, attempts)) ELSE (0.75 + random() / 2) * least(%(longest)s,"
        "   %(again)s * power(2, least(attempts, 12) - 1)) END"
        " WHERE entity = %(entity)s AND reason = 'rejected' AND key = ANY(%(keys)s) AND CASE WHEN error = %(missing)s"
        "   THEN attempts <= %(retries)s ELSE step IS DISTINCT FROM 'document' END",
        {
            "entity": entity,
            "keys": keys,
            "missing": MISSING_FILE,
            "retries": retries,
            "longest": _LONGEST_SECONDS,
            "again": _AGAIN_SECONDS,
        },
    )
    cursor.execute(
        "UPDATE sync.due SET not_before = now() + least(240, power(2, least(attempts, 9) - 1)) * interval '1 min'"
        " WHERE entity = %s AND reason = 'rejected' AND error = ANY(%s) AND key = ANY(%s)",
        (entity, list(_REFUSED_FILES), keys),
    )


def storable(message: str) -> str:
    """A message without what no text of PostgreSQL holds: NUL, and halves of surrogate pairs."""
    return message.encode("utf-8", "replace").decode().replace("\0", "\\0")


def discarded(cursor: Cursor, entity: str, rows: Sequence[tuple[str, int | None]]) -> list[str]:
    """Those of the rows (key, digest) that somebody has set aside for good, as they are."""
    cursor.execute(
        "SELECT d.key FROM unnest(%s::text[], %s::bigint[]) r (key, digest) JOIN sync.due d"
        " ON (d.entity, d.key, d.reason) = (%s, r.key, %s) AND d.digest = r.digest",
        ([key for key, _ in rows], [digest for _, digest in rows], entity, Reason.DISCARDED),
    )
    return [key for (key,) in cursor.fetchall()]


def recall(cursor: Cursor, entity: str, keys: Sequence[str]) -> None:
    """Rows that were discarded, and that somebody has had tried all the same, are no longer."""
    cursor.execute(
        "DELETE FROM sync.due WHERE entity = %s AND reason = %s AND key = ANY(%s)",
        (entity, Reason.DISCARDED, list(keys)),
    )


def wait(cursor: Cursor, entity: str, waits: Sequence[Wait], revision: int, limit: float) -> None:
    """Set rows aside until those they wait for are written. A child that waits longer than `limit` s is a dead letter.

    Even then it is released when its parent lands.
    """
    values = [(w.key, w.reason, w.entity, w.awaited, w.message, w.digest) for w in sorted(waits, key=lambda w: w.key)]
    if not values:
        return
    keys = [key for key, *_ in values]
    # of a dead letter, the time runs on for as long as it waits for the same
    execute_values(
        cursor,
        "DELETE FROM sync.due d USING (VALUES %s) w (key, reason, waits_for, waits_key, message, digest)"
        f" WHERE d.entity = {bind(cursor, entity)} AND d.key = w.key AND d.reason IN ('rejected', 'parent', 'children')"
        " AND NOT (d.reason = 'children' AND w.reason = 'children')"
        " AND (d.waits_for, d.waits_key) IS DISTINCT FROM (w.waits_for, w.waits_key)",
        values,
        page_size=len(values),
    )
    execute_values(
        cursor,
        "INSERT INTO sync.due (entity, reason, key, revision, priority, step, error, waits_for, waits_key, message,"
        " digest) SELECT w.* FROM (VALUES %s) w (entity, reason, key, revision, priority, step, error, waits_for,"
        " waits_key, message, digest) WHERE NOT EXISTS (SELECT FROM sync.due d WHERE (d.entity, d.key, d.reason) ="
        " (w.entity, w.key, 'rejected')) ON CONFLICT (entity, key, reason) WHERE key IS NOT NULL DO UPDATE"
        " SET waits_for = excluded.waits_for, waits_key = excluded.waits_key, message = excluded.message,"
        " digest = excluded.digest",
        [(entity, r, k, revision, PRIORITY[Reason(r)], "row", "Waits", *rest) for k, r, *rest in values],
        template="(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s::bigint)",
        page_size=len(values),
    )
    # a dead letter that still waits may be of another row than before: the sweep compares it
    execute_values(
        cursor,
        "UPDATE sync.due d SET digest = w.digest FROM (VALUES %s) w (key, digest)"
        f" WHERE d.entity = {bind(cursor, entity)} AND d.key = w.key AND d.reason = 'rejected'"
        " AND d.digest IS DISTINCT FROM w.digest",
        [(w.key, w.digest) for w in waits],
        template="(%s, %s::bigint)",
        page_size=len(values),
    )
    cursor.execute(
        "UPDATE sync.due SET claimed_until = NULL, last_at = now(), attempts = attempts + 1,"
        " reason = CASE WHEN late THEN 'rejected' ELSE reason END, error = CASE WHEN late THEN 'ParentMissing'"
        " ELSE error END, not_before = CASE WHEN late THEN 'infinity' WHEN reason = 'parent' THEN"
        f" first_at + %(limit)s * interval '1 s' ELSE now() + interval '{_CHILDREN_SECONDS} s' END"
        " FROM (SELECT id AS late_id, reason = 'rejected' OR (reason = 'parent' AND"
        "   first_at + %(limit)s * interval '1 s' <= now()) AS late, reason = 'rejected' AS was_late FROM sync.due"
        "   WHERE entity = %(entity)s AND key = ANY(%(keys)s) AND reason = ANY(%(parked)s)) l WHERE id = late_id"
        " RETURNING key, step, message, attempts = 1, late AND NOT was_late",
        {"limit": limit, "entity": entity, "keys": keys, "parked": list(PARKED)},
    )
    found = cursor.fetchall()
    record_events(cursor, entity, "waits", [about for *about, is_new, _ in found if is_new], revision)
    record_events(cursor, entity, "parked", [about for *about, _, has_run_out in found if has_run_out], revision)


def release(cursor: Cursor, entity: str, keys: Sequence[str], revision: int, *, unchanged: bool = False) -> None:
    """Rows that went through are parked no longer.

    An `unchanged` one still is where its document was not taken, and stays discarded where it was.
    """
    if not keys:
        return
    but = " AND step IS DISTINCT FROM 'document'" if unchanged else ""
    cursor.defer(
        f"WITH gone AS (DELETE FROM sync.due WHERE entity = %(entity)s AND reason = ANY(%(reasons)s)"
        f" AND key = ANY(%(keys)s){but} RETURNING key, step) INSERT INTO sync.event (entity, key, kind, step, revision)"
        " SELECT %(entity)s, key, 'went through', step, %(revision)s FROM gone",
        {
            "entity": entity,
            "reasons": list(PARKED if unchanged else SET_ASIDE),
            "keys": list(keys),
            "revision": revision,
        },
    )


def release_waiting(cursor: Cursor, entity: str, keys: Sequence[str], revision: int) -> None:
    """Whatever waits for these rows is owed now. Only adds records: nobody's lock is waited for."""
    cursor.execute(
        "INSERT INTO sync.due (entity, reason, keys, revision, priority)"
        " SELECT entity, %s, array_agg(key ORDER BY key), %s, %s FROM (SELECT entity, key,"
        f" (row_number() OVER (PARTITION BY entity ORDER BY key) - 1) / {KEYS_A_RECORD} AS part FROM sync.due"
        " WHERE waits_for = %s AND waits_key = ANY(%s)) w GROUP BY entity, part",
        (Reason.RELEASED, revision, PRIORITY[Reason.RELEASED], entity, list(keys)),
    )


def refused_as_they_are(
    cursor: Cursor, entity: str, keys: Sequence[str], digests: Sequence[int], basis: int
) -> set[str]:
    """Those of the legacy rows (key, digest) that are parked as they are: the sweep has nothing new to say of them."""
    if not keys:
        return set()
    cursor.execute(
        "SELECT r.key FROM unnest(%s::text[], %s::bigint[]) r (key, digest) JOIN sync.due d ON d.entity = %s"
        " AND d.key = r.key AND d.reason = ANY(%s) AND d.digest = r.digest WHERE coalesce(d.basis, %s) = %s",
        (array_literal(pa.array(keys, pa.string())), list(digests), entity, list(PARKED), basis, basis),
    )
    return {key for (key,) in cursor.fetchall()}


def undone(cursor: Cursor, entity: str, keys: Sequence[str], revision: int) -> None:
    """Rows whose documents were refused are as they were before."""
    cursor.execute(
        "UPDATE sync.due SET undone_at = now(), error = coalesce(refused[1], error),"
        " message = coalesce(refused[2], message), refused = NULL"
        " WHERE entity = %s AND reason = ANY(%s) AND step = 'document' AND key = ANY(%s)",
        (entity, [*DEAD_LETTERS], list(keys)),
    )
    message = "row, files and document are as they were before"
    record_events(cursor, entity, "compensated", [(key, "document", message) for key in keys], revision)


def not_undone(cursor: Cursor, entity: str, key: str, why: str) -> None:
    """A row whose document was refused could not be put back: its letter says so, until it can."""
    cursor.execute(
        "UPDATE sync.due SET refused = coalesce(refused, ARRAY[error, message]), error = %s, last_at = now(),"
        " message = %s || '; its document was refused: ' || coalesce(refused[2], message)"
        " WHERE entity = %s AND reason = ANY(%s) AND step = 'document' AND key = %s",
        (NOT_UNDONE, why, entity, [*DEAD_LETTERS], key),
    )
    record_events(cursor, entity, "not compensated", [(key, "document", why)], 0)


def among_undone(cursor: Cursor, entity: str, keys: Sequence[str]) -> list[str]:
    """Those of the rows that are as they were before their documents were refused."""
    cursor.execute(
        "SELECT DISTINCT key FROM sync.due WHERE entity = %s AND undone_at IS NOT NULL AND key = ANY(%s)",
        (entity, list(keys)),
    )
    return [key for (key,) in cursor.fetchall()]


def among_refused(cursor: Cursor, entity: str, keys: Sequence[str]) -> list[str]:
    """Those of the rows whose documents were refused as they were written last."""
    cursor.execute(
        "SELECT DISTINCT key FROM sync.due WHERE entity = %s AND reason = ANY(%s) AND step = 'document'"
        " AND key = ANY(%s)",
        (entity, [*DEAD_LETTERS], list(keys)),
    )
    return [key for (key,) in cursor.fetchall()]


def refused_documents(cursor: Cursor, entity: str) -> list[str]:
    """Rows (key texts) that are parked since the index did not take their document."""
    cursor.execute(
        "SELECT key FROM sync.due WHERE entity = %s AND reason = 'rejected' AND step = 'document'", (entity,)
    )
    return [key for (key,) in cursor.fetchall()]


def refused_by(cursor: Cursor, entity: str, constraints: Sequence[str]) -> list[str]:
    """Rows (key texts) that are parked because one of these constraints has refused them; of each the latest hundred.

    Reads no others, however many letters there are (the index due_refused_by).
    """
    cursor.execute(_REFUSED_BY, (list(constraints), entity, _PARTNERS))
    return [key for (key,) in cursor.fetchall()]


def replay(cursor: Cursor, entity: str, step: str) -> None:
    """Make rows due at once that an index did not take (at the step `document`), or a table (`row`)."""
    cursor.execute(
        f"UPDATE sync.due SET not_before = now(), attempts = 0, priority = {ASKED}"
        " WHERE entity = %s AND reason = 'rejected' AND step = %s",
        (entity, step),
    )
