"""What is owed: documents of open batches, files to copy, keys found by a sweep, parked rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
from psycopg2.extras import execute_values

from sync_pipeline.columns import array_literal
from sync_pipeline.ledger.log import tell
from sync_pipeline.origin import Reject
from sync_pipeline.stores import Cursor, bind, named

PRIORITY = {
    "overtaken": 0,
    "documents": 1,
    "media": 2,
    "released": 3,
    "future": 3,
    "children": 4,
    "parent": 5,
    "fanout": 6,
    "sweep": 7,
}
_PARKED_PRIORITY = 5
# what is set aside until something else changes
PARKED = ("rejected", "parent", "children")
# what nobody owes any more, but knows of (dead_letters.py)
DISCARDED = "discarded"
ASIDE = (*PARKED, DISCARDED)
DEAD_LETTERS = ("rejected", DISCARDED)
_CHILDREN_SECONDS = 60
CLAIM_SECONDS = 120
MISSING_FILE = "MediaMissing"
# few enough that fresh work never waits long behind a record
_KEYS_A_RECORD = 500
_IS_FULL = f"cardinality(keys) >= {_KEYS_A_RECORD}"
# so many records that are not full are put together
_MANY_RECORDS = 50
# asked along with what is recorded anyway: a batch has no moment to spare for it
_BESIDE = "EXISTS (SELECT FROM sync.rebuild r WHERE r.entity = {} AND r.state = 'filling')"


@dataclass(frozen=True)
class Owed:
    """A claimed record: keys (as text) that are owed, and why."""

    id: int
    reason: str
    keys: list[str]
    attempts: int
    age: float = 0.0  # seconds since it was first owed


@dataclass(frozen=True)
class Wait:
    """A row (key text) that waits for another one, of an entity: a child for its parent, or a parent for a child."""

    key: str
    reason: str
    entity: str
    awaited: str
    digest: int | None = None  # of the row that waits

    @property
    def said(self) -> str:
        """Why it waits."""
        if self.reason == "parent":
            return f"refers to {self.entity} {self.awaited}, which is not in the new side"
        return f"gone from the monolith, but {self.entity} {self.awaited} still refers to it in the new side"


def owe(
    cursor: Cursor, entity: str, reason: str, keys: Sequence[str], revision: int, *, claimed: bool = False
) -> list[int]:
    """Record keys as owed, in the caller's transaction; `claimed` keeps them to the caller for a while."""
    return [identity for identity, _ in _owe(cursor, entity, reason, keys, revision, claimed=claimed)]


def owe_documents(cursor: Cursor, entity: str, keys: Sequence[str], revision: int) -> tuple[list[int], bool]:
    """Record documents as owed, claimed by the caller; and whether an index is filled beside the alias."""
    records = _owe(cursor, entity, "documents", keys, revision, claimed=True)
    return [identity for identity, _ in records], any(beside for _, beside in records)


def _owe(
    cursor: Cursor, entity: str, reason: str, keys: Sequence[str], revision: int, *, claimed: bool
) -> list[tuple[int, bool]]:
    """(id, whether an index is filled beside the alias) of each record."""
    until = f"now() + interval '{CLAIM_SECONDS} s'" if claimed else "NULL"
    records = []
    for first in range(0, len(keys), _KEYS_A_RECORD):
        part = keys[first : first + _KEYS_A_RECORD]
        cursor.execute(
            "INSERT INTO sync.due (entity, reason, keys, revision, priority, claimed_until)"
            f" VALUES (%s, %s, %s::text[], %s, %s, {until}) RETURNING id, {_BESIDE.format('due.entity')}",
            (entity, reason, array_literal(pa.array(part, pa.string())), revision, PRIORITY[reason]),
        )
        records.append(cursor.fetchone())
    return records


