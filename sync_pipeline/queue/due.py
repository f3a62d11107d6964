"""What is owed: documents of open batches, files to copy, keys found by a sweep, parked rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from sync_pipeline.db.columns import array_literal
from sync_pipeline.db.sql import Cursor, named
from sync_pipeline.model.reasons import DEAD_LETTERS, SET_ASIDE, Reason

PRIORITY = {
    Reason.OVERTAKEN: 0,
    Reason.COMPENSATION: 0,
    Reason.DOCUMENTS: 1,
    Reason.MEDIA: 2,
    Reason.RELEASED: 3,
    Reason.MOVED: 3,
    Reason.FUTURE: 3,
    Reason.CHILDREN: 4,
    Reason.PARENT: 5,
    Reason.FANOUT: 6,
    Reason.SWEEP: 7,
    Reason.RECOVERED: 7,
}
CLAIM_SECONDS = 120
# few enough that fresh work never waits long behind a record
KEYS_A_RECORD = 500
_IS_FULL = f"cardinality(keys) >= {KEYS_A_RECORD}"
# so many records that are not full are put together
_MANY_RECORDS = 50
# asked along with what is recorded anyway: a batch has no moment to spare for it
_BESIDE = "EXISTS (SELECT FROM sync.rebuild r WHERE (r.entity, r.kind, r.state) = ({}, 'index', 'filling'))"
# dead letters: those that a person has asked for, and those whose time has come, which are behind everything else
ASKED, AGAIN = 5, 9
_REFUSED_A_CLAIM = 100
# the conditions of the index due_order, word for word: without them, every look would read past all that is parked
IS_WORK = "reason <> ALL (ARRAY['rejected', 'parent', 'children', 'discarded'])"
_IS_READY = (
    "entity = %(entity)s AND not_before <= now() AND (claimed_until IS NULL OR claimed_until < now())"
    " AND reason <> ALL(%(useless)s::text[])"
)
_REFUSED = (
    f"SELECT id FROM sync.due WHERE {_IS_READY} AND reason = 'rejected' AND priority = {{}} AND NOT EXISTS ({{}})"
    " ORDER BY not_before LIMIT %(refused)s FOR UPDATE SKIP LOCKED"
)
_WORK = f"""
        SELECT id, priority, not_before FROM sync.due WHERE {_IS_READY} AND {IS_WORK}
        ORDER BY priority, not_before LIMIT %(limit)s FOR UPDATE SKIP LOCKED
"""
_TAKE = f"""
    UPDATE sync.due SET claimed_until = now() + interval '{CLAIM_SECONDS} s' WHERE id IN (SELECT id FROM {{}})
    RETURNING id, reason, coalesce(keys, ARRAY[key]), attempts, extract(epoch FROM now() - first_at)::float8
"""
_CLAIM_WORK = _TAKE.format(f"({_WORK}) w")
_CLAIM = f"""
    WITH work AS ({_WORK}), waiting AS (
        SELECT id, priority, not_before FROM sync.due
        WHERE {_IS_READY} AND reason = ANY (ARRAY['parent', 'children'])
        ORDER BY not_before LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    ), best AS (
        SELECT * FROM (TABLE work UNION ALL TABLE waiting) b ORDER BY priority, not_before LIMIT %(limit)s
    ), asked AS (
        {_REFUSED.format(ASKED, f"SELECT FROM best WHERE priority <= {ASKED}")}
    ), again AS (
        {_REFUSED.format(AGAIN, "SELECT FROM best UNION ALL SELECT FROM asked")}
    ), chosen AS (
        SELECT id FROM best WHERE NOT EXISTS (SELECT FROM asked) UNION ALL TABLE asked UNION ALL TABLE again
    )
    {_TAKE.format("chosen")}
