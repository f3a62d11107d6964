"""The contract of a source: whatever is committed is reported, once at least, whoever reads and whenever they end.

The suite makes a table in a monolith for tests and changes it. A change counts as reported when a page names its key.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

import psycopg2
import psycopg2.extensions

from sync_pipeline.db.keys import Key
from sync_pipeline.db.sql import quote
from sync_pipeline.ledger import cursor_table
from sync_pipeline.ledger.ledger import migrate
from sync_pipeline.model.positions import State
from sync_pipeline.sources.source import Capture, Page, Source, Subject
from sync_pipeline.sources.table import Table
from sync_pipeline.stores.stores import Stores

_PATIENCE_SECONDS = 30.0
_WRITERS = 8
_MANY, _FEW = 600, 250
_PAGE_ROWS = 100


class Change(Enum):
    """A change of a row, as a source may claim to catch it."""

    INSERTED = "inserted"
    UPDATED = "updated"  # and stamped
    UNSTAMPED = "updated without a stamp"
    DELETED = "deleted"


_STATEMENTS = {
    Change.INSERTED: "INSERT INTO {table} (id, title) VALUES (%s, 'inserted')",
    Change.UPDATED: "UPDATE {table} SET title = 'updated', updated_at = clock_timestamp() WHERE id = %s",
    Change.UNSTAMPED: "UPDATE {table} SET title = 'unstamped' WHERE id = %s",
    Change.DELETED: "DELETE FROM {table} WHERE id = %s",
}


@dataclass
class Follower:
    """Reads a source as followers do: a page is applied, then its position is kept, then it is acknowledged."""

    capture: Capture
    subject: Subject
    state: State | None = None  # the position that was kept last
    reported: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """Note where the source stands before anything is read."""
        with closing(self.capture.open(self.subject, None)) as source:
            position = source.begin()
        with self.subject.stores.target() as cursor:
            cursor_table.add_entity(cursor, self.subject.entity)
            cursor_table.open_at(cursor, self.subject.entity, self.capture.name, position)
        self.state = position.state

    @contextmanager
    def at_work(self) -> Iterator[Source]:
        """The source, open where it stood."""
        with closing(self.capture.open(self.subject, self.state)) as source:
            yield source

    def poll(self, source: Source, *, most: int | None = None, acknowledges: bool = True) -> int:
        """Read a poll, or `most` pages of it; returns how many keys they name."""
        count = 0
        for n, page in enumerate(source.pull(_PAGE_ROWS), start=1):
            self._apply(page)
            count += int(page.keys.num_rows)
            if acknowledges:
                self.state = source.position().state
                source.acknowledge_page(page)
            if n == most:
                return count
        if acknowledges:
            self.state = source.position().state
            source.acknowledge()
        return count

    def poll_until(self, source: Source, is_so: Callable[[], bool], what: str) -> None:
        """Poll on and on. Fails where it does not come to be."""
        limit = time.monotonic() + _PATIENCE_SECONDS
        while not is_so():
            assert time.monotonic() < limit, f"after {_PATIENCE_SECONDS:g} s: {what}"
            self.poll(source)
            source.wait(threading.Event(), 0.05)

    def poll_until_reported(self, source: Source, keys: Iterable[int]) -> None:
        """Poll until all of the keys have been reported."""
        wanted = set(map(str, keys))
        self.poll_until(source, lambda: wanted <= set(self.reported), f"of {len(wanted)} keys some are not reported")

    def poll_until_quiet(self, source: Source) -> None:
        """Poll until there is nothing to report, and forget what was."""
        counts: list[int] = []
        limit = time.monotonic() + _PATIENCE_SECONDS
        while counts[-2:] != [0, 0]:
            assert time.monotonic() < limit, "what is acknowledged is reported again and again"
            counts.append(self.poll(source))
            source.wait(threading.Event(), 0.05)
        self.reported.clear()

    def _apply(self, page: Page) -> None:
        key = self.subject.key
        assert page.keys.schema.equals(key.schema), f"a page's keys are {page.keys.schema}, not {key.schema}"
        assert not any(column.null_count for column in page.keys.columns), "a page names a key that is NULL"
        self.reported += key.texts(page.keys).to_pylist()


class SourceContract:
    """Inherit it in a class of pytest's, and give `capture`, what it `catches`, and two fixtures' worth of servers.

    `stores` lead to a monolith and a new side for tests, `owner_url` to the same monolith for a role that may make
    tables. Where the source needs something in the monolith, `install` and `uninstall` return its statements.
    """

    capture: ClassVar[Capture]
    catches: ClassVar[frozenset[Change]]
    stores: Stores
    owner_url: str
    table: ClassVar[str] = "source_contract"

    def install(self, subject: Subject) -> Sequence[str]:
        """Statements that make what the source needs for the subject's tables."""
        return ()

    def uninstall(self, subject: Subject) -> Sequence[str]:
        """Statements that take it away again."""
        return ()

    def test_it_reports_what_it_claims(self) -> None:
        """Each kind of change, made after the source began."""
        with self._ground() as follower, follower.at_work() as source:
            for n, change in enumerate(sorted(self.catches, key=lambda change: change.value)):
                key = 1_000 + n if change is Change.INSERTED else 1 + n
                self._change(change, key)
                follower.poll_until_reported(source, [key])

    def test_it_reports_what_was_committed_between_its_beginning_and_its_first_read(self) -> None:
        """History is read from the beginning on: what falls between the two is seen by neither."""
        with self._ground() as follower:
            if keys := self._update(range(1, 6)):
                with follower.at_work() as source:
                    follower.poll_until_reported(source, keys)

    def test_it_reports_what_is_committed_late(self) -> None:
        """A transaction that was open while later ones were reported."""
        with self._ground() as follower, follower.at_work() as source, self._owner() as late:
            if Change.UPDATED not in self.catches:
                return
            late.autocommit = False
            late.cursor().execute(self._statement(Change.UPDATED), (1,))
            self._update([2])
            follower.poll_until_reported(source, [2])
            follower.reported.clear()
            late.commit()
            follower.poll_until_reported(source, [1])

    def test_what_is_rolled_back_stops_nothing(self) -> None:
        """What came after it is reported."""
        with self._ground() as follower, follower.at_work() as source, self._owner() as other:
            other.autocommit = False
            other.cursor().execute(self._statement(Change.UPDATED), (1,))
            other.rollback()
            follower.poll_until_reported(source, self._update([2]))

    def test_what_is_not_acknowledged_is_reported_again(self) -> None:
        """To whoever goes on from the position that was kept last."""
        with self._ground() as follower:
            keys = self._update(range(1, 4))
            with follower.at_work() as source:
                limit = time.monotonic() + _PATIENCE_SECONDS
                while keys and not set(map(str, keys)) <= set(follower.reported):
                    assert time.monotonic() < limit, "what was committed is not reported"
                    follower.poll(source, acknowledges=False)
            follower.reported.clear()
            with follower.at_work() as source:
                follower.poll_until_reported(source, keys)

    def test_what_is_acknowledged_comes_to_an_end(self) -> None:
        """A source that reports for ever keeps the entity busy for ever."""
        with self._ground() as follower, follower.at_work() as source:
            follower.poll_until_reported(source, self._update(range(1, 4)))
            follower.poll_until_quiet(source)

    def test_it_goes_on_behind_a_page(self) -> None:
        """A poll of many keys, that another process ends: none is left out."""
        with self._ground() as follower:
            keys = self._update(range(1, _MANY + 1))
            if not keys:
                return
            with follower.at_work() as source:
                follower.poll_until(source, lambda: bool(follower.reported), "nothing is reported")
            others = set(keys) - set(map(int, follower.reported))
            with follower.at_work() as source:
                follower.poll_until_reported(source, others)

    def test_a_page_is_cut_off_between_two(self) -> None:
        """A process that reads one page at a time, each in a source that it opens anew, comes to the end."""
        with self._ground() as follower:
            keys = set(self._update(range(1, _FEW + 1)))
            limit = time.monotonic() + 2 * _PATIENCE_SECONDS
            while keys - set(map(int, follower.reported)):
                assert time.monotonic() < limit, f"{len(keys - set(map(int, follower.reported)))} keys are left out"
                with follower.at_work() as source:
                    follower.poll(source, most=1)

    def test_nothing_is_lost_under_writers_and_ends(self) -> None:
        """Eight writers, late commits and rollbacks; the follower ends again and again, mostly without a word."""
        with self._ground() as follower:
            written: set[int] = set()
            stop = threading.Event()
            threads = [threading.Thread(target=self._write, args=(n, stop, written)) for n in range(_WRITERS)]
            for thread in threads:
                thread.start()
            try:
                dice = random.Random(0)
                while any(thread.is_alive() for thread in threads):
                    with follower.at_work() as source:
                        for _ in range(dice.randrange(1, 5)):
                            follower.poll(source)
                        if dice.random() < 0.6:  # it reads on, and ends before it has applied anything
                            follower.poll(source, most=dice.randrange(1, 3), acknowledges=False)
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
            if Change.UPDATED in self.catches:
                with follower.at_work() as source:
                    follower.poll_until_reported(source, written)

    def _write(self, seed: int, stop: threading.Event, written: set[int]) -> None:
        """Update rows of one's own, each once, some in transactions that last, some rolled back."""
        dice = random.Random(seed)
        with self._owner() as connection:
            connection.autocommit = False
            for key in range(1 + seed, _MANY + 1, _WRITERS):
                if stop.is_set():
                    return
                connection.cursor().execute(self._statement(Change.UPDATED), (key,))
                if dice.random() < 0.2:
                    stop.wait(dice.uniform(0.01, 0.1))
                if dice.random() < 0.1:
                    connection.rollback()
                else:
                    connection.commit()
                    written.add(key)
                stop.wait(dice.uniform(0, 0.02))

    @contextmanager
    def _ground(self) -> Iterator[Follower]:
        """A table of rows, what the source needs, and a follower that has begun; all gone afterwards."""
        migrate(self.stores)
        subject = self._subject()
        self._run(
            f"DROP TABLE IF EXISTS {self.table}",
            f"CREATE TABLE {self.table} (id bigint PRIMARY KEY, title text, updated_at timestamptz NOT NULL"
            " DEFAULT clock_timestamp())",
            f"CREATE INDEX ON {self.table} (updated_at)",
            f"INSERT INTO {self.table} SELECT n, 'row ' || n, now() - interval '1 h'"
            f" FROM generate_series(1, {_MANY}) n",
            f"GRANT SELECT ON {self.table} TO {quote(self._reader())}",
        )
        try:
            self._run(*self.install(subject))
            follower = Follower(self.capture, subject)
            follower.begin()
            yield follower
        finally:
            self._run(*self.uninstall(subject))
            self._run(f"DROP TABLE {self.table}")

    def _subject(self) -> Subject:
        tables = (Table(self.table, key=("id",), stamp="updated_at"),)
        return Subject(self.table, Key(("id",), ("bigint",)), tables, self.stores.of_entity(self.table))

    def _reader(self) -> str:
        with self.stores.legacy() as cursor:
            cursor.execute("SELECT current_user")
            return str(cursor.fetchone()[0])

    def _statement(self, change: Change) -> str:
        return _STATEMENTS[change].format(table=self.table)

    def _change(self, change: Change, key: int) -> None:
        with self._owner() as connection:
            connection.cursor().execute(self._statement(change), (key,))

    def _update(self, keys: Iterable[int]) -> list[int]:
        """Update rows; returns their keys where the source claims to report them."""
        listed = list(keys)
        with self._owner() as connection:
            connection.cursor().execute(
                f"UPDATE {self.table} SET title = 'updated', updated_at = clock_timestamp() WHERE id = ANY(%s)",
                (listed,),
            )
        return listed if Change.UPDATED in self.catches else []

    def _run(self, *statements: str) -> None:
        with self._owner() as connection:
            for statement in statements:
                connection.cursor().execute(statement)

    @contextmanager
    def _owner(self) -> Iterator[psycopg2.extensions.connection]:
        with closing(psycopg2.connect(self.owner_url)) as connection:
            connection.autocommit = True
            yield connection
