"""Reads `sync.due`, the queue of what is still to be done. What other modules ask of it is a function here.

Keys are key texts, `ids` name records. Conditions (SQL) are over the columns of `sync.due` and over named parameters.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from sync_pipeline.db.columns import array_literal
from sync_pipeline.db.sql import Cursor, Values, bind, rows_as
from sync_pipeline.db.statements import statements
from sync_pipeline.model.reasons import DEAD_LETTERS, SET_ASIDE, Reason

_SQL = statements(__name__)
# documents that may be on their way, or that were refused
_OWED_DOCUMENTS = "(reason IN ('documents', 'overtaken') OR step = 'document')"
_KEYS_OF_DOCUMENTS = (
    "SELECT unnest(coalesce(keys, ARRAY[key])) FROM sync.due WHERE entity = %s"
    f" AND {_OWED_DOCUMENTS} AND coalesce(sink, %s) = %s"
)
# what a follower works on: all but rows that are set aside; the condition of the index due_order, word for word
IS_WORK = "reason <> ALL (ARRAY['rejected', 'parent', 'children', 'discarded'])"


@dataclass(frozen=True)
class QueueCause:
    """Records that are alike: how many keys they hold, and what was said of one of them."""

    reason: str
    step: str | None
    error: str | None
    keys: int
    attempts: int
    first_at: dt.datetime
    next_at: dt.datetime | None  # None: it waits for something else than a time
    message: str | None


@dataclass(frozen=True)
class QueueRecord:
    """A record as people read it: its key, or how many it holds."""

    reason: str
    key: str
    step: str | None
    error: str | None
    message: str | None
    attempts: int
    first_at: dt.datetime
    last_at: dt.datetime
    next_at: dt.datetime | None


@dataclass(frozen=True)
class ObjectRecord:
    """A record that holds an object's key: why, what was said of it, and what it waits for."""

    reason: str
    step: str | None
    error: str | None
    message: str | None
    attempts: int
    first_at: dt.datetime
    last_at: dt.datetime
    next_at: dt.datetime | None
    waits_for: str | None  # an entity
    waits_key: str | None
    digest: int | None  # of the row that was refused
    discarded_at: dt.datetime | None
    discarded_by: str | None
    discarded_why: str | None
    undone_at: dt.datetime | None  # when its row was put back as it was before


@dataclass(frozen=True)
class ParkedRecord:
    """A row that is set aside, or the first one of a record."""

    entity: str
    reason: str
    key: str
    error: str | None
    message: str | None


@dataclass(frozen=True)
class DeadLetterCause:
    """Dead letters that are alike, parked or discarded: how many rows, and some of their keys."""

    state: str
    step: str
    error: str
    rows: int
    attempts: int
    first_at: dt.datetime
    last_at: dt.datetime
    next_at: dt.datetime | None
    message: str
    keys: list[str]


@dataclass(frozen=True)
class DeadLetter:
    """A row that was refused at a step: parked, or discarded by somebody."""

    entity: str
    key: str
    state: str
    step: str
    error: str
    message: str
    attempts: int
    first_at: dt.datetime
    last_at: dt.datetime
    next_at: dt.datetime | None
    waits_for: str | None
    waits_key: str | None
    digest: int | None
    revision: int
    discarded_at: dt.datetime | None
    discarded_by: str | None
    discarded_why: str | None
    undone_at: dt.datetime | None
    sink: str | None  # the outer sink that refused it, at the step `document`


class Outage(NamedTuple):
    """Keys that wait for a store."""

    reason: str
    keys: int
    since: dt.datetime
    message: str


class RefusedRow(NamedTuple):
    """A row that was refused, or waits: its digest then, and whether another basis may change the matter."""

    id: int
    key: str
    digest: int | None
    has_other_basis: bool


class FileRecord(NamedTuple):
    """A record of a row whose files were refused, put back or discarded."""

    id: int
    key: str
    reason: str


def age(cursor: Cursor, ids: Sequence[int]) -> tuple[dt.datetime | None, int | None]:
    """When the oldest of these records came, and how often one of them was tried."""
    cursor.execute("SELECT min(first_at), max(attempts) FROM sync.due WHERE id = ANY(%s)", (list(ids),))
    first_at, attempts = cursor.fetchone()
    return first_at, attempts


def count_unclaimed(cursor: Cursor, entity: str, reason: Reason, full: int) -> tuple[int, int]:
    """Records that nobody works on, and those of them that hold at least `full` keys."""
    cursor.execute(
        "SELECT count(*), count(*) FILTER (WHERE cardinality(keys) >= %s) FROM sync.due"
        " WHERE entity = %s AND reason = %s AND (claimed_until IS NULL OR claimed_until < now())",
        (full, entity, reason),
    )
    records, are_full = cursor.fetchone()
    return int(records), int(are_full)


