"""The sinks of the repository keep the contract of outer sinks."""

import random
import threading
from contextlib import closing, contextmanager

import pytest
from elasticsearch import Elasticsearch

from demo.receiver import Items, Receiver
from sync_pipeline.sinks.http import HttpEndpoint
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.testing import SinkContract
from tests.world import opened


@pytest.fixture(scope="module")
def world(fleet):
    with opened(fleet, "sink_contracts", SYNC_RECHECK_SECONDS="0") as world:
        yield world


class OnServers(SinkContract):
    """On the servers of the suite."""

    @pytest.fixture
    def servers(self, world):
        """Where the tables are."""
        self._use(world)

    def _use(self, world):
        self.world, self.stores, self.owner_url = world, world.stores, world.monolith.admin_url
        self.place = f"contract_{random.getrandbits(40):x}"


class TestSearchIndex(OnServers):
    """Documents."""

    refused_title = "x" * 33_000  # a keyword has 32,766 bytes at most

    def make_sink(self):
        """An index whose titles are short."""
        return SearchIndex(self.place, fields={"title": {"type": "keyword"}}, where="is_public")

    @contextmanager
    def away(self):
        """The client asks where nobody listens."""
        with pytest.MonkeyPatch.context() as patched:
            nowhere = Elasticsearch("http://127.0.0.1:9", max_retries=0)
            patched.setitem(self.stores.__dict__, "search", nowhere)
            yield
            nowhere.close()

    def title_of(self, key):
        """The document's."""
        found = self.stores.search.options(ignore_status=404).get(index=self.place, id=key)
        return found["_source"]["title"] if found.get("found") else None

    def spoil(self, key, title):
        """Written by another program."""
        search = self.stores.search
        if title is None:
            search.delete(index=self.place, id=key)
        else:
            search.index(index=self.place, id=key, document={"title": title})


class TestFurtherTable(OnServers):
    """Rows of a table that is not the first one."""

    refused_title = "x" * 6_000

    def make_sink(self):
        """A table that refuses long titles."""
        columns = {"id": "bigint", "title": "text CHECK (length(title) < 5500)"}
        return RelationalTable(f"contract.{self.place}", ("id",), columns, where="is_public", label="titles")

    def title_of(self, key):
        """The row's."""
        found = self.world.target(f"SELECT title FROM contract.{self.place} WHERE id = {key}")
        return found[0][0] if found else None

    def spoil(self, key, title):
        """Written by another program."""
        self.world.target(f"DELETE FROM contract.{self.place} WHERE id = {key}")
        if title is not None:
            self.world.target(f"INSERT INTO contract.{self.place} VALUES (%s, %s)", (key, title))


class OnReceiver(OnServers):
    """Objects of the demo's service."""

    refused_title = "refuse me"
    lists = False

    @pytest.fixture
    def servers(self, world, tmp_path):
        """With a service that refuses a title."""
        self._use(world)
        with closing(Items(tmp_path / "items.sqlite", lambda _, body: "no" * (body["title"] == "refuse me"))) as items:
            self.items = items
            self._start(0)
            self.url = f"{self.receiver.url}/items"
            yield
            self._stop()

    def _start(self, port):
        self.receiver = Receiver(self.items, port)
        self.thread = threading.Thread(target=self.receiver.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def _stop(self):
        self.receiver.shutdown()
        self.thread.join()
        self.receiver.server_close()

    @contextmanager
    def away(self):
        """Nobody listens."""
        port = self.receiver.server_address[1]
        self._stop()
        for client in self.stores._clients.values():
            client.close()  # a connection that stayed open is answered still
        yield
        self._start(port)

    def title_of(self, key):
        """The object's."""
        _, body = self.items.read(key)
        return body["title"] if body else None

    def spoil(self, key, title):
        """Written by another program, under the revision that is there."""
        revision, _ = self.items.read(key)
        self.items.write(key, max(revision, 1), None if title is None else {"title": title})


class TestHttpEndpoint(OnReceiver):
    """One object a request."""

    def make_sink(self):
        """With a URL to read from."""
        url = f"{self.url}/{{key}}"
        return HttpEndpoint(url, ("title",), where="is_public", read_url=url)


class TestHttpEndpointOfBatches(OnReceiver):
    """Several objects a request."""

    def make_sink(self):
        """Three at a time."""
        return HttpEndpoint(
            self.url, ("title",), method="POST", batch=3, where="is_public", read_url=f"{self.url}/{{key}}"
        )


class TestHttpEndpointThatIsNotRead(OnReceiver):
    """Without a URL to read from: not verifiable."""

    def make_sink(self):
        """With a URL to write to alone."""
        return HttpEndpoint(f"{self.url}/{{key}}", ("title",), where="is_public")
