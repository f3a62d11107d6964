"""The sources of the repository keep the contract of sources."""

from dataclasses import dataclass

import pyarrow as pa
import pytest

from sync_pipeline.model.positions import SourcePosition
from sync_pipeline.sources import outbox_tables, publication
from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.source import Page, Source
from sync_pipeline.sources.sweep_only import SweepOnly
from sync_pipeline.sources.wal import Wal
from sync_pipeline.sources.watermark import Watermark
from sync_pipeline.testing import Change, SourceContract, sources
from tests.installed import flat
from tests.world import opened


@pytest.fixture(scope="module")
def world(fleet):
    with opened(fleet, "source_contracts", SYNC_MARGIN_SECONDS="0.2", SYNC_POLL_SECONDS="0.02") as world:
        yield world


class OnServers(SourceContract):
    """On the servers of the suite."""

    @pytest.fixture(autouse=True)
    def use(self, world):
        """Where the tables are."""
        self.stores, self.owner_url = world.stores, world.monolith.admin_url


class TestWatermark(OnServers):
    """Needs nothing in the monolith."""

    capture = Watermark()
    catches = frozenset({Change.INSERTED, Change.UPDATED})


class TestOutbox(OnServers):
    """Needs triggers."""

    capture = Outbox()
    catches = frozenset(Change)

    def install(self, subject):
        """Its table and triggers."""
        return flat(outbox_tables.install(subject, self.capture, False))

    def uninstall(self, subject):
        """Without them."""
        return flat(outbox_tables.uninstall(subject, self.capture))


class TestWal(OnServers):
    """Needs a publication."""

    capture = Wal()
    catches = frozenset(Change)

    def install(self, subject):
        """Its publication and slot."""
        return flat(publication.install(subject))

    def uninstall(self, subject):
        """Without them."""
        return flat(publication.uninstall(subject))


class TestSweepOnly(OnServers):
    """Reports nothing, and says so."""

    capture = SweepOnly()
    catches = frozenset()


@dataclass
class Stamps(Source):
    """A source as somebody may write it at first: all rows above the highest stamp that it has seen."""

    subject: object
    fault: str
    after: str
    given: str = ""

    def _ask(self, query):
        with self.subject.stores.legacy() as cursor:
            cursor.execute(query.format(table=self.subject.tables[0].name))
            return cursor.fetchall()

    def _highest(self):
        return self._ask("SELECT max(updated_at)::text FROM {table}")[0][0]

    def begin(self):
        """At the highest stamp."""
        return SourcePosition({} if self.fault == "begins at its first read" else {"after": self._highest()})

    def pull(self, rows):
        """Rows above it, in pages."""
        self.given = self.after = self.after or self._highest()
        query = "SELECT id, updated_at::text FROM {table} WHERE updated_at > '%s' ORDER BY 2, 1 LIMIT %d"
        while found := self._ask(query % (self.given, rows)):
            if self.fault != "reports for ever":
                self.given = found[-1][1]
            if self.fault == "moves on too early":
                self.subject.stores.moved_on = self.given
            if not (self.fault == "leaves out a full page" and len(found) == rows):
                yield Page(pa.table({"id": pa.array([key for key, _ in found], pa.int64())}))
            if self.fault == "reports for ever":
                return

    def position(self):
        """Where the pages end that were given."""
        return SourcePosition({"after": self.given})

    def acknowledge(self):
        """All of it is applied."""
        self.after = self.given


@dataclass(frozen=True)
class CapturedByStamps:
    """Declares it."""

    fault: str
    name: str = "stamps"

    def open(self, subject, state):
        """From where it stood, or where it says it did."""
        after = getattr(subject.stores, "moved_on", "") or (state or {}).get("after", "")
        return Stamps(subject, self.fault, after)


@pytest.mark.parametrize(
    ("fault", "test"),
    [
        ("forgets late commits", "test_it_reports_what_is_committed_late"),
        ("forgets late commits", "test_nothing_is_lost_under_writers_and_ends"),
        ("begins at its first read", "test_it_reports_what_was_committed_between_its_beginning_and_its_first_read"),
        ("leaves out a full page", "test_it_goes_on_behind_a_page"),
        ("leaves out a full page", "test_a_page_is_cut_off_between_two"),
        ("moves on too early", "test_what_is_not_acknowledged_is_reported_again"),
        ("reports for ever", "test_what_is_acknowledged_comes_to_an_end"),
    ],
)
def test_a_broken_source_is_found(world, monkeypatch, fault, test):
    monkeypatch.setattr(sources, "_PATIENCE_SECONDS", 2.0)
    suite = SourceContract()
    suite.capture, suite.catches = CapturedByStamps(fault), frozenset({Change.INSERTED, Change.UPDATED})
    suite.stores, suite.owner_url = world.stores, world.monolith.admin_url
    with pytest.raises(AssertionError):
        getattr(suite, test)()
