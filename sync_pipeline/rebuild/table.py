"""A new table beside the live one: what is its own in the story of a rebuild.

Both are in one database with the ledger, so every batch writes both in one transaction, under the same lock and the
same guard. Whether there is a second table it sees under that lock, which begin and swap hold alone: no batch is then
on its way that has seen it otherwise.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psycopg2

from sync_pipeline.batch.order import Order
from sync_pipeline.db.sql import Cursor, quote
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity
from sync_pipeline.errors import SettingError, UnreachableError
from sync_pipeline.ledger.rebuilds import Rebuild
from sync_pipeline.model.faults import crash_point
from sync_pipeline.model.findings import Finding
from sync_pipeline.preflight.shadow_table import foreign_keys, obstacles
from sync_pipeline.queue import parking
from sync_pipeline.rebuild.report import Compared, Report
from sync_pipeline.rebuild.rows import compare, doubts
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sinks.table.references import still
from sync_pipeline.sinks.table.swap import TableSwap
from sync_pipeline.stores.stores import Stores

# for batches on their way to end; others queue behind
_BATCH_PATIENCE = "2s"
_TRIES = 60
_PAUSE_SECONDS = 0.5
_SWAPPED = "swapped"
# transactions that read by a snapshot now, whosever they are
_READING = """
    SELECT l.virtualtransaction, a.pid, a.usename FROM pg_stat_activity a JOIN pg_locks l USING (pid)
    WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.usename IS NOT NULL
        AND a.backend_xmin IS NOT NULL AND l.locktype = 'virtualxid' AND l.virtualxid = l.virtualtransaction
"""


class _BusyError(Exception):
    """Somebody uses a table for longer than a moment."""


@dataclass(frozen=True)
class NewTable:
    """The table `NAME_next` beside an entity's; made `like` it, or there by somebody's migration."""

    context: EntityContext
    like: bool = False
    kind: str = "table"
    sink: str | None = None

    def begin(self) -> Rebuild:
        """Looked at, the swap rehearsed, and known to every batch: all of it at once, or nothing."""
        table, name = self.context.entity.table, self.context.entity.name
        rebuild = Rebuild(name, self.kind, table.shadow.name, table.name, {**self._declared, "like": self.like})
        for _ in _tries():
            with _patient(self.context.stores) as cursor:
                still(cursor, name)
                if self.like:
                    _make_like(cursor, table)
                self._refuse_obstacles(cursor)
                _rehearse(cursor, table)
                rebuild.begin(cursor)
                rebuild.open(cursor)
                return rebuild
        raise UnreachableError(f"SYNC_TARGET_DB: {table.name} is in use all the time; try again later")

    def _refuse_obstacles(self, cursor: Cursor) -> None:
        found = list(obstacles(cursor, self.context.entity.table))
        if found:
            raise SettingError("\n".join(found))

    def go_on(self, rebuild: Rebuild) -> None:
        """It is there still."""
        rebuild.must_declare(self._declared)
        if self.is_swapped(rebuild):
            return
        with self.context.stores.target() as cursor:
            cursor.execute("SELECT to_regclass(%s) IS NULL", (self.context.entity.table.shadow.quoted,))
            if cursor.fetchone()[0]:
                raise SettingError(f"{rebuild.name} is gone: sync-pipeline rebuild abandon {self.context.entity.name}")

    def is_swapped(self, rebuild: Rebuild) -> bool:
        """The ledger knows: it says so in the swap's transaction."""
        return rebuild.state == _SWAPPED

    def order(self) -> Order:
        """Rows that have not changed go to the new table alone."""
        return Order(shadow=True)

    def compare(self, rebuild: Rebuild, report: Report) -> Compared:
        """All rows with the ledger and the live table."""
        return compare(self.context, rebuild, report)

    def swap(self, rebuild: Rebuild) -> list[Finding]:
        """Rename both in one transaction, with no batch on its way; what keys differ by then keeps it back."""
        _await_readers(self.context.stores)
        for _ in _tries():
            with _patient(self.context.stores) as cursor:
                still(cursor, self.context.entity.name)
                found = doubts(cursor, self.context, rebuild, values=False)
                if found:
                    return [Finding("relational", doubt.kind, doubt.key) for doubt in found]
                table_swap = TableSwap(cursor, self.context.entity.table)
                table_swap.lock()
                table_swap.swap()
                self._note(cursor, rebuild, table_swap)
                crash_point("rebuild.standstill")
                return []
        raise UnreachableError(f"SYNC_TARGET_DB: {rebuild.former} is read by long transactions; try again later")

    def _note(self, cursor: Cursor, rebuild: Rebuild, table_swap: TableSwap) -> None:
        rebuild.note(cursor, "to_validate", table_swap.to_validate)
        rebuild.enter(cursor, _SWAPPED)
        rebuild.rename(cursor, table_swap.table.name, table_swap.table.former.name)

    def finish(self, cursor: Cursor, rebuild: Rebuild) -> None:
        """Foreign keys are looked at; what the former table refused, the new one may take."""
        for statement in rebuild.declared.get("to_validate", ()):
            try:
                cursor.execute(statement)
            except psycopg2.IntegrityError as error:
                raise SettingError(f"{statement}: {error}") from error
        parking.replay(cursor, self.context.entity.name, "row")

    @property
    def _declared(self) -> dict[str, object]:
        """What must not change on its way."""
        table = self.context.entity.table
        own = {"primary_key": list(table.primary_key)} if table.primary_key else {}
        return {"columns": dict(table.columns), "key": list(table.key), "basis": self.context.ledger.basis, **own}