"""


@dataclass(frozen=True)
class Owed:
    """A claimed record: keys (as text) that are owed, and why."""

    id: int
    reason: Reason
    keys: list[str]
    attempts: int
    age: float = 0.0  # seconds since it was first owed
    others: tuple[int, ...] = ()  # further records, where it stands for several dead letters

    def one_by_one(self) -> list[Owed]:
        """Each of the dead letters that this record stands for, as a record of its own."""
        ids = (self.id, *self.others)
        return [replace(self, id=n, keys=[key], others=()) for n, key in zip(ids, self.keys, strict=True)]


def owe(
    cursor: Cursor,
    entity: str,
    reason: Reason,
    keys: Sequence[str],
    revision: int,
    *,
    claimed: bool = False,
    walk: int | None = None,
) -> list[int]:
    """Record keys as owed, in the caller's transaction; `claimed` keeps them to the caller for a while.

    `walk` is the number of the sweep that has found them.
    """
    texts = pa.array(keys, pa.string())
    return [identity for identity, _ in _owe(cursor, entity, reason, texts, revision, claimed=claimed, walk=walk)]


def owe_documents(cursor: Cursor, entity: str, keys: pa.Array, revision: int) -> tuple[list[int], bool]:
    """Queue documents, claimed by the caller; returns the records, and whether a rebuild fills a shadow index."""
    records = _owe(cursor, entity, Reason.DOCUMENTS, keys, revision, claimed=True)
    return [identity for identity, _ in records], any(has_shadow for _, has_shadow in records)


@dataclass(frozen=True)
class Age:
    """For how long something is owed already, and how often it was tried."""

    first_at: object
    attempts: int


def age_of(cursor: Cursor, ids: Sequence[int]) -> Age | None:
    """The oldest one's of these records, if there are any."""
    cursor.execute("SELECT min(first_at), max(attempts) FROM sync.due WHERE id = ANY(%s)", (list(ids),))
    found = Age(*cursor.fetchone())
    return found if found.first_at else None


def as_old(cursor: Cursor, ids: Sequence[int], age: Age | None) -> None:
    """These records go on for others: what is owed stays as old as it is."""
    if age:
        cursor.execute(
            "UPDATE sync.due SET first_at = least(first_at, %s), attempts = greatest(attempts, %s) WHERE id = ANY(%s)",
            (age.first_at, age.attempts, list(ids)),
        )


def _owe(
    cursor: Cursor,
    entity: str,
    reason: Reason,
    keys: pa.Array,
    revision: int,
    *,
    claimed: bool,
    walk: int | None = None,
) -> list[tuple[int, bool]]:
    """Returns (id, whether a rebuild fills a shadow index) for each record."""
    until = f"now() + interval '{CLAIM_SECONDS} s'" if claimed else "NULL"
    records = []
    for first in range(0, len(keys), KEYS_A_RECORD):
        part = keys.slice(first, KEYS_A_RECORD)
        cursor.execute(
            "INSERT INTO sync.due (entity, reason, keys, revision, priority, walk, claimed_until)"
            f" VALUES (%s, %s, %s::text[], %s, %s, %s, {until}) RETURNING id, {_BESIDE.format('due.entity')}",
            (entity, reason, array_literal(part), revision, PRIORITY[reason], walk),
        )
        records.append(cursor.fetchone())
    return records


def gather(cursor: Cursor, entity: str, reason: Reason) -> None:
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
        f" GROUP BY n / {KEYS_A_RECORD}, entity, reason, revision, priority, attempts, error, message, first_at",
        values,
    )