def count(cursor: Cursor, condition: str, values: Values) -> int:
    """Records that fulfil a condition."""
    cursor.execute(f"SELECT count(*) FROM sync.due WHERE {condition}", values)
    return int(cursor.fetchone()[0])


def causes(cursor: Cursor, condition: str, values: Values) -> list[QueueCause]:
    """Records that fulfil a condition, by cause."""
    return rows_as(QueueCause, cursor, _over("causes", condition), values)


def records(cursor: Cursor, condition: str, values: Values, limit: int) -> list[QueueRecord]:
    """Records that fulfil a condition, the most urgent first."""
    return rows_as(QueueRecord, cursor, _over("records", condition), {**values, "limit": limit})


def of_object(cursor: Cursor, entity: str, key: str, root: str) -> list[ObjectRecord]:
    """All that is owed of an object, by its key or by the root that it belongs to, the most urgent first."""
    return rows_as(ObjectRecord, cursor, _SQL["of_object"], {"entity": entity, "key": key, "root": root})


def keys_by_reason(cursor: Cursor, entity: str) -> dict[str, int]:
    """How many keys are owed for each reason."""
    cursor.execute(
        "SELECT reason, sum(coalesce(cardinality(keys), 1))::bigint FROM sync.due WHERE entity = %s GROUP BY 1",
        (entity,),
    )
    return dict(cursor.fetchall())


def count_keys(cursor: Cursor) -> int:
    """How many keys of all entities are owed, rows set aside included."""
    cursor.execute("SELECT coalesce(sum(coalesce(cardinality(keys), 1)), 0)::bigint FROM sync.due")
    return int(cursor.fetchone()[0])


def keys_owed(cursor: Cursor, entity: str) -> int:
    """How many keys are owed, rows set aside left out."""
    cursor.execute(
        "SELECT coalesce(sum(coalesce(cardinality(keys), 1)), 0) FROM sync.due WHERE entity = %s AND reason <> ALL(%s)",
        (entity, list(SET_ASIDE)),
    )
    return int(cursor.fetchone()[0])


