"""A snapshot of an entity's ledger, and the ledger made again from it and the log since.

A snapshot is what one transaction saw. Batches that were under way then are in the log after it, whatever their number:
the log keeps each batch's transaction, and the snapshot tells which ones it saw.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import psycopg2
import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.db.keys import Key
from sync_pipeline.db.sql import Cursor, copy_in, copy_out, named
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import LogError
from sync_pipeline.ledger import bases, upkeep
from sync_pipeline.ledger.ledger import DOUBT, KEEP, UNDO, WITHDRAW, WRITE, key_of, table_of
from sync_pipeline.ledger.log import TAKEN_FOR_APPLIED, body_of, pack, unpack
from sync_pipeline.ledger.log_partitions import days_before, drop
from sync_pipeline.ledger.sinks import HELD_ROW
from sync_pipeline.stores.stores import Stores

_ROWS = 50_000
_BATCHES = 500
_PART = pa.schema(
    [
        ("key", pa.string()),
        ("seen", pa.int64()),
        ("written", pa.int64()),
        ("digest", pa.int64()),
        ("basis", pa.int32()),
        ("held", pa.int16()),
    ]
)
# a key's lines in the order of their numbers; a snapshot's have number 0, and count as written
_LOGGED = pa.schema(
    [
        ("_n", pa.int64()),
        ("_action", pa.int16()),
        ("seen", pa.int64()),
        ("written", pa.int64()),
        ("digest", pa.int64()),
        ("basis", pa.int32()),
        ("held", pa.int16()),
        ("_before", pa.int64()),
    ]
)
# the ledger takes a digest for applied: none of a plan's actions
_TAKE = 9
_SINCE = """
    FROM sync.batch b WHERE b.entity = %(entity)s AND b.id > %(after)s
    AND NOT coalesce(pg_visible_in_snapshot(b.xid, %(seen)s::pg_snapshot), false) ORDER BY b.id LIMIT %(limit)s
"""


def take(stores: Stores, entity: str) -> int:
    """Keep the entity's ledger as it is now, instead of the snapshot before; how many keys. Raises UnreachableError."""
    with stores.target() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        key = key_of(cursor, entity)
        if key is None:
            return 0
        cursor.execute("DELETE FROM sync.snapshot WHERE entity = %s", (entity,))
        rows = 0
        for part, table in enumerate(_pages(cursor, entity, key)):
            body, size = pack(table)
            cursor.execute(
                "INSERT INTO sync.snapshot (entity, part, seen, rows, size, body)"
                " VALUES (%s, %s, pg_current_snapshot(), %s, %s, %s)",
                (entity, part, table.num_rows, size, psycopg2.Binary(body)),
            )
            rows += table.num_rows
        return rows


def _pages(cursor: Cursor, entity: str, key: Key) -> Iterator[pa.Table]:
    """The ledger in key order; at least one page, which may be empty."""
    after: list[str] | None = None
    while True:
        page = copy_out(
            cursor,
            f"SELECT {key.text_expression('l')}, seen, written, digest, basis, held FROM {table_of(entity)} l"
            f" WHERE {key.after(cursor, 'l', after)} ORDER BY {key.ordered('l')} LIMIT {_ROWS}",
            _PART,
        )
        yield page
        if page.num_rows < _ROWS:
            return
        after = key.position(key.parse([page.column("key")[-1].as_py()]))


def trim(stores: Stores) -> dict[str, int]:
    """Drop the log older than SYNC_HISTORY_DAYS, once snapshots hold what it told: `days` and `keys` of snapshots.

    Raises UnreachableError, also where somebody is in the way: another time, then.
    """
    with stores.target() as cursor:
        days = days_before(cursor, stores.settings.history_days)
        cursor.execute("SELECT entity FROM sync.cursor ORDER BY 1")
        entities = [entity for (entity,) in cursor.fetchall()]
    keys = sum(take(stores, entity) for entity in entities) if days else 0
    with stores.target() as cursor:
        drop(cursor, days)
        upkeep.trimmed(cursor)
    return {"days": len(days), "keys": keys}


