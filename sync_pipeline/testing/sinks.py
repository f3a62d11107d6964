"""The contract of an outer sink: what the monolith holds now is what it comes to hold, whatever fails on the way.

The suite makes a table in a monolith for tests and an entity over it, whose rows go to a table of the new side and to
the sink. Rows are written by the engine itself, so that the sink meets what it meets at work.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import ClassVar

import pandas as pd
import psycopg2
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from sync_pipeline.batch import delivery as deliveries
from sync_pipeline.batch.delivery import Delivery, send
from sync_pipeline.batch.order import Order, Outcome
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.errors import OwnershipError, UnreachableError
from sync_pipeline.ledger import queue_reads, queue_table
from sync_pipeline.model.findings import FindingKind
from sync_pipeline.model.reasons import Reason
from sync_pipeline.operate.repair import repair
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.queue import due
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.reconcile.verdict import Verdict
from sync_pipeline.run.live import work
from sync_pipeline.sinks.outer import OuterSink
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.table import Table
from sync_pipeline.stores.stores import Stores

# between two of them a worker may be killed
BOUNDARIES = ("documents.before", "documents.after", "close.before", "close.after")
_MOST_TRIES = 200


class _KilledError(BaseException):
    """A worker was killed here."""


class SinkContract:
    """Tests that every outer sink passes.

    `make_sink` returns the sink. It keeps the text column `title`, holds only rows that have `is_public` true, and its
    place is empty. The fixture `servers` sets `stores` and `owner_url`. `title_of` says what title readers see under a
    key, and None where there is nothing; `spoil` writes a title there behind the pipeline's back, or removes what is
    there. `refused_title` is a title that the store refuses for good; None where it refuses none. `refuses_late` is
    false where the store keeps no order, so that the engine sends what was overtaken once more, and `lists` where it
    cannot say which objects it holds.
    """

    stores: Stores
    owner_url: str  # of the monolith's owner, who makes the suite's table
    refused_title: ClassVar[str | None] = None
    refuses_late: ClassVar[bool] = True
    lists: ClassVar[bool] = True

    def make_sink(self) -> OuterSink:
        """Return the sink, whose place is empty and new in each test."""
        raise NotImplementedError

    def title_of(self, key: str) -> str | None:
        """Return the title that readers see."""
        raise NotImplementedError

    def spoil(self, key: str, title: str | None) -> None:
        """Write a title behind the pipeline's back, under the version that is there; None removes the object."""
        raise NotImplementedError

    @contextmanager
    def away(self) -> Iterator[None]:
        """Make the store unreachable until the end of the block; by default the sink's `send` raises UnreachableError.

        Override it where the store can be stopped, so that the sink itself has to notice.
        """

        def no_answer(*_: OuterSink | EntityContext) -> None:
            raise UnreachableError("the store is away")

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(type(self.sink), "send", no_answer)
            patched.setattr(type(self.sink), "send_with_shadow", no_answer)
            yield

    @pytest.fixture
    def servers(self) -> None:
        """Override it: set `stores` and `owner_url`, and start what the sink needs."""
        raise NotImplementedError("a sink's contract needs servers: override the fixture `servers`")

    @pytest.fixture(autouse=True)
    def _open(self, servers: None) -> Iterator[None]:
        self._name = f"contract_{random.getrandbits(40):x}"
        with self._owner() as cursor:
            cursor.execute(
                f"CREATE TABLE public.{self._name} (id bigint PRIMARY KEY, title text NOT NULL, is_public boolean NOT"
                f" NULL, updated_at timestamptz NOT NULL DEFAULT now()); GRANT SELECT ON public.{self._name} TO PUBLIC"
            )
        self.sink = self.make_sink()
        self.context = EntityContext.open(self._entity(), self.stores)
        yield
        with self._owner() as cursor:
            cursor.execute(f"DROP TABLE public.{self._name}")

    def test_what_is_written_is_read(self) -> None:
        self._write(1, "one")
        self._write(2, "two")
        self._sync(1, 2)
        assert (self._title(1), self._title(2)) == ("one", "two")
        self._write(1, "one again")
        self._sync(1, 2)
        assert (self._title(1), self._title(2)) == ("one again", "two")
        assert self._parked() == []

    def test_what_is_gone_is_deleted(self) -> None:
        self._write(1, "one")
        self._write(2, "two")
        self._sync(1, 2)
        self._delete(1)
        self._sync(1, 2)
        assert (self._title(1), self._title(2)) == (None, "two")

    def test_a_row_that_it_does_not_want_is_not_there(self) -> None:
        self._write(1, "private", is_public=False)
        self._write(2, "public")
        self._sync(1, 2)
        assert (self._title(1), self._title(2)) == (None, "public")
        self._write(1, "public now")
        self._write(2, "private now", is_public=False)
        self._sync(1, 2)
        assert (self._title(1), self._title(2)) == ("public now", None)

    def test_texts_come_through_unchanged(self) -> None:
        titles = ["", " ", "a\tb\nc", 'quote " and \\', "žluťoučký kůň 🐎", "x" * 5_000, "NULL", "</script>"]
        for n, title in enumerate(titles, 1):
            self._write(n, title)
        self._sync(*range(1, len(titles) + 1))
        assert [self._title(n) for n in range(1, len(titles) + 1)] == titles

    def test_a_rerun_writes_nothing(self) -> None:
        self._write(1, "one")
        first, second = self._sync(1), self._sync(1)
        assert (first.documents, second.documents) == (1, 0)
        assert self._title(1) == "one"

    def test_the_last_revision_wins(self) -> None:
        self._write(1, "first")
        late = self._hold_back(1)
        self._write(1, "second")
        self._sync(1)
        self._send_late(late, "second")

    def test_a_late_write_does_not_bring_back_what_was_deleted(self) -> None:
        self._write(1, "first")
        self._sync(1)
        self._write(1, "second")
        late = self._hold_back(1)
        self._delete(1)
        self._sync(1)
        self._send_late(late, None)

    def test_a_late_delete_does_not_take_away_what_came_after_it(self) -> None:
        self._write(1, "first")
        self._sync(1)
        self._delete(1)
        late = self._hold_back(1)
        self._write(1, "second")
        self._sync(1)
        self._send_late(late, "second")

    def test_what_was_sent_twice_is_there_once(self) -> None:
        self._write(1, "one")
        delivery = self._hold_back(1)
        send(self.context, delivery)
        send(self.context, delivery)
        self._work()
        assert self._title(1) == "one"
        self._check_clean()

    def test_one_refused_row_is_isolated(self) -> None:
        if self.refused_title is None:
            return
        for n in range(1, 8):
            self._write(n, f"title {n}")
        self._write(4, self.refused_title)
        self._sync(*range(1, 8))
        assert [self._title(n) for n in range(1, 8)] == [None if n == 4 else f"title {n}" for n in range(1, 8)]
        (refused,) = self._parked()
        assert (refused.key, refused.reason) == ("4", Reason.REJECTED), refused
        self._write(4, "mended")
        self._sync(4)
        assert (self._title(4), self._parked()) == ("mended", [])

    def test_what_it_is_owed_while_its_store_is_away_comes_later(self) -> None:
        self._write(1, "one")
        with self.away():
            outcome = self._sync(1)
        assert outcome.documents_owed == 1
        self._work()
        assert self._title(1) == "one"
        self._check_clean()

    @pytest.mark.parametrize("boundary", BOUNDARIES)
    def test_a_worker_killed_at_each_boundary_loses_nothing(
        self, boundary: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._write(1, "one")
        self._write(2, "two")
        self._sync(1, 2)
        self._write(1, "one again")
        self._delete(2)

        def kill(point: str) -> None:
            if point == boundary:
                raise _KilledError

        with pytest.MonkeyPatch.context() as patched, suppress(_KilledError):
            patched.setattr(deliveries, "crash_point", kill)
            self._sync(1, 2)
        with self.stores.target() as cursor:  # as a follower does that takes over
            queue_table.unclaim_entity(cursor, self._name)
        self._work()
        assert (self._title(1), self._title(2)) == ("one again", None)
        self._check_clean()

    def test_compare_finds_each_kind_of_mismatch(self) -> None:
        for n in range(1, 6):
            self._write(n, f"title {n}", is_public=n != 4)
        self._sync(*range(1, 6))
        self._check_clean()
        if not self.sink.can_read:
            return
        self.spoil("1", "spoiled")
        self.spoil("2", None)
        self._write(3, "changed since")
        self.spoil("4", "never wanted")
        found = {each.key: each.kind for each in self._verdict().findings if each.sink == self.sink.id}
        assert found == {
            "1": FindingKind.CORRUPT,
            "2": FindingKind.MISSING,
            "3": FindingKind.STALE,
            "4": FindingKind.EXTRA,
        }
        keys = self.context.origin.key.parse([str(n) for n in range(1, 6)])
        sync_keys(self.context, keys, Order(force=True, cause="repair"))
        self._work()
        self._check_clean()

    def test_an_object_of_no_row_is_found_and_removed(self) -> None:
        self._write(1, "one")
        self._sync(1)
        if not self.lists:
            return
        self.spoil("99", "nobody's")
        findings = [each for each in self._verdict().findings if each.sink == self.sink.id]
        assert [(each.key, each.kind) for each in findings] == [("99", FindingKind.EXTRA)]
        repair(self.context, findings)
        self._work()
        assert (self._title(1), self.title_of("99")) == ("one", None)
        self._check_clean()

    def test_a_version_above_the_ledgers_is_written_over(self) -> None:
        """As after the new side has lost commits: what the sink holds is of a revision that no batch has any more."""
        self._write(1, "of lost commits")
        delivery = self._hold_back(1)
        above = pc.add(delivery.operations.versions, pa.scalar(1_000_000_000, pa.int64()))
        lost = replace(delivery, operations=replace(delivery.operations, versions=above))
        self.sink.send(self.context.of_sinks, lost.operations)
        self._write(1, "two")
        self._sync(1)
        self._work()
        assert self._title(1) == "two"

    def test_what_is_read_is_what_readers_see(self) -> None:
        self._write(1, "one")
        self._write(2, "private", is_public=False)
        self._sync(1, 2)
        if self.sink.can_read:
            assert self.sink.read(self.context.of_sinks, ["1", "2", "3"]).keys() == {"1"}

    def test_two_entities_cannot_have_its_place(self) -> None:
        other = replace(self.context.entity.table, name=f"contract.{self._name}_other")
        entity = replace(self.context.entity, name=f"{self._name}_other", sinks=(other, self.sink))
        with pytest.raises(OwnershipError):
            EntityContext.open(entity, self.stores)

    def test_a_column_that_the_adapter_does_not_return_is_named(self) -> None:
        (fault,) = self.sink.column_faults(pa.table({"id": pa.array([1])}))
        assert "title" in fault

    def test_no_sink_is_verifiable_that_cannot_be_asked(self) -> None:
        named = self._verdict().not_verifiable
        assert (self.sink.id in named) == (not self.sink.can_read)

    def _entity(self) -> Entity:
        def adapt(legacy: pd.DataFrame) -> pd.DataFrame:
            return legacy[["id", "title", "is_public"]]

        columns = {"id": "bigint", "title": "text", "is_public": "boolean"}
        return Entity(
            name=self._name,
            owner="contract",
            origin=LegacyQuery(f"SELECT id, title, is_public FROM public.{self._name}", ("id",)),
            tables=(Table(f"public.{self._name}", key=("id",), stamp="updated_at"),),
            adapt=adapt,
            sinks=(RelationalTable(f"contract.{self._name}", ("id",), columns), self.sink),
            partitions=KeyRanges(1),
        )

    @contextmanager
    def _owner(self) -> Iterator[psycopg2.extensions.cursor]:
        connection = psycopg2.connect(self.owner_url)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()

    def _write(self, key: int, title: str, *, is_public: bool = True) -> None:
        with self._owner() as cursor:
            cursor.execute(
                f"INSERT INTO public.{self._name} VALUES (%s, %s, %s) ON CONFLICT (id) DO UPDATE SET"
                " title = excluded.title, is_public = excluded.is_public, updated_at = clock_timestamp()",
                (key, title, is_public),
            )

    def _delete(self, key: int) -> None:
        with self._owner() as cursor:
            cursor.execute(f"DELETE FROM public.{self._name} WHERE id = %s", (key,))

    def _keys(self, *keys: int) -> pa.Table:
        return self.context.origin.key.parse([str(key) for key in keys])

    def _sync(self, *keys: int) -> Outcome:
        return sync_keys(self.context, self._keys(*keys), Order(acknowledge=True, cause="contract"))

    def _hold_back(self, key: int) -> Delivery:
        """Write a row, and return what its worker was about to send."""
        held: list[Delivery] = []
        sync_keys(self.context, self._keys(key), Order(acknowledge=True, cause="contract", hand_over=held.append))
        (delivery,) = held
        return delivery

    def _send_late(self, late: Delivery, title: str | None) -> None:
        """Send what a worker held back: the sink keeps the title that it has."""
        send(self.context, late)
        if self.refuses_late:
            assert self._title(1) == title
        self._work()
        assert self._title(1) == title

    def _work(self) -> None:
        """Do all that is owed, now."""
        for _ in range(_MOST_TRIES):
            with self.stores.target() as cursor:
                queue_table.unclaim_entity(cursor, self._name)
                due.replay(cursor, due.QueueFilter(self._name))
            if not work(self.context, lambda *_: None):
                return
        raise AssertionError(f"something is owed to {self.sink.id} for ever")

    def _title(self, key: int) -> str | None:
        return self.title_of(str(key))

    def _parked(self) -> list[queue_reads.ParkedRecord]:
        with self.stores.target() as cursor:
            return queue_reads.parked(cursor, [self._name], [Reason.REJECTED], 100)

    def _verdict(self) -> Verdict:
        return reconcile(self.context)

    def _check_clean(self) -> None:
        findings = self._verdict().findings
        assert not findings, findings