def park(cursor: Cursor, entity: str, rejects: Iterable[Reject], revision: int, retries: int) -> None:
    """Park rows with their reason; they wait for a change of the row or for a replay.

    A file may be uploaded after the row that names it: a row whose file is missing is tried again by itself,
    `retries` times for the same fault, after 2, 4, 8 … 600 s. A row that was discarded stays so while it is the same.
    """
    rows = [(entity, r.key, revision, r.step, r.error, r.message[:2000], r.digest) for r in rejects]
    if not rows:
        return
    cursor.execute(
        "DELETE FROM sync.due WHERE entity = %s AND reason IN ('parent', 'children') AND key = ANY(%s)",
        (entity, [key for _, key, *_ in rows]),
    )
    execute_values(
        cursor,
        "INSERT INTO sync.due (entity, reason, key, revision, priority, not_before, attempts, step, error, message,"
        " digest) SELECT r.* FROM (VALUES %s) r (entity, reason, key, revision, priority, not_before, attempts, step,"
        " error, message, digest) WHERE NOT EXISTS (SELECT FROM sync.due d WHERE (d.entity, d.key, d.reason) ="
        f" (r.entity, r.key, '{DISCARDED}') AND d.digest = r.digest)"
        " ON CONFLICT (entity, key, reason) WHERE key IS NOT NULL DO UPDATE SET revision = excluded.revision,"
        " attempts = CASE WHEN due.message = excluded.message THEN due.attempts + 1 ELSE 1 END, step = excluded.step,"
        " error = excluded.error, message = excluded.message, digest = excluded.digest, last_at = now(),"
        " claimed_until = NULL, not_before = 'infinity', waits_for = NULL, waits_key = NULL",
        sorted(rows, key=lambda row: row[1]),
        template=f"(%s, 'rejected', %s, %s, {_PARKED_PRIORITY}, 'infinity'::timestamptz, 1, %s, %s, %s, %s::bigint)",
    )
    cursor.execute(
        "UPDATE sync.due SET not_before = now() + least(600, power(2, attempts)) * interval '1 s'"
        " WHERE entity = %s AND reason = 'rejected' AND error = %s AND attempts <= %s AND key = ANY(%s)",
        (entity, MISSING_FILE, retries, [key for _, key, *_ in rows]),
    )
    # the same fault again is no news
    cursor.execute(
        "SELECT key, step, error || ': ' || message FROM sync.due"
        " WHERE entity = %s AND reason = 'rejected' AND attempts = 1 AND key = ANY(%s) ORDER BY key",
        (entity, [key for _, key, *_ in rows]),
    )
    tell(cursor, entity, "parked", cursor.fetchall(), revision)


def discarded(cursor: Cursor, entity: str, rows: Sequence[tuple[str, int | None]]) -> list[str]:
    """Those of the rows (key, digest) that somebody has set aside for good, as they are."""
    cursor.execute(
        "SELECT d.key FROM unnest(%s::text[], %s::bigint[]) r (key, digest) JOIN sync.due d"
        " ON (d.entity, d.key, d.reason) = (%s, r.key, %s) AND d.digest = r.digest",
        ([key for key, _ in rows], [digest for _, digest in rows], entity, DISCARDED),
    )
    return [key for (key,) in cursor.fetchall()]


def recall(cursor: Cursor, entity: str, keys: Sequence[str]) -> None:
    """Rows that were discarded, and that somebody has had tried all the same, are no longer."""
    cursor.execute(
        "DELETE FROM sync.due WHERE entity = %s AND reason = %s AND key = ANY(%s)", (entity, DISCARDED, list(keys))
    )


def wait(cursor: Cursor, entity: str, waits: Sequence[Wait], revision: int, limit: float) -> None:
    """Set rows aside until those they wait for are written. A child that waits longer than `limit` s is a dead letter.

    Even then it is released when its parent lands.
    """
    values = [(w.key, w.reason, w.entity, w.awaited, w.said, w.digest) for w in sorted(waits, key=lambda w: w.key)]
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
        [(entity, r, k, revision, PRIORITY[r], "row", "Waits", *rest) for k, r, *rest in values],
        template="(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s::bigint)",
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
    tell(cursor, entity, "waits", [about for *about, is_new, _ in found if is_new], revision)
    tell(cursor, entity, "parked", [about for *about, _, has_run_out in found if has_run_out], revision)


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
            "reasons": list(PARKED if unchanged else ASIDE),
            "keys": list(keys),
            "revision": revision,
        },
    )


def release_waiting(cursor: Cursor, entity: str, keys: Sequence[str], revision: int) -> None:
    """Whatever waits for these rows is owed now. Only adds records: nobody's lock is waited for."""
    cursor.execute(
        "INSERT INTO sync.due (entity, reason, keys, revision, priority)"
        f" SELECT entity, 'released', array_agg(key ORDER BY key), %s, {PRIORITY['released']} FROM (SELECT entity, key,"
        f" (row_number() OVER (PARTITION BY entity ORDER BY key) - 1) / {_KEYS_A_RECORD} AS part FROM sync.due"
        " WHERE waits_for = %s AND waits_key = ANY(%s)) w GROUP BY entity, part",
        (revision, entity, list(keys)),
    )


