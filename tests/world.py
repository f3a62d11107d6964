"""A world: an empty monolith and an empty new side on shared servers, one for each test module.

Databases and buckets are its own. Indices bear the names the entity files give them, so only one world is open at
a time, and opening one removes what the last one left.
"""

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import psycopg2
import pytest

from demo.buckets import create_bucket, remove_marks
from demo.databases import Monolith, create_monolith, create_target, drop_database
from demo.environment import variables
from demo.fleet import Fleet
from demo.load import load
from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.files import load_entities
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.run.backfill import backfill
from sync_pipeline.run.capture import open_cursor
from sync_pipeline.run.follower import Follower
from sync_pipeline.settings import Settings
from sync_pipeline.stores.stores import Stores
from tests import oracle


@dataclass
class World:
    """Both databases are reached here as their owners; the engine goes by `stores` or the environment."""

    fleet: Fleet
    monolith: Monolith
    target_url: str
    legacy_bucket: str
    client: Any
    stores: Stores

    @property
    def search_url(self) -> str:
        return self.stores.settings.search_url

    @property
    def target_bucket(self) -> str:
        return self.stores.settings.target_bucket.name

    def context(self, name: str) -> EntityContext:
        """An entity as its file declares it now."""
        return EntityContext.open(load_entities(self.stores.settings.entities)[name], self.stores)

    @cached_property
    def contexts(self) -> dict[str, EntityContext]:
        entities = load_entities(self.stores.settings.entities)
        return {name: EntityContext.open(entity, self.stores) for name, entity in entities.items()}

    def differences(self) -> list[oracle.Difference]:
        """What the oracle finds wrong."""
        buckets = oracle.Buckets(self.client, self.legacy_bucket, self.client, self.target_bucket)
        with (
            closing(psycopg2.connect(self.monolith.admin_url)) as legacy,
            closing(psycopg2.connect(self.target_url)) as target,
        ):
            return oracle.differences(legacy, target, self.search_url, buckets)

    def load(self, contents: int, files: int, poison: int = 0) -> None:
        load(self.monolith.admin_url, self.client, self.legacy_bucket, contents=contents, files=files, poison=poison)

    def backfill(self) -> None:
        for name in self.contexts:
            self.filled(name)

    def filled(self, name: str) -> EntityContext:
        """An entity whose history has been filled."""
        context = self.context(name)
        for partition in context.entity.partitions.names():
            backfill(context, partition)
        return context

    def all_in(self, name: str, where: str = "true") -> EntityContext:
        """An entity whose rows are all in, without a backfill: quicker than so many partitions."""
        context = self.context(name)
        open_cursor(context)
        keys = [str(key) for (key,) in self.legacy(f"SELECT id FROM content WHERE kind = %s AND {where}", [name])]
        sync_keys(context, context.origin.key.parse(keys), Order())
        return context

    @contextmanager
    def following(self, contexts: list[EntityContext]) -> Iterator[Follower]:
        """The live delta, for as long as this lasts."""
        follower, stop = Follower([context.entity for context in contexts], contexts[0].stores), threading.Event()
        thread = threading.Thread(target=follower.run, args=(stop,))
        thread.start()
        try:
            yield follower
        finally:
            stop.set()
            thread.join()
        assert follower.failures == {}

    def legacy(self, statement: str, values: Any = ()) -> list[Any]:
        """A statement of the monolith's own, committed."""
        return _run(self.monolith.admin_url, statement, values)

    def target(self, statement: str, values: Any = ()) -> list[Any]:
        """A statement at the new side, committed."""
        return _run(self.target_url, statement, values)

    def hurry(self, which: str = "reason <> 'rejected'") -> None:
        """Make what waits for its next try due now, except what a worker has claimed; by default no dead letters."""
        self.target(
            f"UPDATE sync.due SET not_before = now() WHERE id IN (SELECT id FROM sync.due WHERE ({which})"
            " AND not_before < 'infinity' FOR UPDATE SKIP LOCKED)"
        )

    def document(self, method: str, path: str, body: Any = None) -> Any:
        """A request to the search cluster."""
        return http(self.search_url, method, path, body)


def wait_for(condition: Callable[[], Any], seconds: float = 30) -> None:
    """Wait for a condition, not for a time."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not come to pass"
        threading.Event().wait(0.05)


@contextmanager
def opened(fleet: Fleet, name: str, **settings: str) -> Iterator[World]:
    """Make a world, point the environment at it, and drop its databases at the end."""
    addresses = fleet.addresses()
    monolith, writer_url = create_monolith(fleet.legacy, name), create_target(fleet.target, name)
    legacy_bucket, target_bucket = (f"{name.replace('_', '-')}-{side}" for side in ("legacy", "new"))
    for bucket in (legacy_bucket, target_bucket):
        create_bucket(fleet.objects.client(), bucket)
    _remove_indices(addresses.search_url)
    remove_marks(fleet.objects.client(), target_bucket)  # of a world of this name that was open before
    own = {
        "SYNC_LEGACY_DB": monolith.reader_url,
        "SYNC_TARGET_DB": writer_url,
        "SYNC_LEGACY_S3_BUCKET": legacy_bucket,
        "SYNC_TARGET_S3_BUCKET": target_bucket,
    }
    with pytest.MonkeyPatch.context() as patch:
        for setting, value in {**variables(addresses), **own, **settings}.items():
            patch.setenv(setting, value)
        client, stores = fleet.objects.client(), Stores(Settings.from_env())
        try:
            yield World(fleet, monolith, fleet.target.url(name), legacy_bucket, client, stores)
        finally:
            stores.close()
            client.close()
            drop_database(fleet.legacy, name)
            drop_database(fleet.target, name)


def http(base: str, method: str, path: str, body: Any = None) -> Any:
    """A request with a JSON body and a JSON answer. Raises OSError (HTTPError, too)."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{base}/{path}", content, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def _remove_indices(search_url: str) -> None:
    for index in http(search_url, "GET", "_cat/indices?format=json&expand_wildcards=open"):
        if not index["index"].startswith("."):
            http(search_url, "DELETE", index["index"])


def _run(url: str, statement: str, values: Any) -> list[Any]:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True  # some statements of servers' owners take no transaction
        cursor = connection.cursor()
        cursor.execute(statement, values)
        return cursor.fetchall() if cursor.description else []