def keys_owed_to(cursor: Cursor, entity: str, sink: str) -> int:
    """How many keys are owed to an outer sink."""
    cursor.execute(
        "SELECT coalesce(sum(cardinality(keys)), 0)::bigint FROM sync.due"
        " WHERE entity = %s AND reason = 'documents' AND sink = %s",
        (entity, sink),
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


def late(cursor: Cursor, entity: str, keys: Sequence[str], seconds: float) -> dict[str, bool]:
    """Those of the keys that are owed, and whether for longer than this."""
    cursor.execute(_SQL["late"], {"entity": entity, "keys": list(keys), "seconds": seconds})
    return {key: bool(is_late) for key, is_late in cursor.fetchall()}


def outages(cursor: Cursor, entity: str) -> list[Outage]:
    """Keys that wait for a store, by reason."""
    cursor.execute(_SQL["outages"], {"entity": entity})
    return [Outage(*row) for row in cursor.fetchall()]


def with_error(cursor: Cursor, entity: str, error: str) -> tuple[int, dt.datetime | None, str | None]:
    """How many records bear this error, since when, and a message of one."""
    cursor.execute(
        "SELECT count(*), min(first_at), max(message) FROM sync.due WHERE entity = %s AND error = %s", (entity, error)
    )
    number, since, message = cursor.fetchone()
    return int(number), since, message


def parked(cursor: Cursor, entities: Iterable[str], reasons: Sequence[Reason], limit: int) -> list[ParkedRecord]:
    """The first rows of entities that are set aside for these reasons."""
    values: Values = {"entities": list(entities), "parked": list(reasons), "limit": limit}
    return rows_as(ParkedRecord, cursor, _SQL["parked"], values)


def parked_anew(cursor: Cursor, entity: str, keys: Sequence[str]) -> list[tuple[str, str, str]]:
    """Those of the keys that were refused for this reason the first time: (key, step, error and message)."""
    cursor.execute(
        "SELECT key, step, error || ': ' || message FROM sync.due"
        " WHERE entity = %s AND reason = 'rejected' AND attempts = 1 AND key = ANY(%s) ORDER BY key",
        (entity, list(keys)),
    )
    return list(cursor.fetchall())


def parked_as_they_are(
    cursor: Cursor, entity: str, keys: Sequence[str], digests: Sequence[int], values: Values
) -> set[str]:
    """Those of the rows (key, digest) that are parked as they are. `values`: `basis`, and reasons that are `parked`."""
    texts = array_literal(pa.array(keys, pa.string()))
    cursor.execute(_SQL["parked_as_they_are"], {"entity": entity, "keys": texts, "digests": list(digests), **values})
    return set(_first_column(cursor))


def discarded_as_they_are(cursor: Cursor, entity: str, rows: Sequence[tuple[str, int | None]]) -> list[str]:
    """Those of the rows (key, digest) that somebody has discarded as they are."""
    cursor.execute(
        "SELECT d.key FROM unnest(%s::text[], %s::bigint[]) r (key, digest) JOIN sync.due d"
        " ON (d.entity, d.key, d.reason) = (%s, r.key, 'discarded') AND d.digest = r.digest",
        ([key for key, _ in rows], [digest for _, digest in rows], entity),
    )
    return _first_column(cursor)


def has_discarded(cursor: Cursor, entity: str) -> bool:
    """Whether any row is discarded."""
    cursor.execute("SELECT EXISTS (SELECT FROM sync.due WHERE (entity, reason) = (%s, 'discarded'))", (entity,))
    return bool(cursor.fetchone()[0])


def discarded(cursor: Cursor, entity: str, keys: Sequence[str]) -> list[str]:
    """Those of the keys whose rows are discarded."""
    cursor.execute(
        "SELECT key FROM sync.due WHERE entity = %s AND reason = 'discarded' AND key = ANY(%s)", (entity, list(keys))
    )
    return _first_column(cursor)


def undone(cursor: Cursor, entity: str, keys: Sequence[str]) -> list[str]:
    """Those of the keys whose rows are as they were before their documents were refused."""
    cursor.execute(
        "SELECT DISTINCT key FROM sync.due WHERE entity = %s AND undone_at IS NOT NULL AND key = ANY(%s)",
        (entity, list(keys)),
    )
    return _first_column(cursor)


def refused_documents(cursor: Cursor, entity: str, sink: str) -> list[str]:
    """Keys that are parked since an outer sink refused them."""
    cursor.execute(
        "SELECT key FROM sync.due WHERE entity = %s AND reason = 'rejected' AND step = 'document'"
        " AND coalesce(sink, %s) = %s",
        (entity, sink, sink),
    )
    return _first_column(cursor)


def refused_documents_among(cursor: Cursor, entity: str, keys: Sequence[str]) -> list[str]:
    """Those of the keys whose document the index refused as the row was written last, parked or discarded."""
    cursor.execute(
        "SELECT DISTINCT key FROM sync.due WHERE entity = %s AND reason = ANY(%s) AND step = 'document'"
        " AND key = ANY(%s)",
        (entity, [*DEAD_LETTERS], list(keys)),
    )
    return _first_column(cursor)


def refused_by(cursor: Cursor, entity: str, constraints: Sequence[str], limit: int) -> list[str]:
    """Keys that are parked since one of these constraints refused them; of each constraint the latest ones."""
    cursor.execute(_SQL["refused_by"], {"constraints": list(constraints), "entity": entity, "limit": limit})
    return _first_column(cursor)


def refused_page(cursor: Cursor, entity: str, after: int, values: Mapping[str, int]) -> list[RefusedRow]:
    """Rows that were refused or wait for a parent, behind the record `after`. `values` are `basis` and `limit`."""
    cursor.execute(_SQL["refused_page"], {"entity": entity, "after": after, **values})
    return [RefusedRow(*row) for row in cursor.fetchall()]


def dead_letter_causes(cursor: Cursor, condition: str, values: Values, examples: int) -> list[DeadLetterCause]:
    """Dead letters that fulfil a condition, by cause, parked ones and many first."""
    return rows_as(DeadLetterCause, cursor, _over("dead_letter_causes", condition), {**values, "examples": examples})


def dead_letters(cursor: Cursor, condition: str, values: Values, limit: int) -> list[DeadLetter]:
    """Dead letters that fulfil a condition, the oldest first."""
    query = f"{_over('dead_letters', condition)} ORDER BY first_at, id LIMIT %(limit)s"
    return rows_as(DeadLetter, cursor, query, {**values, "limit": limit})


def latest_dead_letter(cursor: Cursor, condition: str, values: Values) -> DeadLetter | None:
    """One that fulfils a condition; a row that is parked anew after an older state was discarded is parked."""
    query = f"{_over('dead_letters', condition)} ORDER BY reason = 'discarded' LIMIT 1"
    return next(iter(rows_as(DeadLetter, cursor, query, values)), None)


def count_rejected(cursor: Cursor, entities: Iterable[str]) -> dict[str, int]:
    """How many parked dead letters each entity has."""
    cursor.execute(
        "SELECT e, (SELECT count(*) FROM sync.due d WHERE d.entity = e AND d.reason = 'rejected')"
        " FROM unnest(%s::text[]) e",
        (list(entities),),
    )
    return dict(cursor.fetchall())


def being_tried(cursor: Cursor, entity: str, keys: Sequence[str]) -> int:
    """How many records of these dead letters are worked on now or due: tries, and putting back what was refused."""
    cursor.execute(_SQL["being_tried"], {"entity": entity, "keys": list(keys)})
    return int(cursor.fetchone()[0])


def refused_steps(cursor: Cursor, condition: str, values: Values) -> dict[str, str]:
    """By key, the step at which parked rows that fulfil a condition were refused, where it is known which row it was.

    The row of a document is known: it is the one that is applied.
    """
    cursor.execute(
        f"SELECT key, step FROM sync.due WHERE {condition} AND reason = 'rejected'"
        " AND (digest IS NOT NULL OR step = 'document')",
        values,
    )
    return dict(cursor.fetchall())


def keys(cursor: Cursor, condition: str, values: Values) -> list[str]:
    """The keys of records that fulfil a condition, in their order, once each."""
    cursor.execute(f"SELECT DISTINCT key FROM sync.due WHERE {condition} ORDER BY key", values)
    return _first_column(cursor)


def owed_documents(cursor: Cursor, entity: str, sink: str) -> list[str]:
    """Keys that may be on their way to an outer sink, or that it has refused."""
    cursor.execute(f"SELECT DISTINCT k FROM ({_KEYS_OF_DOCUMENTS}) d (k)", (entity, sink, sink))
    return _first_column(cursor)


def refused_files(cursor: Cursor, entity: str, keys: Sequence[str]) -> list[FileRecord]:
    """Records of those of the rows that are parked since a file was refused, put back as they were, or discarded."""
    cursor.execute(
        "SELECT id, key, reason FROM sync.due WHERE entity = %s AND key = ANY(%s::text[])"
        " AND (reason = 'discarded' OR undone_at IS NOT NULL OR reason = 'rejected' AND step = 'media')",
        (entity, array_literal(pa.array(keys, pa.string()))),
    )
    return [FileRecord(*row) for row in cursor.fetchall()]


def owed_files(cursor: Cursor, entity: str, keys: Sequence[str], limit: int) -> list[tuple[int, str]]:
    """(id, key) of those of the rows whose files are to be copied, as far as so many records tell."""
    cursor.execute(
        "SELECT id, k FROM (SELECT * FROM sync.due WHERE entity = %s AND reason = 'media' LIMIT %s) d,"
        " unnest(coalesce(d.keys, ARRAY[d.key])) k WHERE k = ANY(%s::text[])",
        (entity, limit, array_literal(pa.array(keys, pa.string()))),
    )
    return list(cursor.fetchall())


def owes_document(cursor: Cursor, entity: str, sink: str, key_text: str) -> str:
    """SQL: whether a row may be on its way to an outer sink, or was refused; `key_text` is SQL for the row's key."""
    return f"{key_text} IN ({cursor.mogrify(_KEYS_OF_DOCUMENTS, (entity, sink, sink)).decode()})"


def is_set_aside(cursor: Cursor, entity: str, key_text: str) -> str:
    """SQL: whether a row is set aside; `key_text` is SQL for its key."""
    named = f"d.entity = {bind(cursor, entity)} AND d.key = {key_text} AND d.reason = ANY({bind(cursor, [*SET_ASIDE])})"
    return f"EXISTS (SELECT FROM sync.due d WHERE {named})"


def has_work(cursor: Cursor, entity: str) -> str:
    """SQL: whether anything but rows that are set aside is owed."""
    return f"EXISTS (SELECT FROM sync.due WHERE entity = {bind(cursor, entity)} AND {IS_WORK})"


def has_reason(cursor: Cursor, entity: str, reasons: Sequence[Reason]) -> str:
    """SQL: whether anything is owed for one of these reasons."""
    named = f"d.entity = {bind(cursor, entity)} AND d.reason = ANY({bind(cursor, list(reasons))})"
    return f"EXISTS (SELECT FROM sync.due d WHERE {named})"


def _over(name: str, condition: str) -> str:
    return _SQL[name].replace("{condition}", condition)


def _first_column(cursor: Cursor) -> list[str]:
    return [value for (value,) in cursor.fetchall()]