def gather(cursor: Cursor, entity: str, reason: str) -> None:
    """Put many small records into few: while a store is away what is owed grows with its keys, not with the time."""
    values = {"entity": entity, "reason": reason}
    free = "entity = %(entity)s AND reason = %(reason)s AND (claimed_until IS NULL OR claimed_until < now())"
    cursor.execute(f"SELECT count(*), count(*) FILTER (WHERE {_IS_FULL}) FROM sync.due WHERE {free}", values)
    records, full = cursor.fetchone()
    if records - full < _MANY_RECORDS:
        return
    cursor.execute(
        f"WITH taken AS (DELETE FROM sync.due WHERE {free} RETURNING *),"
        " named AS (SELECT key, row_number() OVER (ORDER BY key) - 1 AS n FROM"
        "   (SELECT DISTINCT k AS key FROM taken, unnest(coalesce(keys, ARRAY[key])) k) k)"
        " INSERT INTO sync.due (entity, reason, keys, revision, priority, attempts, error, message, first_at)"
        f" SELECT entity, reason, array_agg(named.key), revision, priority, attempts, error, message, first_at"
        " FROM named, (SELECT entity, reason, priority, max(revision) AS revision, max(attempts) AS attempts,"
        "   max(error) AS error, max(message) AS message, min(first_at) AS first_at FROM taken GROUP BY 1, 2, 3) t"
        f" GROUP BY n / {_KEYS_A_RECORD}, entity, reason, revision, priority, attempts, error, message, first_at",
        values,
    )


def look_again(cursor: Cursor, entity: str, besides: Sequence[str]) -> None:
    """Parked rows that a sweep finds as they were last written, or nowhere: what they were parked for may be over."""
    cursor.execute(
        "UPDATE sync.due SET not_before = now() WHERE id IN (SELECT id FROM sync.due WHERE entity = %s"
        " AND reason = 'rejected' AND not_before > now() AND step IS DISTINCT FROM 'document' AND waits_for IS NULL"
        " AND key <> ALL(%s::text[]) FOR UPDATE SKIP LOCKED)",
        (entity, array_literal(pa.array(besides, pa.string()))),
    )


def claim(cursor: Cursor, entity: str, useless: Sequence[str] = (), limit: int = 1) -> list[Owed]:
    """Claim the most urgent records by lease, so that no lock is held while they are worked on.

    Those of `useless` reasons are left.
    """
    cursor.execute(
        f"UPDATE sync.due SET claimed_until = now() + interval '{CLAIM_SECONDS} s' WHERE id IN ("
        " SELECT id FROM sync.due WHERE entity = %s AND not_before <= now() AND reason <> ALL(%s::text[])"
        " AND (claimed_until IS NULL OR claimed_until < now())"
        " ORDER BY priority, not_before LIMIT %s FOR UPDATE SKIP LOCKED)"
        " RETURNING id, reason, coalesce(keys, ARRAY[key]), attempts, extract(epoch FROM now() - first_at)::float8",
        (entity, list(useless), limit),
    )
    return [Owed(*row) for row in cursor.fetchall()]


def unclaim(cursor: Cursor, entity: str) -> None:
    """Let go of what a worker that is gone had claimed. Were it still there, its work would only be done twice."""
    cursor.execute(
        "UPDATE sync.due SET claimed_until = NULL WHERE entity = %s AND claimed_until IS NOT NULL", (entity,)
    )


def let_go(cursor: Cursor, ids: Sequence[int]) -> None:
    """What was claimed is left to whoever comes first."""
    cursor.execute("UPDATE sync.due SET claimed_until = NULL WHERE id = ANY(%s)", (list(ids),))


def close(cursor: Cursor, ids: Sequence[int]) -> None:
    """What was owed is done."""
    cursor.defer("DELETE FROM sync.due WHERE id = ANY(%s)", (list(ids),))


def close_shown(cursor: Cursor, ids: Sequence[int]) -> None:
    """Documents were sent to the alias alone: done, unless an index is filled beside it, which wants them as well."""
    cursor.defer(f"DELETE FROM sync.due WHERE id = ANY(%s) AND NOT {_BESIDE.format('due.entity')}", (list(ids),))
    cursor.defer("UPDATE sync.due SET claimed_until = NULL WHERE id = ANY(%s)", (list(ids),))


def later(cursor: Cursor, identity: int, seconds: float) -> None:
    """Not now."""
    cursor.execute("UPDATE sync.due SET not_before = now() + %s * interval '1 s' WHERE id = %s", (seconds, identity))


def keep(cursor: Cursor, identity: int, keys: Sequence[str], seconds: float) -> None:
    """Of what was owed these keys are left, for later."""
    cursor.execute(
        "UPDATE sync.due SET keys = %s::text[], attempts = attempts + 1, claimed_until = NULL, last_at = now(),"
        " not_before = now() + %s * interval '1 s' WHERE id = %s",
        (array_literal(pa.array(keys, pa.string())), seconds, identity),
    )


