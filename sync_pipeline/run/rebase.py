"""Re-basing: brings rows of a former digest to the present one, page by page of a sweep, without a backfill.

The monolith computes the former digest and the present one of the same row, side by side. Where the former one is as
the ledger has it, the columns whose part of the expression is the same have not changed. So only columns with another
part can hold a difference that the former digest did not see:

- None of them holds a value: the ledger gets the present digest, and nothing is written.
- One of them holds a value: the row is adapted and compared with the new side's row and document. Where they are alike
  the ledger gets the present digest.
- Rows that differ, in the former digest or in the comparison, are marked as changed: the sweep queues them.

Where a former digest cannot be computed, each of its rows is compared. A batch that writes a row meanwhile wins: the
ledger's row is changed only while it is as it was, and never where a batch holds its lock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg2
import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.batch.adapt import adapt
from sync_pipeline.db.columns import DIGEST
from sync_pipeline.db.digest import former_expressions
from sync_pipeline.db.sql import Cursor, copy_in, copy_out, quote
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.origin import Rows
from sync_pipeline.entities.page_size import PageTooLargeError
from sync_pipeline.errors import UnreachableError
from sync_pipeline.ledger import queue_reads, queue_table
from sync_pipeline.ledger.bases import FormerBasis, former_bases
from sync_pipeline.ledger.ledger import BY_KEY
from sync_pipeline.model.faults import crash_point, guarded
from sync_pipeline.sinks.context import Span

log = logging.getLogger(__name__)

# legacy rows of a page, whose ledger rows are locked at once: a batch that wants one waits some 0.1 s for it
PAGE = 5_000
_ENTRY = pa.schema([("digest", pa.int64()), ("basis", pa.int32()), ("seen", pa.int64()), ("written", pa.int64())])
_IS_SAME = "_is_same"


@dataclass(frozen=True)
class FormerDigest:
    """A digest that rows of the ledger may still bear.

    `sql` is None where it cannot be computed, `affected` are the columns whose part of the expression has changed.
    """

    basis: int
    sql: str | None = None
    affected: tuple[str, ...] = ()

    @property
    def value(self) -> str:
        """The name of the former digest among those of a page."""
        return f"_former_{self.basis}"

    @property
    def count(self) -> str:
        """The name of the number of affected columns that hold a value."""
        return f"_affected_{self.basis}"

    @property
    def expressions(self) -> dict[str, str]:
        """What a page of legacy rows is to compute for it."""
        if self.sql is None:
            return {}
        # a composite of NULLs holds a value, although it IS NULL
        held = ", ".join(f"q.{quote(name)}" for name in self.affected)
        return {self.value: self.sql, self.count: f"num_nonnulls({held})" if held else "0"}


def former_digests(context: EntityContext) -> list[FormerDigest]:
    """Find the former digests that rows of the entity's ledger may still bear. Raises UnreachableError."""
    with context.stores.target() as cursor:
        bases = former_bases(cursor, context.entity.name, context.ledger.basis)
    return [_former_digest(context, basis) for basis in bases]


def _former_digest(context: EntityContext, basis: FormerBasis) -> FormerDigest:
    """Find out whether the monolith can compute a former digest of the query's present columns."""
    origin, expression = context.origin, basis.expression
    if expression is None:
        expression = former_expressions(origin.kinds, origin.server_major).get(basis.digest_version)
    elif expression.version(origin.server_major) != basis.digest_version:
        expression = None  # another major version of the server hashes otherwise
    if expression is None or expression.parts.keys() != origin.digest.parts.keys():
        return FormerDigest(basis.id)
    try:
        with context.stores.legacy() as cursor:
            cursor.execute(f"SELECT {expression.sql} FROM ({origin.sql}) q LIMIT 0")
    except psycopg2.ProgrammingError:  # a column has a type now of which the expression cannot be made
        return FormerDigest(basis.id)
    affected = tuple(name for name, part in origin.digest.parts.items() if expression.parts[name] != part)
    return FormerDigest(basis.id, expression.sql, affected)