def rebuild(context: EntityContext) -> int:
    """Make the entity's ledger again from its snapshot and the log since; how many keys.

    Nobody writes it meanwhile. Raises LogError where snapshot and log do not hold all of it; then nothing has changed.
    """
    entity, key = context.entity.name, context.origin.key
    with context.stores.target() as cursor:
        cursor.execute(f"LOCK TABLE {context.ledger.table} IN ACCESS EXCLUSIVE MODE")
        columns = ", ".join(f"{field.name} {_sql(field.type)}" for field in _LOGGED)
        cursor.execute(f"CREATE TEMP TABLE told ({key.ddl()}, {columns}) ON COMMIT DROP")
        for keys, entries in _log_entries(context, cursor):
            table = pa.table([*keys.columns, *entries.columns], names=[*keys.column_names, *entries.column_names])
            copy_in(cursor, "pg_temp.told", f"{key.plain()}, {', '.join(_LOGGED.names)}", table)
        _check_whole(cursor, entity, key)
        cursor.execute(f"TRUNCATE {context.ledger.table}")
        cursor.execute(_replay(context))
        rows = int(cursor.rowcount)
        bases.note_rebuilt(cursor, entity)
        if context.gate:
            root = context.origin.root.plain()
            cursor.execute(f"TRUNCATE {context.gate.table}")
            cursor.execute(
                f"INSERT INTO {context.gate.table} ({root}, seen)"
                f" SELECT {root}, max(seen) FROM {context.ledger.table} GROUP BY {root}"
            )
    return rows


def _log_entries(context: EntityContext, cursor: Cursor) -> Iterator[tuple[pa.Table, pa.Table]]:
    """(keys, lines) of the snapshot, the batches since, and digests that were taken for applied."""
    entity, parse = context.entity.name, context.origin.key.parse
    seen = None
    for part in _parts(cursor, entity):
        seen, table = part["seen"], unpack(part["body"], part["size"], _PART)
        columns = {name: table.column(name) for name in _PART.names}
        yield parse(table.column("key").to_pylist()), _lines(columns | {"_n": 0, "_action": WRITE})
    values = {"entity": entity, "seen": seen, "after": 0, "limit": _BATCHES}
    while batches := named(cursor, f"SELECT id, revision, basis, form, size, body {_SINCE}", values):
        values["after"] = batches[-1]["id"]
        for row in batches:
            body = body_of(row["body"], row["size"], row["form"])
            yield parse(body.column("key").to_pylist()), _of_batch(row, body)
    cursor.execute(
        "SELECT id, key, digest, basis FROM sync.event b WHERE entity = %(entity)s AND kind = %(kind)s"
        " AND NOT coalesce(pg_visible_in_snapshot(b.xid, %(seen)s::pg_snapshot), false)",
        {**values, "kind": TAKEN_FOR_APPLIED},
    )
    if events := cursor.fetchall():
        ids, keys, digests, bases = map(list, zip(*events, strict=True))
        yield parse(keys), _lines({"_n": ids, "_action": _TAKE, "digest": digests, "basis": bases})


def _parts(cursor: Cursor, entity: str) -> Iterator[dict[str, Any]]:
    """The snapshot, one part in memory at a time."""
    query = "SELECT seen::text AS seen, size, body FROM sync.snapshot WHERE (entity, part) = (%(entity)s, %(part)s)"
    for number in count():
        part = named(cursor, query, {"entity": entity, "part": number})
        if not part:
            return
        yield part[0]


def _of_batch(row: dict[str, Any], body: pa.Table) -> pa.Table:
    action = body.column("action")
    wrote = pc.is_in(action, value_set=pa.array([WRITE, WITHDRAW, UNDO], pa.int8()))
    columns = {"_action": action, "_before": body.column("before"), "digest": body.column("digest")}
    numbers = {"_n": row["id"], "seen": row["revision"], "basis": row["basis"]}
    written = pc.if_else(wrote, row["revision"], pa.scalar(None, pa.int64()))
    return _lines(columns | numbers | {"held": body.column("held"), "written": written})