def postpone(cursor: Cursor, ids: Sequence[int], error: Exception) -> None:
    """What was owed could not be done: again after 1, 2, 4 … 60 s, with jitter."""
    cursor.execute(
        "UPDATE sync.due SET attempts = attempts + 1, claimed_until = NULL, last_at = now(), error = %s, message = %s,"
        " not_before = now() + least(60, power(2, least(attempts, 6))) * (0.75 + random() / 2) * interval '1 s'"
        " WHERE id = ANY(%s)",
        (type(error).__name__, str(error)[:2000], list(ids)),
    )


def refused_documents(cursor: Cursor, entity: str) -> list[str]:
    """Rows (key texts) that are parked since the index did not take their document."""
    cursor.execute(
        "SELECT key FROM sync.due WHERE entity = %s AND reason = 'rejected' AND step = 'document'", (entity,)
    )
    return [key for (key,) in cursor.fetchall()]


def replay_documents(cursor: Cursor, entity: str) -> None:
    """Make rows due at once whose documents the index did not take."""
    cursor.execute(
        "UPDATE sync.due SET not_before = now(), attempts = 0"
        " WHERE entity = %s AND reason = 'rejected' AND step = 'document'",
        (entity,),
    )


@dataclass(frozen=True)
class Choice:
    """Which of what is owed is asked for; dead letters are a thing of their own."""

    entity: str
    reason: str | None = None
    key: str | None = None

    @property
    def where(self) -> str:
        """The condition, over named parameters."""
        return (
            "entity = %(entity)s AND reason <> ALL(%(dead)s) AND (%(reason)s IS NULL OR reason = %(reason)s)"
            " AND (%(key)s IS NULL OR key = %(key)s OR %(key)s = ANY(keys))"
        )

    @property
    def values(self) -> dict[str, object]:
        """The parameters."""
        return {**vars(self), "dead": list(DEAD_LETTERS)}


def replay(cursor: Cursor, choice: Choice) -> int:
    """Make what waits due at once, with all its retries before it; the number of records."""
    cursor.execute(
        f"UPDATE sync.due SET not_before = now(), claimed_until = NULL, attempts = 0 WHERE {choice.where}",
        choice.values,
    )
    return int(cursor.rowcount)


def overview(cursor: Cursor, choice: Choice, limit: int) -> dict[str, object]:
    """`total` records, `causes` (records alike, with an example), and the first `records`, most urgent first."""
    values = {**choice.values, "limit": limit}
    cursor.execute(f"SELECT count(*) FROM sync.due WHERE {choice.where}", values)
    total = int(cursor.fetchone()[0])
    causes = named(
        cursor,
        "SELECT reason, step, error, sum(coalesce(cardinality(keys), 1))::bigint AS keys, max(attempts) AS attempts,"
        f" min(first_at) AS first_at, {next_at('min(not_before)')} AS next_at, min(message) AS message"
        f" FROM sync.due WHERE {choice.where} GROUP BY reason, step, error ORDER BY keys DESC, 1, 2, 3",
        values,
    )
    records = named(
        cursor,
        "SELECT reason, coalesce(key, CASE WHEN cardinality(keys) = 1 THEN keys[1] ELSE cardinality(keys) || ' keys'"
        " END) AS key, step, error, message, attempts, first_at, last_at,"
        f" {next_at('not_before')} AS next_at"
        f" FROM sync.due WHERE {choice.where} ORDER BY priority, not_before, id LIMIT %(limit)s",
        values,
    )
    return {"total": total, "causes": causes, "records": records}


def keys_owed(cursor: Cursor, entity: str) -> int:
    """How many keys are owed, rows set aside left out."""
    cursor.execute(
        "SELECT coalesce(sum(coalesce(cardinality(keys), 1)), 0) FROM sync.due WHERE entity = %s AND reason <> ALL(%s)",
        (entity, list(ASIDE)),
    )
    return int(cursor.fetchone()[0])


def keys_overdue(cursor: Cursor, entity: str, seconds: float) -> int:
    """How many keys are owed for longer than this; dead letters, and children that wait for parents, left out."""
    cursor.execute(
        "SELECT coalesce(sum(coalesce(cardinality(keys), 1)), 0) FROM sync.due"
        " WHERE entity = %s AND reason <> ALL(%s) AND first_at < now() - %s * interval '1 s'",
        (entity, [*DEAD_LETTERS, "parent"], seconds),
    )
    return int(cursor.fetchone()[0])


def next_at(expression: str) -> str:
    """When it is tried again; what waits for a person has no such time."""
    return f"nullif({expression}, 'infinity')"
