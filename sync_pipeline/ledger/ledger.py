"""The ledger of one entity: which revision saw and wrote each key, under which digest.

`seen` is the last revision that looked at a key, `written` the last that wrote it; documents carry the
latter. A NULL digest is a tombstone. `held` says which sinks may hold something for the key, a bit a sink (sinks.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.db.columns import DIGEST
from sync_pipeline.db.digest import DigestExpression
from sync_pipeline.db.keys import Key
from sync_pipeline.db.sql import Cursor, copy_in, copy_out, ensure_schema, quote, stage
from sync_pipeline.errors import DeclarationError
from sync_pipeline.ledger import bases, cursor_table
from sync_pipeline.ledger.log_partitions import keep_ahead
from sync_pipeline.ledger.release import migrations, refuse_if_former
from sync_pipeline.model.faults import guarded
from sync_pipeline.stores.stores import Stores

# actions of a plan
PARK = -1
KEEP = 0
WRITE = 1
# the row stays as it is, and goes from outer sinks that want it no more: it is private now, and cannot be written yet
WITHDRAW = 2
# the row stays as it is and was owed to an outer sink, which cannot be done: whatever comes next is written
DOUBT = 3
# a revision's writes are undone: the row is as it was before, and the refused one is taken for applied
UNDO = 4

PLAN_COLUMNS = ("n", "action", DIGEST, "held")
PRIOR = pa.schema([(DIGEST, pa.int64()), ("basis", pa.int32()), ("written", pa.int64())])
APPLIED = pa.schema(
    [
        ("n", pa.int32()),
        ("held_before", pa.int16()),
        ("written", pa.int64()),
        ("overtaken", pa.bool_()),
        ("seen_before", pa.int64()),
    ]
)
# A batch is small beside the ledger, but the planner takes an unanalysed temporary table for a large one, and would
# read the whole ledger for a handful of keys.
BY_KEY = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_seqscan = off"
_AS_EVER = BY_KEY.replace("off", "DEFAULT")
_MIGRATION_LOCK = 0x53594E43
# more numbers than are drawn while one batch is under way
_UNDER_WAY = 1_000_000
_XIDS = 1 << 32
# more numbers than are drawn while one leap is made
_REVISION_LEAP = 1_000_000


class Draw(NamedTuple):
    """A batch's revision, and which transactions of the new side had ended when it was drawn.

    `snapshot` is as pg_current_snapshot() writes it: xmin:xmax:xip,xip. It is empty where that is not asked.
    """

    revision: int
    snapshot: str = ""

    def has_not_seen(self, xid: str) -> str:
        """SQL: whether a transaction, by its 32-bit id, had not ended when the revision was drawn."""
        if not self.snapshot:
            return "false"
        _, after, running = self.snapshot.split(":")
        since = int(after) % _XIDS
        ids = ",".join(str(int(each) % _XIDS) for each in running.split(",") if each)
        number = f"{xid}::text::bigint"
        return f"(({number} - {since} + {_XIDS}) %% {_XIDS} < {_XIDS // 2} OR {number} = ANY('{{{ids}}}'::bigint[]))"


class KeyPage(NamedTuple):
    """Keys of the ledger with the revision that wrote each (`written`), and where the next page begins.

    `following` is None where this is the last page.
    """

    rows: pa.Table
    following: list[str] | None


@dataclass(frozen=True)
class Ledger:
    """One entity's keys in the ledger."""

    entity: str
    key: Key
    basis: int

    @property
    def table(self) -> str:
        """The entity's table of keys."""
        return table_of(self.entity)

    @classmethod
    def open(
        cls,
        cursor: Cursor,
        entity: str,
        key: Key,
        entity_version: int,
        digest_version: str,
        former_version: str | None = None,
        expression: DigestExpression | None = None,
    ) -> Ledger:
        """Make the entity's table if it is not there, and its basis. Raises DeclarationError on another key.

        `former_version` is another name that digests of this version may bear in the ledger, `expression` is kept for
        a later version of the engine.
        """
        if former_version:
            bases.rename(cursor, entity, former_version, digest_version)
        ledger = cls(entity, key, bases.open_basis(cursor, entity, entity_version, digest_version, expression))
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (ledger.table,))
        if not cursor.fetchone()[0]:
            cursor.execute(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
            cursor.execute(
                f"CREATE TABLE IF NOT EXISTS {ledger.table} ({key.ddl()}, seen bigint NOT NULL,"
                f" written bigint NOT NULL, digest bigint, basis integer NOT NULL, held smallint NOT NULL,"
                f" target_digest bigint, PRIMARY KEY ({key.plain()}))"
                " WITH (fillfactor = 80)"
            )
            cursor_table.add_entity(cursor, entity)
        ledger._check_key(cursor)
        return ledger

    def prior(self, cursor: Cursor, keys: pa.Table) -> pa.Table:
        """What the ledger holds of these keys: key columns, `_digest`, `basis`, `written`; unknown keys are absent."""
        schema = pa.schema([*self.key.schema, *PRIOR])
        query = f"SELECT {self.key.plain('l')}, digest, basis, written FROM {self.table} l"
        return copy_out(cursor, f"{query} WHERE {self.key.is_in(cursor, 'l', keys)}", schema)

    def count(self, cursor: Cursor, held: int) -> int:
        """How many keys a sink may hold something for."""
        cursor.execute(f"SELECT count(*) FROM {self.table} WHERE held & {held} <> 0")
        return int(cursor.fetchone()[0])

    def append(self, cursor: Cursor, keys: pa.Table, revision: int, digests: pa.Array, held: pa.Array) -> None:
        """First load: plain COPY of keys the ledger does not have. Raises UniqueViolation when it has one."""
        rows = len(digests)
        table = keys.append_column("seen", pa.repeat(pa.scalar(revision, pa.int64()), rows))
        table = table.append_column("written", pa.repeat(pa.scalar(revision, pa.int64()), rows))
        table = table.append_column("digest", digests)
        table = table.append_column("basis", pa.repeat(pa.scalar(self.basis, pa.int32()), rows))
        table = table.append_column("held", held)
        copy_in(cursor, self.table, f"{self.key.plain()}, seen, written, digest, basis, held", table)

    def apply(self, cursor: Cursor, plan: pa.Table, draw: Draw, own: int) -> tuple[pa.Table, pa.Array]:
        """Upsert a plan's keys in key order, and give back the part this revision may write (APPLIED).

        `plan` has the key columns, then n, action, _digest (NULL: gone) and held; `own` are the bits of the sinks that
        the caller knows, so that it leaves others as they are. Keys that a higher revision has looked at are left
        alone; `overtaken` marks keys believed unchanged that are not. It stays in `pg_temp.plan` and `pg_temp.applied`
        for the sinks until the transaction ends.

        Left alone as well, and given back by their `n`, are keys whose digest a lower revision has changed since this
        one was drawn: that one may have read its rows later than this one, so that they are newer.
        """
        self._stage(cursor, plan)
        order = self.key.plain("p")
        newer = "l.seen < %(revision)s" if guarded(17) else "true"
        outrun = "false"
        if draw.snapshot and guarded(149):
            outrun = (
                f"p.action <> {KEEP} AND l.seen > %(since)s AND p.{DIGEST} IS DISTINCT FROM l.digest"
                f" AND {draw.has_not_seen('l.xmin')}"
            )
        cursor.defer(
            f"""
            INSERT INTO {self.table} ({self.key.plain()}, seen, written, digest, basis, held)
            SELECT {order}, 0, 0, NULL, 0, 0 FROM {self._plan} p ORDER BY {order} ON CONFLICT DO NOTHING;
            {BY_KEY};
            WITH locked AS MATERIALIZED (
                SELECT p.*, l.* FROM (SELECT * FROM {self._plan} p ORDER BY {order}) p CROSS JOIN LATERAL (
                    SELECT l.held AS held_before, l.digest AS digest_before, l.basis AS basis_before,
                        l.seen AS seen_before, l.written AS written_before, {outrun} AS is_outrun
                    FROM {self.table} l WHERE {self.key.joins("l", self.key, "p")} AND {newer} FOR UPDATE) l
            ), written AS (
                UPDATE {self.table} l SET seen = %(revision)s,
                    written = CASE WHEN p.action IN ({WRITE}, {WITHDRAW}) THEN %(revision)s ELSE l.written END,
                    digest = CASE WHEN p.action = {WRITE} THEN p.{DIGEST}
                        WHEN p.action IN ({WITHDRAW}, {DOUBT}) AND l.digest IS NOT NULL THEN 0 ELSE l.digest END,
                    basis = CASE p.action WHEN {WRITE} THEN %(basis)s ELSE l.basis END,
                    held = CASE p.action WHEN {WRITE} THEN p.held | (l.held & %(others)s::smallint)
                        WHEN {WITHDRAW} THEN l.held & (p.held | %(others)s::smallint)
                        WHEN {KEEP} THEN l.held | p.held ELSE l.held END
                FROM locked p WHERE {self.key.joins("l", self.key, "p")} AND NOT p.is_outrun
                RETURNING p.n, p.held_before, l.written, p.action = {KEEP} AND
                    (p.{DIGEST} IS DISTINCT FROM p.digest_before
                     OR (p.basis_before <> %(basis)s AND p.{DIGEST} IS NOT NULL)), p.seen_before, p.written_before
            )
            INSERT INTO {self._applied} SELECT * FROM written
                UNION ALL SELECT -1 - n, held_before, 0, false, seen_before, written_before FROM locked WHERE is_outrun;
            {_AS_EVER}
            """,
            {
                "revision": draw.revision,
                "others": ~own,
                "basis": self.basis,
                "since": max(0, draw.revision - _UNDER_WAY),
            },
        )
        query = f"SELECT n, held_before, written, overtaken, seen_before FROM {self._applied}"
        found = copy_out(cursor, query, APPLIED)
        n = found.column("n").combine_chunks()
        is_through = pc.greater_equal(n, 0)
        return found.filter(is_through), pc.subtract(-1, n.filter(pc.invert(is_through)))

    def undo(self, cursor: Cursor, held: Mapping[str, int], revision: int) -> None:
        """Keys (texts) whose rows were put back by a revision, and what sinks hold of them since."""
        keys = self.key.parse(held)
        cursor.execute(
            f"UPDATE {self.table} l SET written = %s, held = u.held"
            " FROM unnest(%s::text[], %s::smallint[]) u (key, held)"
            f" WHERE {self.key.is_in(cursor, 'l', keys)} AND {self.key.text_expression('l')} = u.key",
            (revision, list(held), list(held.values())),
        )

    def later_than(self, cursor: Cursor, keys: pa.Table, written: pa.Array) -> pa.Table:
        """Those of `keys` that have been written since, by a revision above their `written`."""
        if keys.num_rows == 0:
            return keys
        later = copy_out(
            cursor,
            f"SELECT {self.key.plain('l')}, l.written FROM {self.table} l"
            f" WHERE {self.key.is_in(cursor, 'l', keys)} AND l.written > {pc.min(written).as_py()}",
            self.key.schema.append(pa.field("written", pa.int64())),
        )
        ours = written.take(pc.index_in(self.key.texts(later), value_set=self.key.texts(keys)))
        return later.filter(pc.greater(later.column("written"), ours)).select(list(self.key.columns))

    def hold(self, cursor: Cursor, keys: pa.Table) -> None:
        """Have nobody write these keys until the transaction ends; whoever does now is waited for."""
        order = self.key.plain("l")
        cursor.execute(
            f"SELECT FROM {self.table} l WHERE {self.key.is_in(cursor, 'l', keys)} ORDER BY {order} FOR SHARE"
        )

    def stage_digests(self, cursor: Cursor, digests: pa.Table) -> None:
        """Put keys and `_digest` into `pg_temp.plan_ENTITY` until the transaction ends."""
        zero = pa.repeat(pa.scalar(0, pa.int16()), digests.num_rows)
        self._stage(cursor, digests.append_column("n", zero).append_column("action", zero).append_column("held", zero))

    def page(self, cursor: Cursor, condition: str, after: list[str] | None, limit: int) -> KeyPage:
        """Return the next keys behind `after`, in their order, for whose ledger row `l` a condition (SQL) holds."""
        rows = copy_out(
            cursor,
            f"SELECT {self.key.plain('l')}, l.written FROM {self.table} l WHERE {condition} AND"
            f" {self.key.after(cursor, 'l', after)} ORDER BY {self.key.ordered('l')} LIMIT {limit}",
            self.key.schema.append(pa.field("written", pa.int64())),
        )
        is_last = rows.num_rows < limit
        return KeyPage(rows, None if is_last else self.key.position(rows.select(list(self.key.columns))))

    def where(self, cursor: Cursor, staged: pa.Table, condition: str) -> list[str]:
        """Return those of some keys (as texts) for which a condition (SQL) holds; no row may be in the ledger for one.

        `staged` has the key columns and `_digest`, which the condition reads as `p`, and the ledger's row as `l`.
        """
        self.stage_digests(cursor, staged)
        cursor.execute(
            f"SELECT {self.key.text_expression('p')} FROM {self._plan} p"
            f" LEFT JOIN {self.table} l ON {self.key.joins('l', self.key, 'p')} WHERE {condition}"
        )
        return [text for (text,) in cursor.fetchall()]

    @property
    def _plan(self) -> str:
        return f"pg_temp.{quote('plan_' + self.entity)}"

    @property
    def _applied(self) -> str:
        return f"pg_temp.{quote('applied_' + self.entity)}"

    def _stage(self, cursor: Cursor, plan: pa.Table) -> None:
        cursor.defer(
            f"CREATE TEMP TABLE IF NOT EXISTS {quote('plan_' + self.entity)}"
            f" ({self.key.ddl()}, n integer, action smallint, {DIGEST} bigint, held smallint) ON COMMIT DELETE ROWS;"
            f"CREATE TEMP TABLE IF NOT EXISTS {quote('applied_' + self.entity)}"
            " (n integer, held_before smallint, written bigint, overtaken boolean, seen_before bigint,"
            " written_before bigint) ON COMMIT DELETE ROWS"
        )
        staged = plan.select([*self.key.columns, *PLAN_COLUMNS])
        stage(cursor, self._plan, f"{self.key.plain()}, {', '.join(PLAN_COLUMNS)}", staged)

    def _check_key(self, cursor: Cursor) -> None:
        kept = key_of(cursor, self.entity)
        found = kept.columns if kept else ()
        if found != self.key.columns:
            raise DeclarationError(
                f"entity {self.entity}: its key is {self.key.columns}, but its ledger was opened with {found};"
                f" drop {self.table} and backfill again, or give the entity another name"
            )
        there = kept.types if kept else ()
        for column, own, kind in zip(found, self.key.own_types, there, strict=True):
            if own == "text" != kind:
                raise DeclarationError(
                    f"entity {self.entity}: its ledger keeps the key column {column!r} as {kind}, which is kept as text"
                    f" now: drop {self.table} and backfill again"
                )


def table_of(entity: str) -> str:
    """An entity's table of keys."""
    return f"sync.{quote('ledger_' + entity)}"


def key_of(cursor: Cursor, entity: str) -> Key | None:
    """The key of an entity's ledger; None before it was first opened."""
    cursor.execute(
        "SELECT array_agg(a.attname::text ORDER BY k.n), array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY k.n)"
        " FROM pg_index i, unnest(i.indkey) WITH ORDINALITY k(attnum, n), pg_attribute a"
        " WHERE i.indrelid = to_regclass(%s) AND i.indisprimary AND a.attrelid = i.indrelid AND a.attnum = k.attnum",
        (table_of(entity),),
    )
    columns, types = cursor.fetchone()
    return Key(tuple(columns), tuple(types)) if columns else None


def next_draw(stores: Stores) -> Draw:
    """One number for a batch, drawn after its keys were pulled and before its rows are read."""
    with stores.target_at_once() as cursor:
        cursor.execute("SELECT nextval('sync.revision'), pg_current_snapshot()::text")
        revision, snapshot = cursor.fetchone()
        return Draw(int(revision), snapshot)


def next_revision(stores: Stores) -> int:
    """A number for what reads no rows."""
    return next_draw(stores).revision


def raise_revision(stores: Stores, above: int) -> None:
    """Go on above a number that somebody else has used; no number is drawn twice, whoever draws meanwhile."""
    with stores.target() as cursor:
        # one leap at a time: a second one would be undone by the first
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('sync.revision'))")
        cursor.execute(
            "SELECT setval('sync.revision', greatest(%s, nextval('sync.revision')) + %s)", (above, _REVISION_LEAP)
        )


def migrate(stores: Stores) -> None:
    """Bring the ledger's schema up to date, one file of `migrations` at a time.

    Raises FormerReleaseError where a newer release has migrated it and refuses this one.
    """
    with stores.target() as cursor:
        cursor.execute("SELECT to_regclass('sync.migration') IS NOT NULL")
        if cursor.fetchone()[0] and not _missing(cursor):
            keep_ahead(cursor)
            return
        cursor.execute(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
        ensure_schema(cursor, "sync")
        cursor.execute("CREATE TABLE IF NOT EXISTS sync.migration (name text PRIMARY KEY, applied_at timestamptz)")
        for file in _missing(cursor):
            cursor.execute(file.read_text(encoding="utf-8"))
            cursor.execute("INSERT INTO sync.migration VALUES (%s, now())", (file.name,))
        keep_ahead(cursor)


def _missing(cursor: Cursor) -> list[Traversable]:
    """Migrations that the ledger has not had. Raises FormerReleaseError where it has had others and refuses us."""
    cursor.execute("SELECT name FROM sync.migration")
    applied = {name for (name,) in cursor.fetchall()}
    refuse_if_former(cursor, applied)
    return [file for file in migrations() if file.name not in applied]