def _lines(columns: dict[str, Any]) -> pa.Table:
    """A table of `_TOLD`; a column may be one value for all rows, and what is not given is NULL."""
    rows = next(len(value) for value in columns.values() if hasattr(value, "__len__"))
    return pa.table([_column(columns.get(field.name), field.type, rows) for field in _LOGGED], schema=_LOGGED)


def _column(value: Any, kind: pa.DataType, rows: int) -> Any:
    if not hasattr(value, "__len__"):
        return pa.repeat(pa.scalar(value, kind), rows)
    return pa.array(value, kind) if isinstance(value, list) else value.cast(kind)


def _check_whole(cursor: Cursor, entity: str, key: Key) -> None:
    """Each batch names the revision that had looked at a key before; the first one the snapshot's, or none."""
    cursor.execute(
        f"SELECT count(*) FROM (SELECT DISTINCT {key.plain()} FROM (SELECT *, lag(seen, 1, 0::bigint)"
        f" OVER (PARTITION BY {key.plain()} ORDER BY _n) AS _last FROM pg_temp.told WHERE seen IS NOT NULL) t"
        " WHERE _before <> _last) k"
    )
    if lacking := cursor.fetchone()[0]:
        raise LogError(f"entity {entity}: the log lacks batches of {lacking:,} keys")
    cursor.execute(
        "SELECT EXISTS (SELECT FROM sync.basis b, sync.migration m WHERE b.entity = %(entity)s"
        " AND m.name = '0010_log.sql' AND b.opened_at < m.applied_at)"
        " AND NOT EXISTS (SELECT FROM sync.snapshot WHERE entity = %(entity)s)",
        {"entity": entity},
    )
    if cursor.fetchone()[0]:
        raise LogError(f"entity {entity}: its ledger is older than the log: sync-pipeline ledger snapshot {entity}")


def _replay(context: EntityContext) -> str:
    """SQL that puts a row for each key into the ledger: the last of each of its values."""
    key = context.origin.key.plain()

    def last(name: str, which: str) -> str:
        return f"(array_agg({name} ORDER BY _n DESC) FILTER (WHERE {which}))[1] AS {name}"

    def number(*actions: int) -> str:
        return f"max(_n) FILTER (WHERE _action IN ({', '.join(map(str, actions))}))"

    sets, holds = f"_action IN ({WRITE}, {_TAKE})", f"_action IN ({WRITE}, {UNDO})"
    return f"""
        INSERT INTO {context.ledger.table} ({key}, seen, written, digest, basis, held)
        SELECT {key}, seen, coalesce(written, 0),
            CASE WHEN digest IS NOT NULL AND _doubted > _set THEN 0 ELSE digest END, coalesce(basis, 0),
            (coalesce(held, 0) | coalesce(_kept, 0))
                & CASE WHEN _withdrawn > _wrote THEN {HELD_ROW} | coalesce(_stays, 0) ELSE ~0 END
        FROM (
            SELECT {key}, {last("seen", "seen IS NOT NULL")}, {last("written", "written IS NOT NULL")},
                {last("digest", sets)}, {last("basis", sets)}, {last("held", holds)},
                {number(WRITE, _TAKE)} AS _set, {number(WRITE, UNDO)} AS _wrote,
                {number(WITHDRAW, DOUBT)} AS _doubted, {number(WITHDRAW)} AS _withdrawn,
                bit_and(held) FILTER (WHERE _action = {WITHDRAW} AND _n > _last) AS _stays,
                bit_or(held) FILTER (WHERE _action = {KEEP} AND _n > _last) AS _kept
            FROM (
                SELECT *, coalesce(max(_n) FILTER (WHERE {holds}) OVER (PARTITION BY {key}), -1) AS _last
                FROM pg_temp.told
            ) t
            GROUP BY {key}
        ) k
    """


def _sql(kind: pa.DataType) -> str:
    return {pa.int64(): "bigint", pa.int32(): "integer", pa.int16(): "smallint"}[kind]
