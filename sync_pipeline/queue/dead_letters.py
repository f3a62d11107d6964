"""Dead letters: rows that were refused, or waited in vain. By cause, one by one; replayed, or discarded for good.

A dead letter is tried again when its legacy row changes, and stays where it is meanwhile. To discard one is to have the
ledger take the very row that was refused for applied: no sweep, backfill or event looks at it again until it is another
one. What the new side held before stays there, and reconciliation calls the difference discarded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sync_pipeline.db.columns import DIGEST
from sync_pipeline.db.sql import Cursor, Values
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.ledger import queue_reads, queue_table
from sync_pipeline.ledger.log import TAKEN_FOR_APPLIED, record_events
from sync_pipeline.ledger.queue_reads import DeadLetter, DeadLetterCause
from sync_pipeline.model.reasons import DEAD_LETTERS, Reason
from sync_pipeline.model.steps import BatchStep
from sync_pipeline.queue.due import ASKED
from sync_pipeline.queue.parking import NOT_UNDONE

PARKED = "parked"
# what to do, by the step that refused
REMEDIES: dict[str, str] = {
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
    def values(self) -> Values:
        """The parameters."""
        return {**vars(self), "reasons": list(self.reasons), "keys": list(self.keys)}


@dataclass(frozen=True)
class DeadLetterOverview:
    """How many dead letters are parked and discarded, their causes with examples, and the oldest of them."""

    parked: int = 0
    discarded: int = 0
    causes: list[DeadLetterCause] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """For JSON, under the names that its readers know."""
        causes = [{"letters" if name == "rows" else name: v for name, v in vars(c).items()} for c in self.causes]
        return {"parked": self.parked, "discarded": self.discarded, "causes": causes, "letters": self.dead_letters}


def overview(cursor: Cursor, chosen: DeadLetterFilter, limit: int) -> DeadLetterOverview:
    """The dead letters that are meant, with the first `limit` of them."""
    causes = queue_reads.dead_letter_causes(cursor, chosen.where, chosen.values, _EXAMPLES)
    oldest = queue_reads.dead_letters(cursor, chosen.where, chosen.values, limit)
    parked, discarded = (
        sum(cause.rows for cause in causes if cause.state == state) for state in (PARKED, Reason.DISCARDED)
    )
    return DeadLetterOverview(parked, discarded, causes, oldest)


def find(cursor: Cursor, entity: str, key: str) -> DeadLetter | None:
    """One dead letter; a row that is parked anew after an older state was discarded is parked."""
    chosen = DeadLetterFilter(entity, [key])
    return queue_reads.latest_dead_letter(cursor, chosen.where, chosen.values)


@dataclass(frozen=True)
class DeadLetterNow:
    """A dead letter, what to do about it, and its legacy row now."""

    dead_letter: DeadLetter
    remedy: str
    row: dict[str, str] | None  # column -> value as text; None where it is gone
    changed: bool | None  # since it was refused; None where it is not known what row that was
    readable: bool

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            **vars(self.dead_letter),
            **{name: value for name, value in vars(self).items() if name != "dead_letter"},
        }


def with_row_now(context: EntityContext, found: DeadLetter) -> DeadLetterNow:
    """A dead letter together with its legacy row now. Raises UnreachableError, LegacySchemaError."""
    rows = context.origin.by_keys(context.origin.key.parse([found.key]))
    row = next(iter(rows.table.to_pylist()), None)
    digest = row.pop(DIGEST) if row else next((reject.digest for reject in rows.rejects), None)
    changed = None if found.digest is None else digest != found.digest
    shown = {name: shorten(value) for name, value in row.items()} if row else None
    return DeadLetterNow(found, remedy(found.step, found.error), shown, changed, not rows.rejects)


def shorten(value: object) -> str:
    """A value as people read it in a line."""
    text = "NULL" if value is None else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def remedy(step: str | None, error: str | None) -> str:
    """What a person can do about a row that was refused at a step, with an error."""
    if error == NOT_UNDONE:
        return HELD_FAST
    return AWAITED if error == "ParentMissing" else REMEDIES.get(step or "", "mend the row in the monolith")


def replay(context: EntityContext, chosen: DeadLetterFilter) -> list[str]:
    """Make them due at once, with all their retries before them; the keys. Discarded ones are letters again."""
    with context.stores.target() as cursor:
        keys = _locked(context, cursor, chosen)
        _take_back(context, cursor, keys)
        queue_table.try_refused_now(cursor, context.entity.name, keys, ASKED)
        record_events(cursor, context.entity.name, "replayed", [(key, None, None) for key in keys], 0)
    return keys


def _take_back(context: EntityContext, cursor: Cursor, keys: Sequence[str]) -> None:
    """Those that were discarded are parked again, and the ledger takes their rows for applied no longer."""
    _set_digests(context, cursor, keys, Reason.DISCARDED, "CASE WHEN l.held = 0 THEN NULL ELSE 0 END")
    queue_table.take_back(cursor, context.entity.name, keys)


def discard(context: EntityContext, chosen: DeadLetterFilter, by: str, why: str) -> list[str]:
    """Set parked ones aside for good, until their legacy rows change; the keys.

    Left as they are: letters of which it is not known what row was refused. A replay makes that known.
    """
    with context.stores.target() as cursor:
        _locked(context, cursor, chosen)
        steps = queue_reads.refused_steps(cursor, chosen.where, chosen.values)
        refused = [key for key, step in steps.items() if step != BatchStep.DOCUMENT]  # the row of a document is applied
        _set_digests(context, cursor, refused, Reason.REJECTED, "d.digest")
        queue_table.discard(cursor, context.entity.name, [*steps], by, why)
        record_events(
            cursor,
            context.entity.name,
            Reason.DISCARDED,
            [(key, step, f"{by}: {why}") for key, step in steps.items()],
            0,
        )
    return sorted(steps)


def _locked(context: EntityContext, cursor: Cursor, chosen: DeadLetterFilter) -> list[str]:
    """The keys that are meant, still so once nobody else writes them: a batch locks the ledger first, too."""
    key = context.origin.key
    keys = key.parse(queue_reads.keys(cursor, chosen.where, chosen.values))
    cursor.execute(
        f"SELECT FROM {context.ledger.table} l WHERE {key.is_in(cursor, 'l', keys)}"
        f" ORDER BY {key.plain('l')} FOR UPDATE"
    )
    still = {*queue_reads.keys(cursor, chosen.where, chosen.values)}
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