def check_abandon(_: Stores, entity: Entity, rebuild: Rebuild) -> None:
    """Raises SettingError where readers are with the new one by now."""
    if rebuild.state == _SWAPPED:
        raise SettingError(f"{rebuild.name} is the new one by now: sync-pipeline rebuild table {entity.name} ends it")


def remove_new(stores: Stores, entity: Entity, rebuild: Rebuild) -> None:
    """Dropped if it was made here; a table that somebody else has made is only emptied."""
    relation = _quoted(rebuild.name)
    for _ in _tries():
        with _patient(stores) as cursor:
            still(cursor, entity.name)
            cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (relation,))
            if cursor.fetchone()[0]:
                cursor.execute(f"{'DROP TABLE' if rebuild.declared['like'] else 'TRUNCATE'} {relation}")
            return
    raise UnreachableError(f"SYNC_TARGET_DB: {rebuild.name} is in use all the time; try again later")


def remove_former(stores: Stores, _entity: Entity, rebuild: Rebuild) -> None:
    """Readers have left it. Raises SettingError for what still depends on it."""
    for _ in _tries():
        with _patient(stores) as cursor:  # tables that it refers to are locked with it
            try:
                cursor.execute(f"DROP TABLE IF EXISTS {_quoted(rebuild.former)}")
                return
            except psycopg2.errors.DependentObjectsStillExist as error:
                raise SettingError(f"{rebuild.former} is not dropped: {error}") from error
    raise UnreachableError(f"SYNC_TARGET_DB: {rebuild.former} is in use all the time; try again later")


def _quoted(name: str) -> str:
    """As it was named then: the entity's file may name another table by now."""
    return ".".join(quote(part) for part in name.split("."))


def _make_like(cursor: Cursor, table: RelationalTable) -> None:
    """With its foreign keys, which LIKE leaves out."""
    cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (table.shadow.quoted,))
    if cursor.fetchone()[0]:
        raise SettingError(f"{table.shadow.name} is there already: leave out --like, or drop it")
    cursor.execute(f"CREATE TABLE {table.shadow.quoted} (LIKE {table.quoted} INCLUDING ALL)")
    for statement in foreign_keys(cursor, table):
        cursor.execute(statement)


def _rehearse(cursor: Cursor, table: RelationalTable) -> None:
    """The swap as it is to be, and back: what would keep it back at the end shows before the beginning."""
    cursor.execute("SAVEPOINT rehearsal")
    table_swap = TableSwap(cursor, table)
    table_swap.lock()
    table_swap.swap()
    cursor.execute("ROLLBACK TO SAVEPOINT rehearsal")


def _await_readers(stores: Stores) -> None:
    """Who reads by a snapshot from before the fill would find the new table emptier than the former one."""
    left = _reading(stores)
    for _ in _tries():
        left = left & _reading(stores)
        if not left:
            return
    named = ", ".join(f"{pid} ({role})" for _, pid, role in sorted(left))
    raise UnreachableError(f"SYNC_TARGET_DB: a transaction older than the new table's rows is open: {named}; end it")


def _reading(stores: Stores) -> set[tuple[str, int, str]]:
    with stores.target_at_once() as cursor:
        cursor.execute(_READING)
        return set(cursor.fetchall())


def _tries() -> Iterator[None]:
    for n in range(_TRIES):
        if n:
            threading.Event().wait(_PAUSE_SECONDS)
        yield


@contextmanager
def _patient(stores: Stores) -> Iterator[Cursor]:
    """A transaction; where it would wait for a lock for longer than a moment, it is undone and the block left."""
    with suppress(_BusyError), stores.target() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{_BATCH_PATIENCE}'")
        try:
            yield cursor
        except (psycopg2.errors.LockNotAvailable, psycopg2.errors.DeadlockDetected) as error:
            raise _BusyError from error