def rebase_page(context: EntityContext, page: pa.Table, former: Sequence[FormerDigest], halt: threading.Event) -> int:
    """Bring rows of a page to the present digest. Returns how many it has brought there, or marked as changed.

    `page` has keys, digests and the expressions of the former ones. Raises UnreachableError where monolith or ledger do
    not answer.
    """
    with context.stores.target() as cursor:
        _stage(cursor, context, page)
        computed = [one for one in former if one.sql is not None]
        _keep_discarded(cursor, context, computed)
        done = sum(_settle_by_digest(cursor, context, one) for one in computed)
        entries = _entries(cursor, context, former)
    crash_point("rebase.stamped")
    return done + _settle_by_comparisons(context, entries, halt)


def _stage(cursor: Cursor, context: EntityContext, rows: pa.Table) -> None:
    """Put rows beside the ledger until the transaction ends: keys, and columns of numbers."""
    key = context.origin.key
    types = {pa.int64(): "bigint", pa.int32(): "integer", pa.bool_(): "boolean"}
    columns = [field for field in rows.schema if field.name not in key.columns]
    listed = ", ".join(f"{field.name} {types[field.type]}" for field in columns)
    cursor.defer(f"CREATE TEMP TABLE {_staged(context)} ({key.ddl()}, {listed}) ON COMMIT DROP")
    cursor.defer(BY_KEY)
    copy_in(cursor, _staged(context), ", ".join([key.plain(), *(field.name for field in columns)]), rows)


def _staged(context: EntityContext) -> str:
    return quote(f"rebase_{context.entity.name}")


def _settle_by_digest(cursor: Cursor, context: EntityContext, former: FormerDigest) -> int:
    """Set the present digest of rows whose former digest tells all; mark those in which it differs as changed."""
    is_certain = f"(l.digest IS DISTINCT FROM s.{former.value} OR s.{former.count} = 0)" if guarded(146) else "true"
    condition = f"l.basis = {former.basis} AND l.digest IS NOT NULL AND {is_certain}"
    return _set_digests(cursor, context, condition, f"l.digest = p.{former.value}")


def _keep_discarded(cursor: Cursor, context: EntityContext, former: Sequence[FormerDigest]) -> None:
    """Keep rows discarded that a person has set aside, and that are the same still. Waits for no batch."""
    name = context.entity.name
    if not queue_reads.has_discarded(cursor, name):
        return
    key_text = context.origin.key.text_expression("s")
    for one in former:
        is_same = f"coalesce(d.basis, {one.basis}) = {one.basis} AND d.digest = s.{one.value} AND s.{one.count} = 0"
        basis = context.ledger.basis, is_same
        queue_table.set_digests_of_discarded(cursor, name, _staged(context), key_text, basis)


def _entries(cursor: Cursor, context: EntityContext, former: Sequence[FormerDigest]) -> pa.Table:
    """The ledger's rows of the page that still bear a former digest."""
    key, bases = context.origin.key, ", ".join(str(one.basis) for one in former)
    return copy_out(
        cursor,
        f"SELECT {key.plain('s')}, {', '.join(_ENTRY.names)} FROM {_staged(context)} s CROSS JOIN LATERAL (SELECT"
        f" {', '.join(_ENTRY.names)} FROM {context.ledger.table} l WHERE {key.joins('l', key, 's')}"
        f" AND basis IN ({bases}) AND digest IS NOT NULL OFFSET 0) l ORDER BY {key.ordered('s')}",
        pa.schema([*key.schema, *_ENTRY]),
    )


def _settle_by_comparisons(context: EntityContext, entries: pa.Table, halt: threading.Event) -> int:
    """Compare a chunk of rows after the other, until `halt` is set or the index does not answer."""
    size, first, done = context.origin.page_size, 0, 0
    while first < entries.num_rows and not halt.is_set():
        part = entries.slice(first, size.rows(context.stores.settings.chunk_rows))
        try:
            done += _settle_by_comparison(context, part)
        except (PageTooLargeError, MemoryError):
            if part.num_rows == 1:
                raise
            size.shrink(part.num_rows)
            continue
        except _SinkAwayError as error:  # holds up no sweep: a later one compares these rows
            log.warning("rows not compared", extra={"entity": context.entity.name, "error": str(error)})
            return done
        first += part.num_rows
        crash_point("rebase.compared")
    return done


