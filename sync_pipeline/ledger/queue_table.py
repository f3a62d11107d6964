"""Writes `sync.due`, the queue of what is still to be done: no other module does. `queue/` decides what and when.

Every function works in the caller's transaction. Keys are key texts, `ids` name records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa
from psycopg2.extras import execute_values

from sync_pipeline.db.columns import DIGEST, array_literal
from sync_pipeline.db.sql import Cursor, Values, bind
from sync_pipeline.db.statements import statements
from sync_pipeline.model.files import MISSING_FILE
from sync_pipeline.model.reasons import PARKED, SET_ASIDE, Reason

_SQL = statements(__name__)
_WAKE_ROWS = "UPDATE sync.due SET not_before = now(), claimed_until = NULL, attempts = 0"


class Claimed(NamedTuple):
    """A claimed record: its keys, how often it was tried, and for how many seconds it has been in the queue.

    `sink` is the outer sink that it is owed to; None: all of them.
    """

    id: int
    reason: str
    keys: list[str]
    attempts: int
    age: float
    sink: str | None


class ParkedRow(NamedTuple):
    """A row that was refused at a step, under a basis, maybe by a constraint, or by an outer sink."""

    key: str
    revision: int
    priority: int
    step: str
    error: str
    message: str
    digest: int | None
    basis: int | None
    refused_by: str | None
    sink: str | None


class WaitingRow(NamedTuple):
    """A row that waits for another one, of the entity `waits_for`."""

    reason: str
    key: str
    revision: int
    priority: int
    waits_for: str
    waits_key: str
    message: str
    digest: int | None


class TimedWait(NamedTuple):
    """A row that waits, and whether that is news: it has begun to, or it has become a dead letter."""

    key: str
    step: str
    message: str
    is_new: bool
    has_run_out: bool


def insert(
    cursor: Cursor,
    entity: str,
    reason: Reason,
    keys: pa.Array,
    values: Values,
) -> tuple[int, str]:
    """Queue a record of keys (string); returns its id, and the name of what a rebuild fills to follow its sink's own.

    `values` are `revision`, `priority`, `walk` (the number of the sweep that found them), `sink` (the one it is owed
    to) and `claim_seconds`, for which the record is the caller's; None: the first worker that claims it has it.
    """
    named = {"entity": entity, "reason": reason, "keys": array_literal(keys), **values}
    cursor.execute(_SQL["insert_keys"], named)
    identity, shadow = cursor.fetchone()
    return int(identity), shadow or ""


def insert_swept(cursor: Cursor, entity: str, walk: int, priority: int) -> None:
    """Queue what the sweep of this number found deleted."""
    values = {"entity": entity, "reason": Reason.SWEEP, "walk": walk, "priority": priority}
    cursor.execute(_SQL["insert_swept"], values)


def delete_swept_before(cursor: Cursor, entity: str, walk: int, *, covers_files: bool) -> None:
    """Drop what sweeps before this number queued; files only where it has listed them."""
    cursor.execute(_SQL["delete_swept_before"], {"entity": entity, "walk": walk, "covers_files": covers_files})


def count_to_walk(cursor: Cursor, entity: str, ids: Sequence[int], walk: int) -> None:
    """Have records of files count as queued by the sweep of this number."""
    cursor.execute(
        "UPDATE sync.due SET walk = %s WHERE entity = %s AND reason = 'media' AND walk < %s AND id = ANY(%s)",
        (walk, entity, walk, list(ids)),
    )


def claim(cursor: Cursor, entity: str, values: Values, *, set_aside: bool) -> list[Claimed]:
    """Claim the most urgent records; without `set_aside`, none of rows that were refused or wait for others.

    `values` are `useless` (reasons that are left), `useless_sinks`, `limit`, `refused_limit`, `claim_seconds`, and the
    priorities of dead letters: `asked` and `again`.
    """
    cursor.execute(_SQL["claim_all" if set_aside else "claim_work"], {"entity": entity, **values})
    return [Claimed(*row) for row in cursor.fetchall()]


def unclaim_entity(cursor: Cursor, entity: str) -> None:
    """Let go of all records that are claimed."""
    cursor.execute(
        "UPDATE sync.due SET claimed_until = NULL WHERE entity = %s AND claimed_until IS NOT NULL", (entity,)
    )


def unclaim(cursor: Cursor, ids: Sequence[int]) -> None:
    """Let go of records."""
    cursor.execute("UPDATE sync.due SET claimed_until = NULL WHERE id = ANY(%s)", (list(ids),))


def delete(cursor: Cursor, ids: Sequence[int]) -> None:
    """Drop records whose work is done; sent with what comes next."""
    cursor.defer("DELETE FROM sync.due WHERE id = ANY(%s)", (list(ids),))


def delete_sent(cursor: Cursor, ids: Sequence[int]) -> None:
    """Drop records of documents that the alias has; where a rebuild fills a shadow index, let go of them."""
    cursor.defer(_SQL["delete_sent"], {"ids": list(ids)})
    cursor.defer("UPDATE sync.due SET claimed_until = NULL WHERE id = ANY(%s)", (list(ids),))


def put_together(cursor: Cursor, entity: str, reason: Reason, keys_a_record: int) -> None:
    """Have few records hold what many unclaimed ones hold."""
    cursor.execute(_SQL["put_together"], {"entity": entity, "reason": reason, "keys_a_record": keys_a_record})


def set_age(cursor: Cursor, ids: Sequence[int], first_at: object, attempts: int) -> None:
    """Have records be at least this old."""
    cursor.execute(
        "UPDATE sync.due SET first_at = least(first_at, %s), attempts = greatest(attempts, %s) WHERE id = ANY(%s)",
        (first_at, attempts, list(ids)),
    )


def wake(cursor: Cursor, ids: Sequence[int]) -> None:
    """Have records that wait for their time tried now."""
    cursor.execute("UPDATE sync.due SET not_before = now() WHERE id = ANY(%s) AND not_before > now()", (list(ids),))


def put_off(cursor: Cursor, identity: int, seconds: float) -> None:
    """Have a record tried after so long, not before."""
    cursor.execute("UPDATE sync.due SET not_before = now() + %s * interval '1 s' WHERE id = %s", (seconds, identity))


def keep_keys(cursor: Cursor, identity: int, keys: Sequence[str], seconds: float) -> None:
    """Have a record hold these keys alone, to be tried after so long."""
    values = {"keys": array_literal(pa.array(keys, pa.string())), "seconds": seconds, "id": identity}
    cursor.execute(_SQL["keep_keys"], values)


def postpone(cursor: Cursor, ids: Sequence[int], error: str, message: str) -> None:
    """Note why records could not be done, and have them tried again after a time that grows with their tries."""
    cursor.execute(_SQL["postpone"], {"error": error, "message": message, "ids": list(ids)})


def try_now(cursor: Cursor, condition: str, values: Values) -> int:
    """Make the records due that fulfil a condition, with all their tries before them; returns how many."""
    cursor.execute(f"{_WAKE_ROWS} WHERE {condition}", values)
    return int(cursor.rowcount)


def try_refused_now(cursor: Cursor, entity: str, keys: Sequence[str], priority: int) -> None:
    """Make dead letters due, with all their tries before them."""
    cursor.execute(
        f"{_WAKE_ROWS}, priority = %s WHERE entity = %s AND reason = 'rejected' AND key = ANY(%s)",
        (priority, entity, list(keys)),
    )


def try_step_now(cursor: Cursor, entity: str, step: str, priority: int) -> None:
    """Make the dead letters due that were refused at a step; those that are being tried stay claimed."""
    cursor.execute(
        "UPDATE sync.due SET not_before = now(), attempts = 0, priority = %s"
        " WHERE entity = %s AND reason = 'rejected' AND step = %s",
        (priority, entity, step),
    )


def park(cursor: Cursor, entity: str, rows: Sequence[ParkedRow]) -> None:
    """Park rows, in place of what they waited for; for as long as `time_tries` sets nothing else, without a time."""
    cursor.execute(
        "DELETE FROM sync.due WHERE entity = %s AND reason IN ('parent', 'children') AND key = ANY(%s)",
        (entity, [row.key for row in rows]),
    )
    execute_values(
        cursor,
        _SQL["park"],
        [(entity, *row) for row in sorted(rows, key=lambda row: row.key)],
        template="(%s, 'rejected', %s, %s, %s, 'infinity'::timestamptz, 1,"
        " %s, %s, %s, %s::bigint, %s::integer, %s, %s)",
    )


def time_tries(cursor: Cursor, entity: str, keys: Sequence[str], values: Values) -> None:
    """Set when parked rows are tried again, by what refused them and how often.

    `values` are `retries` (of a row whose file is missing), `again` and `longest` (seconds), and the `errors` of files
    that a store refuses.
    """
    named = {"entity": entity, "keys": list(keys), "missing": MISSING_FILE, **values}
    cursor.execute(_SQL["time_tries"], named)
    cursor.execute(_SQL["time_tries_of_files"], named)


def wait(cursor: Cursor, entity: str, rows: Sequence[WaitingRow]) -> None:
    """Set rows aside until those that they wait for are written; one that is a dead letter stays one."""
    others = [(entity, row.reason, row.key, row.waits_for, row.waits_key) for row in rows]
    execute_values(cursor, _SQL["end_other_waits"], others, page_size=len(rows))
    execute_values(
        cursor,
        _SQL["wait"],
        [(entity, *row) for row in rows],
        template="(%s, %s, %s, %s, %s, 'row', 'Waits', %s, %s, %s, %s::bigint)",
        page_size=len(rows),
    )
    digests = [(entity, row.key, row.digest) for row in rows]
    template = "(%s, %s, %s::bigint)"
    execute_values(cursor, _SQL["set_digests_of_waiting"], digests, template=template, page_size=len(rows))


def time_waits(cursor: Cursor, entity: str, keys: Sequence[str], values: Values) -> list[TimedWait]:
    """Set when waiting rows are tried again; a child that has waited for longer than `limit` s is a dead letter.

    `values` are `limit`, `children_seconds` and the reasons that are `parked`.
    """
    cursor.execute(_SQL["time_waits"], {"entity": entity, "keys": list(keys), **values})
    return [TimedWait(*row) for row in cursor.fetchall()]


def release(cursor: Cursor, entity: str, keys: Sequence[str], values: Values) -> None:
    """Drop what is parked of rows that went through, or was discarded.

    `values` are `revision`, `unchanged` and `sink`. Of unchanged rows what was refused at the document stays, and what
    was discarded. Where rows went to one sink alone (None: to all), what another one has refused stays.
    """
    reasons = PARKED if values["unchanged"] else SET_ASIDE
    cursor.defer(_SQL["release"], {"entity": entity, "keys": list(keys), "reasons": list(reasons), **values})


def queue_waiting(cursor: Cursor, entity: str, keys: Sequence[str], values: Mapping[str, int]) -> None:
    """Queue whatever waits for these rows. `values` are `revision`, `priority` and `keys_a_record`."""
    named = {"entity": entity, "keys": list(keys), "reason": Reason.RELEASED, **values}
    cursor.execute(_SQL["queue_waiting"], named)


def set_undone(cursor: Cursor, entity: str, keys: Sequence[str], reasons: Sequence[Reason]) -> None:
    """Note of rows whose documents were refused that they are as they were before."""
    cursor.execute(_SQL["set_undone"], {"entity": entity, "keys": list(keys), "reasons": list(reasons)})


def set_not_undone(cursor: Cursor, entity: str, key: str, reasons: Sequence[Reason], error: tuple[str, str]) -> None:
    """Note of a row whose document was refused why it could not be put back: (name of the error, message)."""
    name, why = error
    values = {"entity": entity, "key": key, "reasons": list(reasons), "error": name, "why": why}
    cursor.execute(_SQL["set_not_undone"], values)


def delete_discarded(cursor: Cursor, entity: str, keys: Sequence[str]) -> None:
    """Drop discarded rows."""
    cursor.execute(
        "DELETE FROM sync.due WHERE entity = %s AND reason = 'discarded' AND key = ANY(%s)", (entity, list(keys))
    )


def take_back(cursor: Cursor, entity: str, keys: Sequence[str]) -> None:
    """Have discarded rows be parked again."""
    values = {"entity": entity, "keys": list(keys)}
    cursor.execute(_SQL["delete_discarded_anew"], values)
    cursor.execute(_SQL["take_back"], values)


def discard(cursor: Cursor, entity: str, keys: Sequence[str], by: str, why: str) -> None:
    """Have parked rows be discarded, in place of what was discarded before of the same rows."""
    delete_discarded(cursor, entity, keys)
    cursor.execute(_SQL["discard"], {"entity": entity, "keys": list(keys), "by": by, "why": why})


def set_digests_of_discarded(cursor: Cursor, entity: str, staged: str, key_text: str, basis: tuple[int, str]) -> None:
    """Have rows stay discarded that are the same under another expression of their digest. Waits for no batch.

    `staged` is a table (SQL) whose rows bear the present digest, and `key_text` the text of its rows' keys, where it
    has the alias `s`. `basis` is the present one, and the condition under which a row is the same, in which `d` is the
    record.
    """
    present, is_same = basis
    cursor.execute(
        f"UPDATE sync.due d SET digest = k.{DIGEST}, basis = {present} FROM (SELECT d.id, s.{DIGEST}"
        f" FROM {staged} s, sync.due d WHERE (d.entity, d.reason) = ({bind(cursor, entity)}, 'discarded')"
        f" AND d.key = {key_text} AND {is_same} FOR UPDATE OF d SKIP LOCKED) k WHERE d.id = k.id"
    )


def wake_refused(cursor: Cursor, ids: Sequence[int]) -> None:
    """Have rows tried now that are no longer what was refused."""
    cursor.execute(_SQL["wake_refused"], {"ids": list(ids)})


def wake_untimed(cursor: Cursor, entity: str, limit: int) -> None:
    """Have rows tried now that wait for a file or a parent, or repeat another row's value: first the oldest tries."""
    for name in ("wake_untimed", "wake_repeating"):
        cursor.execute(_SQL[name], {"entity": entity, "limit": limit})


def take_back_times(cursor: Cursor) -> None:
    """Have what waits by a clock that has been set back wait no longer than it was meant to."""
    cursor.execute(_SQL["take_back_times"])
