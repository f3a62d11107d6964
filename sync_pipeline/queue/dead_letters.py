"""Dead letters: rows that were refused, or waited in vain. By cause, one by one; replayed, or discarded for good.

A dead letter is tried again when its legacy row changes, and stays where it is meanwhile. To discard one is to have the
ledger take the very row that was refused for applied: no sweep, backfill or event looks at it again until it is another
one. What the new side held before stays there, and reconciliation calls the difference discarded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sync_pipeline.db.columns import DIGEST
from sync_pipeline.db.sql import Cursor, named
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.ledger.log import TAKEN_FOR_APPLIED, record_events
from sync_pipeline.model.reasons import DEAD_LETTERS, Reason
from sync_pipeline.model.steps import BatchStep
from sync_pipeline.queue.due import ASKED, next_at
from sync_pipeline.queue.parking import NOT_UNDONE

PARKED = "parked"
# what to do, by the step that refused
REMEDIES = {
    BatchStep.READ: "mend the row in the monolith, or cast the column in the entity's query",
    BatchStep.ADAPT: "mend the row in the monolith, or the adapter and raise the entity's version",
    BatchStep.MEDIA: "upload the file to the monolith's bucket",
    BatchStep.ROW: "mend the row in the monolith, or the new table and the entity's file",
    BatchStep.DOCUMENT: "mend the row in the monolith, or the index's mapping",
    BatchStep.BATCH: "an error that no code foresaw: report it with its message, and mend the row in the monolith",
}
HELD_FAST = "mend what keeps the former row from coming back (a constraint, a right, a row that refers to it)"
AWAITED = "bring the row that it refers to: see why that one is not there"
_EXAMPLES, _LONGEST = 3, 200
_STATE = f"CASE reason WHEN '{Reason.DISCARDED}' THEN '{Reason.DISCARDED}' ELSE '{PARKED}' END"


@dataclass(frozen=True)
class DeadLetterFilter:
    """Which dead letters are meant: those that fulfil all that is said."""

    entity: str
    keys: Sequence[str] = ()
    step: str | None = None
    error: str | None = None
    older: float | None = None  # seconds since it was first refused
    reasons: tuple[str, ...] = DEAD_LETTERS

    @property
    def where(self) -> str:
        """The condition, over named parameters."""
        return (
            "entity = %(entity)s AND reason = ANY(%(reasons)s) AND (%(keys)s = '{}' OR key = ANY(%(keys)s))"
            " AND (%(step)s IS NULL OR step = %(step)s) AND (%(error)s IS NULL OR error = %(error)s)"
            " AND (%(older)s IS NULL OR first_at <= now() - %(older)s * interval '1 s')"
        )

    @property
    def values(self) -> dict[str, object]:
        """The parameters."""
        return {**vars(self), "reasons": list(self.reasons), "keys": list(self.keys)}


def overview(cursor: Cursor, chosen: DeadLetterFilter, limit: int) -> dict[str, Any]:
    """How many are `parked` and `discarded`, their `causes` with examples, and `letters`, the oldest first."""
    values = {**chosen.values, "limit": limit}
    causes = named(
        cursor,
        f"SELECT {_STATE} AS state, step, error, count(*) AS letters, max(attempts) AS attempts, min(first_at)"
        f" AS first_at, max(last_at) AS last_at, {next_at('min(not_before)')} AS next_at, min(message) AS message,"
        f" (array_agg(key ORDER BY first_at, id))[:{_EXAMPLES}] AS keys FROM sync.due WHERE {chosen.where}"
        " GROUP BY 1, 2, 3 ORDER BY 1 DESC, 4 DESC, 2, 3",
        values,
    )
    listed = named(cursor, f"{_SELECT} WHERE {chosen.where} ORDER BY first_at, id LIMIT %(limit)s", values)
    counts = {state: sum(c["letters"] for c in causes if c["state"] == state) for state in (PARKED, Reason.DISCARDED)}
    return {**counts, "causes": causes, "letters": listed}


_SELECT = (
    f"SELECT entity, key, {_STATE} AS state, step, error, message, attempts, first_at, last_at,"
    f" {next_at('not_before')} AS next_at, waits_for, waits_key, digest, revision, discarded_at, discarded_by,"
    " discarded_why, undone_at FROM sync.due"
)


def counts(cursor: Cursor, entities: Iterable[str]) -> dict[str, int]:
    """Return how many parked dead letters each entity has."""
    cursor.execute(
        "SELECT e, (SELECT count(*) FROM sync.due d WHERE d.entity = e AND d.reason = 'rejected')"
        " FROM unnest(%s::text[]) e",
        (list(entities),),
    )
    return dict(cursor.fetchall())


def find(cursor: Cursor, entity: str, key: str) -> dict[str, Any] | None:
    """One dead letter; a row that is parked anew after an older state was discarded is parked."""
    chosen = DeadLetterFilter(entity, [key])
    found = named(cursor, f"{_SELECT} WHERE {chosen.where} ORDER BY reason = '{Reason.DISCARDED}'", chosen.values)
    return found[0] if found else None


def known(context: EntityContext, found: dict[str, Any]) -> dict[str, Any]:
    """A letter with its `remedy`, the legacy `row` now (texts; None where it is gone) and whether it has `changed`.

    Raises UnreachableError, LegacySchemaError.
    """
    rows = context.origin.by_keys(context.origin.key.parse([found["key"]]))
    row = next(iter(rows.table.to_pylist()), None)
    digest = row.pop(DIGEST) if row else next((reject.digest for reject in rows.rejects), None)
    changed = None if found["digest"] is None else digest != found["digest"]
    shown = {name: shorten(value) for name, value in row.items()} if row else None
    return {**found, "remedy": remedy(found), "row": shown, "changed": changed, "readable": not rows.rejects}


def shorten(value: object) -> str:
    """A value as people read it in a line."""
    text = "NULL" if value is None else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def remedy(found: Mapping[str, Any]) -> str:
    """What a person can do about a cause or a letter."""
    if found["error"] == NOT_UNDONE:
        return HELD_FAST
    return AWAITED if found["error"] == "ParentMissing" else REMEDIES.get(found["step"], "mend the row in the monolith")


def replay(context: EntityContext, chosen: DeadLetterFilter) -> list[str]:
    """Make them due at once, with all their retries before them; the keys. Discarded ones are letters again."""
    with context.stores.target() as cursor:
        keys = _locked(context, cursor, chosen)
        _take_back(context, cursor, keys)
        cursor.execute(
            f"UPDATE sync.due SET not_before = now(), claimed_until = NULL, attempts = 0, priority = {ASKED}"
            " WHERE entity = %s AND reason = 'rejected' AND key = ANY(%s)",
            (context.entity.name, keys),
        )
        record_events(cursor, context.entity.name, "replayed", [(key, None, None) for key in keys], 0)
    return keys


def _take_back(context: EntityContext, cursor: Cursor, keys: Sequence[str]) -> None:
    """Those that were discarded are parked again, and the ledger takes their rows for applied no longer."""
    values = {"entity": context.entity.name, "keys": list(keys), "reason": Reason.DISCARDED}
    mine = "entity = %(entity)s AND reason = %(reason)s AND key = ANY(%(keys)s)"
    _set_digests(context, cursor, keys, Reason.DISCARDED, "CASE WHEN l.held = 0 THEN NULL ELSE 0 END")
    cursor.execute(
        f"DELETE FROM sync.due d WHERE {mine} AND EXISTS"
        " (SELECT FROM sync.due r WHERE (r.entity, r.key, r.reason) = (d.entity, d.key, 'rejected'))",
        values,
    )
    cursor.execute(
        "UPDATE sync.due SET reason = 'rejected', discarded_at = NULL, discarded_by = NULL, discarded_why = NULL"
        f" WHERE {mine}",
        values,
    )


def to_be_tried(cursor: Cursor, entity: str, keys: Sequence[str]) -> int:
    """How much is being done of them now, or is to be: tries, and putting back what was refused once more."""
    cursor.execute(
        "SELECT count(*) FROM sync.due WHERE entity = %(entity)s"
        " AND (reason = 'rejected' AND key = ANY(%(keys)s) OR reason = 'compensation' AND keys && %(keys)s)"
        " AND (claimed_until > now() OR not_before <= now())",
        {"entity": entity, "keys": list(keys)},
    )
    return int(cursor.fetchone()[0])


def discard(context: EntityContext, chosen: DeadLetterFilter, by: str, why: str) -> list[str]:
    """Set parked ones aside for good, until their legacy rows change; the keys.

    Left as they are: letters of which it is not known what row was refused. A replay makes that known.
    """
    with context.stores.target() as cursor:
        _locked(context, cursor, chosen)
        steps = _refused_rows(cursor, chosen)
        refused = [key for key, step in steps.items() if step != BatchStep.DOCUMENT]  # the row of a document is applied
        _set_digests(context, cursor, refused, Reason.REJECTED, "d.digest")
        values = {"entity": context.entity.name, "keys": list(steps), "by": by, "why": why, "reason": Reason.DISCARDED}
        cursor.execute(
            "DELETE FROM sync.due WHERE entity = %(entity)s AND reason = %(reason)s AND key = ANY(%(keys)s)", values
        )
        cursor.execute(
            "UPDATE sync.due SET reason = %(reason)s, not_before = 'infinity', claimed_until = NULL, waits_for = NULL,"
            " waits_key = NULL, discarded_at = now(), discarded_by = %(by)s, discarded_why = %(why)s"
            " WHERE entity = %(entity)s AND reason = 'rejected' AND key = ANY(%(keys)s)",
            values,
        )
        record_events(
            cursor,
            context.entity.name,
            Reason.DISCARDED,
            [(key, step, f"{by}: {why}") for key, step in steps.items()],
            0,
        )
    return sorted(steps)


def _refused_rows(cursor: Cursor, chosen: DeadLetterFilter) -> dict[str, str]:
    """By key, the step that refused it; only where it is known which row that was."""
    cursor.execute(
        f"SELECT key, step FROM sync.due WHERE {chosen.where} AND reason = 'rejected'"
        " AND (digest IS NOT NULL OR step = 'document')",
        chosen.values,
    )
    return dict(cursor.fetchall())


def _locked(context: EntityContext, cursor: Cursor, chosen: DeadLetterFilter) -> list[str]:
    """The keys that are meant, still so once nobody else writes them: a batch locks the ledger first, too."""
    query = f"SELECT DISTINCT key FROM sync.due WHERE {chosen.where} ORDER BY key"
    cursor.execute(query, chosen.values)
    keys, key = context.origin.key.parse(text for (text,) in cursor.fetchall()), context.origin.key
    cursor.execute(
        f"SELECT FROM {context.ledger.table} l WHERE {key.is_in(cursor, 'l', keys)}"
        f" ORDER BY {key.plain('l')} FOR UPDATE"
    )
    cursor.execute(query, chosen.values)
    still = {text for (text,) in cursor.fetchall()}
    return [text for text in key.texts(keys).to_pylist() if text in still]


def _set_digests(context: EntityContext, cursor: Cursor, keys: Sequence[str], reason: str, digest: str) -> None:
    """What the ledger takes for applied of these letters' rows; those of documents are applied."""
    key = context.origin.key
    if keys:
        cursor.execute(
            f"WITH set AS (UPDATE {context.ledger.table} l SET digest = {digest}, basis = {context.ledger.basis}"
            f" FROM sync.due d WHERE {key.is_in(cursor, 'l', key.parse(keys))} AND d.entity = %(entity)s"
            f" AND d.key = {key.text_expression('l')} AND d.reason = %(reason)s AND d.step <> 'document'"
            " RETURNING d.key, l.digest, l.basis)"
            " INSERT INTO sync.event (entity, key, kind, digest, basis) SELECT %(entity)s, key, %(kind)s, digest, basis"
            " FROM set",
            {"entity": context.entity.name, "reason": reason, "kind": TAKEN_FOR_APPLIED},
        )