class _SinkAwayError(Exception):
    """A store does not answer."""


def _settle_by_comparison(context: EntityContext, entries: pa.Table) -> int:
    """Compare rows with the new side's: set the present digest of those that are alike, mark the others as changed.

    `entries` are the ledger's rows as they were before these rows are read.
    """
    key = context.origin.key
    keys = entries.select(list(key.columns))
    rows = context.origin.by_roots(context.origin.roots_of(keys))
    digests, differing = _compare(context, rows, keys)
    at = pc.index_in(key.texts(keys), value_set=key.texts(digests))
    found = digests.column(DIGEST).combine_chunks().take(at)
    is_same = pc.invert(pc.is_in(key.texts(keys), value_set=pa.array(sorted(differing), pa.string())))
    staged = entries.append_column(DIGEST, found).append_column(_IS_SAME, is_same)
    with context.stores.target() as cursor:
        _stage(cursor, context, staged.filter(found.is_valid()))  # a row that is gone is the sweep's to find
        as_it_was = " AND ".join(f"l.{name} = s.{name}" for name in _ENTRY.names)
        return _set_digests(cursor, context, as_it_was, f"p.{_IS_SAME}")


def _compare(context: EntityContext, rows: Rows, keys: pa.Table) -> tuple[pa.Table, set[str]]:
    """Keys and digests of the rows that were read, and which of them (key texts) the new side does not hold as such."""
    key = context.origin.key
    those = pc.is_in(key.texts(rows.table), value_set=key.texts(keys))  # and not the other parts of their roots
    expected, rejects = adapt(context.entity, key, rows.table.filter(those), context.bits)
    expected, span = context.as_written(expected), Span(keys)
    findings = context.entity.table.compare(context.of_sinks, expected, span)
    for sink in context.entity.outer_sinks:
        try:
            with sink.breaker(context.stores):
                findings += sink.compare(context.of_sinks, expected, span)
        except UnreachableError as error:
            raise _SinkAwayError(str(error)) from error
    refused = [*rows.rejects, *rejects]
    read = rows.table.select([*key.columns, DIGEST])
    unread = key.parse(reject.key for reject in rows.rejects)
    unread = unread.append_column(DIGEST, pa.array([0] * unread.num_rows, pa.int64()))
    return pa.concat_tables([read, unread]), {finding.key for finding in findings} | {r.key for r in refused}


def _set_digests(cursor: Cursor, context: EntityContext, condition: str, is_same: str) -> int:
    """Set the present basis of staged rows `s` whose ledger row `l` fits a condition. Returns how many.

    The digest is the present one where `is_same` holds (of the staged row `p`), and else one that no row has: whoever
    looks next takes the row for changed. Rows that a batch holds are left to it.
    """
    key = context.origin.key
    # LATERAL has the planner look up each staged row by its key, whatever it believes of an unanalysed table
    cursor.execute(
        f"WITH p AS MATERIALIZED (SELECT s.* FROM (SELECT * FROM {_staged(context)} s ORDER BY {key.ordered('s')}) s"
        f" CROSS JOIN LATERAL (SELECT FROM {context.ledger.table} l WHERE {key.joins('l', key, 's')} AND {condition}"
        f" FOR UPDATE SKIP LOCKED) l) UPDATE {context.ledger.table} l"
        f" SET digest = CASE WHEN {is_same} THEN p.{DIGEST} ELSE 0 END, basis = {context.ledger.basis}"
        f" FROM p WHERE {key.joins('l', key, 'p')} AND l.basis <> {context.ledger.basis}"
    )
    return int(cursor.rowcount)