def claim(
    cursor: Cursor, entity: str, useless: Sequence[str] = (), limit: int = 1, *, set_aside: bool = True
) -> list[Owed]:
    """Claim the most urgent records by lease, so that no lock is held while they are worked on.

    Those of `useless` reasons are left. Without `set_aside`, rows that wait for something else or were refused are
    left as well: to look for them takes four times as long.
    """
    cursor.execute(
        _CLAIM if set_aside else _CLAIM_WORK,
        {"entity": entity, "useless": list(useless), "limit": limit, "refused": _REFUSED_A_CLAIM},
    )
    rows = [Owed(identity, Reason(reason), *rest) for identity, reason, *rest in cursor.fetchall()]
    refused = [row for row in rows if row.reason == Reason.REJECTED]
    if len(refused) > 1:  # one batch, and one line in the log: what is still refused is parked again key by key
        keys = [key for row in refused for key in row.keys]
        first = replace(refused[0], keys=keys, others=tuple(row.id for row in refused[1:]))
        rows = [*(row for row in rows if row.reason != Reason.REJECTED), first]
    return rows


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
    """Documents were sent to the alias alone: done, unless a rebuild fills a shadow index, which wants them as well."""
    cursor.defer(f"DELETE FROM sync.due WHERE id = ANY(%s) AND NOT {_BESIDE.format('due.entity')}", (list(ids),))
    cursor.defer("UPDATE sync.due SET claimed_until = NULL WHERE id = ANY(%s)", (list(ids),))


def wake(cursor: Cursor, ids: Sequence[int]) -> None:
    """Have these records tried now."""
    cursor.execute("UPDATE sync.due SET not_before = now() WHERE id = ANY(%s) AND not_before > now()", (list(ids),))


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


@dataclass(frozen=True)
class QueueFilter:
    """Which of what is owed is asked for; dead letters are a thing of their own."""

    entity: str
    reason: Reason | None = None
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


def replay(cursor: Cursor, chosen: QueueFilter) -> int:
    """Make what waits due at once, with all its retries before it; the number of records."""
    cursor.execute(
        f"UPDATE sync.due SET not_before = now(), claimed_until = NULL, attempts = 0 WHERE {chosen.where}",
        chosen.values,
    )
    return int(cursor.rowcount)


def overview(cursor: Cursor, chosen: QueueFilter, limit: int) -> dict[str, object]:
    """`total` records, `causes` (records alike, with an example), and the first `records`, most urgent first."""
    values = {**chosen.values, "limit": limit}
    cursor.execute(f"SELECT count(*) FROM sync.due WHERE {chosen.where}", values)
    total = int(cursor.fetchone()[0])
    causes = named(
        cursor,
        "SELECT reason, step, error, sum(coalesce(cardinality(keys), 1))::bigint AS keys, max(attempts) AS attempts,"
        f" min(first_at) AS first_at, {next_at('min(not_before)')} AS next_at, min(message) AS message"
        f" FROM sync.due WHERE {chosen.where} GROUP BY reason, step, error ORDER BY keys DESC, 1, 2, 3",
        values,
    )
    records = named(
        cursor,
        "SELECT reason, coalesce(key, CASE WHEN cardinality(keys) = 1 THEN keys[1] ELSE cardinality(keys) || ' keys'"
        " END) AS key, step, error, message, attempts, first_at, last_at,"
        f" {next_at('not_before')} AS next_at"
        f" FROM sync.due WHERE {chosen.where} ORDER BY priority, not_before, id LIMIT %(limit)s",
        values,
    )
    return {"total": total, "causes": causes, "records": records}


def keys_owed(cursor: Cursor, entity: str) -> int:
    """How many keys are owed, rows set aside left out."""
    cursor.execute(
        "SELECT coalesce(sum(coalesce(cardinality(keys), 1)), 0) FROM sync.due WHERE entity = %s AND reason <> ALL(%s)",
        (entity, list(SET_ASIDE)),
    )
    return int(cursor.fetchone()[0])


def keys_overdue(cursor: Cursor, entity: str, seconds: float) -> int:
    """How many keys are owed for longer than this; dead letters, and children that wait for parents, left out."""
    cursor.execute(
        "SELECT coalesce(sum(coalesce(cardinality(keys), 1)), 0) FROM sync.due"
        " WHERE entity = %s AND reason <> ALL(%s) AND first_at < now() - %s * interval '1 s'",
        (entity, [*DEAD_LETTERS, Reason.PARENT], seconds),
    )
    return int(cursor.fetchone()[0])


def next_at(expression: str) -> str:
    """When it is tried again; what waits for a person has no such time."""
    return f"nullif({expression}, 'infinity')"
