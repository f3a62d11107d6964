"""The origin: an entity's legacy rows as they are now, by key or by range, each with its digest.

A digest (`db/digest.py`) is computed where the row is. It is stable within a major version of the server, which is why
the ledger remembers the version it was made under.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType

import psycopg2
import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.db.columns import DIGEST, ELSEWISE, arrow_type, read_copy, read_leniently
from sync_pipeline.db.digest import DigestExpression, digest_expression, former_version
from sync_pipeline.db.keys import Key
from sync_pipeline.db.sql import Cursor, bind, copy_out, copy_text, copy_text_capped, quote
from sync_pipeline.db.sqlstate import ROW_FAULTS
from sync_pipeline.entities.page_size import PageSize, PageTooLargeError
from sync_pipeline.entity import Entity
from sync_pipeline.errors import AccessError, LegacySchemaError
from sync_pipeline.model.rows import Reject
from sync_pipeline.model.steps import BatchStep
from sync_pipeline.partitions import UNDATED, Monthly
from sync_pipeline.stores.sessions import Purpose, refusal
from sync_pipeline.stores.stores import Stores, first_line


class RowTooLongError(Exception):
    """The server cannot write a row as text."""


# what a query raises over the values of a single row
_ROW_FAULTS: tuple[type[Exception], ...] = (RowTooLongError, *ROW_FAULTS)
# these say nothing against the query: a row is at fault, or the monolith refuses our role
_NOT_OF_THE_QUERY: tuple[type[Exception], ...] = (*_ROW_FAULTS, psycopg2.errors.InsufficientPrivilege)
# a row that is too long for the server's own text form, which has a gigabyte at most
_ALLOCATION = "alloc request size"
_TOO_LONG = (psycopg2.errors.ProgramLimitExceeded, psycopg2.errors.InternalError_)
# stands for the digest of a row that has none; the ledger holds it of discarded ones alone
_NO_DIGEST = -1
_NUMERIC = 1700
_UNCONSTRAINED = 0xFFFF


@dataclass(frozen=True)
class Rows:
    """Legacy rows of one read, and what could not be read.

    Beside the declared columns there are `_digest` (int64), and `_elsewise`: of a row with values that their columns'
    Arrow types do not hold, these values as the server's text, by column, as JSON.
    """

    table: pa.Table
    rejects: tuple[Reject, ...] = ()
    last: list[str] | None = None  # position of the last row read, whether it could be used or not
    gone: int = 0  # there when keys were read, and no more when their rows were
    is_last: bool = True  # nothing follows in the range that was read

    @property
    def count(self) -> int:
        """How many rows were read, whether they could be used or not."""
        return int(self.table.num_rows) + len(self.rejects) + self.gone


@dataclass(frozen=True)
class Origin:
    """An entity's legacy query, with the column types the server gave it."""

    stores: Stores
    sql: str
    known: str  # the same without rows whose key holds a NULL: they cannot be named
    key: Key
    schema: pa.Schema  # the declared columns, the digest, and what has no value in its column's type
    kinds: Mapping[str, str]  # of the declared columns, as PostgreSQL names them
    select: str
    digest: DigestExpression
    server_major: int
    former_version: str | None  # another name of the same version
    root: Key  # what sources report and batches replace: the key, or the first of its columns
    page_size: PageSize

    @classmethod
    def open(cls, entity: Entity, stores: Stores) -> Origin:
        """Ask the server what the query returns. Raises LegacySchemaError naming entity and fault."""
        stores = stores.of_entity(entity.name, filtered=entity.is_filtered)
        with stores.legacy() as cursor:
            described = _described(cursor, entity)
            cursor.execute("SHOW server_version_num")
            major = int(cursor.fetchone()[0]) // 10_000
        _check_columns(entity, described)
        # the key is first
        types = {name: described[name][0] for name in dict.fromkeys((*entity.origin.key, *described))}
        digest = digest_expression(types)
        key = Key(entity.origin.key, tuple(types[name] for name in entity.origin.key))
        known = f"SELECT * FROM ({entity.origin.sql}) q WHERE {key.is_known('q')}"
        columns = {name: described[name][1] for name in types} | {f.name: f.type for f in key.schema}
        own_columns = [(DIGEST, pa.int64()), (ELSEWISE, pa.string())]
        return cls(
            stores,
            entity.origin.sql,
            known,
            key,
            pa.schema([*columns.items(), *own_columns]),
            types,
            ", ".join(_selected(name, columns[name]) for name in types) + f", {digest.sql} AS {DIGEST}",
            digest,
            major,
            former_version(types, major),
            key.prefix(len(entity.origin.root or entity.origin.key)),
            PageSize(stores.settings.chunk_bytes),
        )

    @property
    def digest_version(self) -> str:
        """The version of the digest that the monolith's present server computes."""
        return self.digest.version(self.server_major)

    @property
    def has_parts(self) -> bool:
        """Whether a root may have several rows, or none."""
        return self.root != self.key

    @property
    def _of(self) -> str:
        """What rows are read from."""
        return f"({self.known}) q"

    def roots_of(self, keys: pa.Table) -> pa.Table:
        """The roots of these rows or keys, once each."""
        roots = keys.select(list(self.root.columns))
        return roots.group_by(roots.column_names).aggregate([]) if self.has_parts else roots

    def by_keys(self, keys: pa.Table) -> Rows:
        """The rows of these keys; a key without a row is gone."""
        return self._named(self.key, keys)

    def by_roots(self, roots: pa.Table) -> Rows:
        """The rows of these roots. Raises PageTooLargeError where several hold more than SYNC_CHUNK_BYTES."""
        most = self.page_size.most_bytes if roots.num_rows > 1 else None
        rows = self._named(self.root, roots, most)
        size = rows.table.get_total_buffer_size()  # `nbytes` takes 25 times as long for few rows of many columns
        self.page_size.note(roots.num_rows, size)
        if most and size > 2 * most:
            raise PageTooLargeError
        return rows

    def all_by_roots(self, roots: pa.Table) -> Rows:
        """The rows of these roots, however large they are."""
        return self._named(self.root, roots)

    def _named(self, kind: Key, named: pa.Table, most: int | None = None) -> Rows:
        """Rows by key or root. Those for which the query fails are found by halving, and rejected alone."""
        if named.num_rows == 0:
            return Rows(self.schema.empty_table())
        try:
            with self.stores.legacy_rows() as cursor:
                rows = self._read(cursor, f"WHERE {kind.is_in(cursor, 'q', named)} OFFSET 0", most=most)
            if not rows.is_last:
                self.page_size.note(rows.count, most or 0)
                raise PageTooLargeError
            return rows
        except _ROW_FAULTS as error:
            if named.num_rows == 1:
                keys = self._keys(lambda cursor: f"WHERE {kind.is_in(cursor, 'q', named)}", self.key)
                reason = type(error).__name__, first_line(error)
                return Rows(
                    self.schema.empty_table(),
                    tuple(
                        Reject(text, BatchStep.READ, *reason, _NO_DIGEST) for text in self.key.texts(keys).to_pylist()
                    ),
                )
        half = named.num_rows // 2
        first, second = self._named(kind, named.slice(0, half), most), self._named(kind, named.slice(half), most)
        return Rows(pa.concat_tables([first.table, second.table]), first.rejects + second.rejects)

    def _keys(self, which: Callable[[Cursor], str], kind: Key) -> pa.Table:
        """Keys or roots alone: no other column is computed. Raises LegacySchemaError where even that fails."""
        with self.stores.legacy_rows() as cursor:
            try:
                query = f"SELECT {kind.plain('q')} FROM {self._of} {which(cursor)}"
                return copy_out(cursor, query, kind.schema, self._of)
            except _ROW_FAULTS as error:
                raise LegacySchemaError(f"the legacy query fails before it names a row: {first_line(error)}") from error

    def last_keys(self, limit: int) -> pa.Table:
        """The highest keys, from above."""
        return self._keys(lambda _: f"ORDER BY {self.key.descending('q')} LIMIT {limit}", self.key)

    def page(self, after: Sequence[str] | None, until: Sequence[str] | None, within: str, limit: int) -> Rows:
        """All rows of the next roots above `after`, at or below `until`, of a condition on q.

        They are `limit` roots, or as many as SYNC_CHUNK_BYTES hold, and one at least.
        """
        limit = self.page_size.rows(limit)
        while True:
            try:
                rows = self._page(after, until, within, limit)
                self.page_size.note(max(1, rows.count), rows.table.nbytes)
                return rows
            except (PageTooLargeError, MemoryError):
                if limit == 1:
                    raise
                limit = self.page_size.shrink(limit)

    def _page(self, after: Sequence[str] | None, until: Sequence[str] | None, within: str, limit: int) -> Rows:
        order = self.root.ordered("q")
        most = self.page_size.most_bytes if limit > 1 else None

        def which(cursor: Cursor) -> str:
            where = f"{within} AND {self.root.after(cursor, 'q', after)} AND {self.root.until(cursor, 'q', until)}"
            grouped = f"GROUP BY {self.root.plain('q')} " if self.has_parts else ""
            return f"WHERE {where} {grouped}ORDER BY {order} LIMIT {limit}"

        try:
            with self.stores.legacy_rows() as cursor:
                chosen = which(cursor)
                if self.has_parts:
                    roots = self.root.plain("q")
                    chosen = f"WHERE ({roots}) IN (SELECT {roots} FROM {self._of} {chosen}) OFFSET 0"
                rows = self._read(cursor, chosen, f"ORDER BY {order}", most)
        except _ROW_FAULTS:
            return self._page_by_roots(self._keys(which, self.root), limit)
        if not rows.is_last and self.has_parts:
            raise PageTooLargeError  # the last root may lack some of its parts
        return replace(rows, is_last=rows.is_last and rows.count < limit)

    def _page_by_roots(self, roots: pa.Table, limit: int) -> Rows:
        rows = self.by_roots(roots)
        last = self.root.position(roots) if roots.num_rows else None
        gone = max(0, roots.num_rows - rows.count)
        return replace(rows, last=last, gone=gone, is_last=roots.num_rows < limit)

    def digests(
        self, after: Sequence[str] | None, limit: int, others: Mapping[str, str] = MappingProxyType({})
    ) -> pa.Table:
        """The next `limit` keys with their digests, in key order; -1 where the query fails for the row.

        `others` are further expressions on q, by name, which are computed of the same rows; NULL where the query fails.
        """

        def which(cursor: Cursor) -> str:
            return f"WHERE {self.key.after(cursor, 'q', after)} ORDER BY {self.key.ordered('q')} LIMIT {limit}"

        try:
            return self._digests(which, others)
        except _ROW_FAULTS:
            return self._digests_of(self._keys(which, self.key), others)

    def digests_of(self, keys: pa.Table) -> pa.Table:
        """Those of these keys that have a row, with its digest; -1 where the query fails for the row."""
        return self._digests_of(keys, {}) if keys.num_rows else keys.append_column(DIGEST, pa.array([], pa.int64()))

    def _digests(self, which: Callable[[Cursor], str], others: Mapping[str, str]) -> pa.Table:
        expressions = {DIGEST: self.digest.sql, **others}
        schema = pa.schema([*self.key.schema, *((name, pa.int64()) for name in expressions)])
        with self.stores.legacy_rows() as cursor, _row_may_be_too_long():
            query = f"SELECT {self.key.plain('q')}, {', '.join(expressions.values())} FROM {self._of} {which(cursor)}"
            return copy_out(cursor, query, schema, self._of)

    def _digests_of(self, keys: pa.Table, others: Mapping[str, str]) -> pa.Table:
        """By halving, in the keys' order but for what is gone meanwhile."""
        try:
            return self._digests(
                lambda cursor: f"WHERE {self.key.is_in(cursor, 'q', keys)} ORDER BY {self.key.ordered('q')}", others
            )
        except _ROW_FAULTS:
            if keys.num_rows == 1:
                failed = keys.append_column(DIGEST, pa.array([_NO_DIGEST], pa.int64()))
                for name in others:
                    failed = failed.append_column(name, pa.nulls(1, pa.int64()))
                return failed
        half = keys.num_rows // 2
        halves = keys.slice(0, half), keys.slice(half)
        return pa.concat_tables([self._digests_of(keys, others) for keys in halves])

    def count_unknown(self) -> int:
        """How many rows have a NULL in their key, and so cannot be named."""
        with self.stores.legacy_rows(Purpose.WHOLE) as cursor:
            cursor.execute(f"SELECT count(*) FROM ({self.sql}) q WHERE NOT ({self.key.is_known('q')})")
            return int(cursor.fetchone()[0])

    def count(self, within: str) -> int:
        """How many rows there are of a condition on q."""
        with self.stores.legacy_rows(Purpose.WHOLE) as cursor:
            cursor.execute(f"SELECT count(*) FROM {self._of} WHERE {within}")
            return int(cursor.fetchone()[0])

    def within_month(self, partition: Monthly, name: str, *, open_ended: bool = False) -> str:
        """The condition on q of a monthly partition; `open_ended` as for its bounds."""
        column = f"q.{quote(partition.column)}"
        if name == UNDATED:
            return f"{column} IS NULL"
        with self.stores.legacy() as cursor:
            first, end = (bind(cursor, instant) for instant in partition.bounds(name, open_ended=open_ended))
        lower = "true" if first == "NULL" else f"{column} >= {first}"
        upper = f"{column} IS NOT NULL" if end == "NULL" else f"{column} < {end}"
        return f"{lower} AND {upper}"

    def cuts(self, count: int) -> list[list[str]]:
        """`count - 1` keys that cut all rows into ranges of about one size."""
        step = max(1, -(-self.count("true") // count))
        with self.stores.legacy_rows(Purpose.WHOLE) as cursor:
            # rows are numbered as an index gives them: a window over all of them would be held by the monolith
            cursor.execute(
                f"SELECT {self.root.plain('k')} FROM (SELECT {self.root.plain('q')},"
                f" row_number() OVER (ORDER BY {self.root.ordered('q')}) AS n FROM {self._of}) k"
                f" WHERE n % {step} = 0 ORDER BY n LIMIT {count - 1}"
            )
            return [[str(value) for value in row] for row in cursor.fetchall()]

    def _read(self, cursor: Cursor, which: str, order: str = "", most: int | None = None) -> Rows:
        # `which` ends in LIMIT or OFFSET: a fence, or the query's sub-selects would run again for the digest
        query = f"SELECT {self.select} FROM (SELECT * FROM {self._of} {which}) q {order}"
        text, is_cut = self._text(cursor, query, most)
        schema = self.schema.remove(len(self.schema) - 1)
        try:
            table = read_copy(text, schema)
            elsewise = pa.nulls(table.num_rows, pa.string())
        except pa.ArrowInvalid:
            table, elsewise = read_leniently(text, schema)
        table = table.append_column(ELSEWISE, elsewise)
        return self._apart(Rows(table, last=self._last(table), is_last=not is_cut))

    def _apart(self, rows: Rows) -> Rows:
        """Reject keys that the query gives more than once: the key does not tell which of their rows is meant."""
        keys = rows.table.select(list(self.key.columns))
        if keys.num_rows < 2 or _distinct(keys) == keys.num_rows:
            return rows
        texts = self.key.texts(keys)
        counted = pc.value_counts(texts)
        repeated = counted.field("values").filter(pc.greater(counted.field("counts"), 1))
        is_repeated = pc.is_in(texts, value_set=repeated)
        message = f"the query gives this key more than once ({', '.join(self.key.columns)})"
        digests = dict(zip(texts.to_pylist(), rows.table.column(DIGEST).to_pylist(), strict=True))
        rejects = tuple(
            Reject(key, BatchStep.READ, "RepeatedKey", message, digests[key]) for key in repeated.to_pylist()
        )
        surplus = pc.sum(is_repeated).as_py() - len(rejects)
        return replace(
            rows,
            table=rows.table.filter(pc.invert(is_repeated)),
            rejects=rows.rejects + rejects,
            gone=rows.gone + surplus,
        )

    def _text(self, cursor: Cursor, query: str, most: int | None) -> tuple[pa.Buffer, bool]:
        try:
            with _row_may_be_too_long():
                if most:
                    return copy_text_capped(cursor, query, self._of, most)
                return copy_text(cursor, query, self._of), False
        except _NOT_OF_THE_QUERY:
            raise
        except psycopg2.ProgrammingError as error:
            raise LegacySchemaError(f"the legacy query no longer runs: {first_line(error)}") from error

    def _last(self, table: pa.Table) -> list[str] | None:
        return self.root.position(table.select(list(self.root.columns))) if table.num_rows else None


def _described(cursor: Cursor, entity: Entity) -> dict[str, tuple[str, pa.DataType]]:
    """The query's columns in their order, each with its type in PostgreSQL and the one that it is read into."""
    try:
        cursor.execute(f"SELECT * FROM ({entity.origin.sql}) q LIMIT 0")
    except psycopg2.errors.InsufficientPrivilege as error:
        raise AccessError(f"entity {entity.name}: the legacy query fails: {refusal(error)}") from error
    except psycopg2.ProgrammingError as error:
        raise LegacySchemaError(f"entity {entity.name}: the legacy query fails: {first_line(error)}") from error
    names = [column.name for column in cursor.description]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise LegacySchemaError(
            f"entity {entity.name}: the legacy query returns more than one column {repeated[0]!r}: give each a name"
            " of its own (AS), and name columns one by one instead of a.*, b.*"
        )
    return {column.name: _type_of(cursor, column) for column in cursor.description}


def _check_columns(entity: Entity, described: Mapping[str, tuple[str, pa.DataType]]) -> None:
    missing = [name for name in entity.origin.key if name not in described]
    if missing:
        raise LegacySchemaError(f"entity {entity.name}: the legacy query returns no key column {missing[0]!r}")
    own = [name for name in described if name in (DIGEST, ELSEWISE)]
    if own:
        raise LegacySchemaError(
            f"entity {entity.name}: the legacy query returns a column {own[0]!r}, which is a name of the engine's:"
            " select it under another one"
        )
    padded = [name for name in entity.origin.key if described[name][0] == "bpchar"]
    if padded:
        raise LegacySchemaError(
            f"entity {entity.name}: key column {padded[0]!r} is filled up with spaces: select it as"
            f" {padded[0]}::text AS {padded[0]}"
        )


def _distinct(keys: pa.Table) -> int:
    """How many keys are different. A key of one column goes by a way that costs a tenth of the general one."""
    if keys.num_columns == 1:
        return len(pc.unique(keys.column(0)))
    return int(keys.group_by(keys.column_names).aggregate([]).num_rows)


@contextmanager
def _row_may_be_too_long() -> Iterator[None]:
    """Make a fault of the row of the server's refusal to hold more than a gigabyte; the session goes on after it."""
    try:
        yield
    except _TOO_LONG as error:
        if isinstance(error, psycopg2.InternalError) and _ALLOCATION not in str(error):
            raise
        message = f"a row, or a value of it, is larger than PostgreSQL can write as text: {first_line(error)}"
        raise RowTooLongError(message) from error


_TYPE = """
    SELECT format_type(t.oid, %s), e.typdelim IS NULL OR e.typdelim = ','
    FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem WHERE t.oid = %s
"""


def _type_of(cursor: Cursor, column: psycopg2.extensions.Column) -> tuple[str, pa.DataType]:
    """A column's type as PostgreSQL names it, and as it is read."""
    modifier = -1
    if column.type_code == _NUMERIC and column.precision != _UNCONSTRAINED:
        modifier = ((column.precision << 16) | (column.scale & 0x7FF)) + 4
    with cursor.connection.cursor() as other:
        other.execute(_TYPE, (modifier, column.type_code))
        kind, is_plain = other.fetchone()
    # an array that is written with another delimiter than a comma stays text
    return str(kind), arrow_type(kind) if is_plain else pa.string()


def _selected(name: str, as_read: pa.DataType) -> str:
    column = f"q.{quote(name)}"
    if not pa.types.is_list(as_read):
        return column
    element = as_read.value_type
    value = column if pa.types.is_integer(element) or pa.types.is_boolean(element) else f"{column}::text[]"
    # what is no plain list is told as a JSON string: an array of several dimensions, or that begins elsewhere than at 1
    plainly = f"array_ndims({column}) = 1 AND array_lower({column}, 1) = 1 OR array_ndims({column}) IS NULL"
    return f"CASE WHEN {plainly} THEN to_json({value}) ELSE to_json({column}::text) END"
