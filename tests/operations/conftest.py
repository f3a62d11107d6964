"""One fleet for all of these tests; each module has its own databases, buckets and indices on it."""

import json
import os
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from demo.buckets import create_bucket
from demo.databases import create_monolith, create_target, drop_database
from demo.environment import variables
from demo.fleet import Fleet, down, up
from demo.home import JARS_SETTING, Home
from demo.load import load
from sync_pipeline.backfill import backfill
from sync_pipeline.entity import load_entities
from sync_pipeline.follower import Follower
from sync_pipeline.lane import Lane
from sync_pipeline.settings import Settings
from sync_pipeline.stores import Stores

REPOSITORY = Path(__file__).resolve().parents[2]


class Following:
    """The live loop in a thread, for as long as this lasts."""

    def __init__(self, lanes):
        self.follower = Follower([lane.entity for lane in lanes], lanes[0].stores)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.follower.run, args=(self.stop,))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        assert self.follower.failures == {}


@dataclass
class World:
    """A monolith and a new side of one module."""

    fleet: Fleet
    stores: Stores
    admin: str  # the monolith's owner
    catalog: str  # the superuser on the new side
    client: Any  # S3

    @property
    def legacy_bucket(self):
        return self.stores.settings.legacy_bucket.name

    @property
    def target_bucket(self):
        return self.stores.settings.target_bucket.name

    def load(self, contents, files, poison=0):
        return load(self.admin, self.client, self.legacy_bucket, contents=contents, files=files, poison=poison)

    def lane(self, name):
        return Lane.open(load_entities("assets.entities")[name], self.stores)

    def filled(self, name):
        lane = self.lane(name)
        for partition in lane.entity.partitions.names():
            backfill(lane, partition)
        return lane

    def legacy(self, query, values=()):
        return run(self.admin, query, values)

    def target(self, query, values=()):
        return run(self.catalog, query, values)

    def search(self, path, method="GET", body=None):
        content = json.dumps(body).encode() if body is not None else None
        address = f"{self.stores.settings.search_url}/{path}"
        request = urllib.request.Request(address, content, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def following(self, lanes):
        return Following(lanes)

    def wait_for(self, condition, seconds=30):
        """Wait for a condition, not for a time."""
        limit = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < limit, "it did not come to pass"
            threading.Event().wait(0.05)


def run(url, query, values=()):
    connection = psycopg2.connect(url)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


@pytest.fixture(scope="session")
def fleet(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(JARS_SETTING, os.environ.get(JARS_SETTING) or str(REPOSITORY / ".demo" / "jars"))
        home = Home(tmp_path_factory.mktemp("operations"))
        try:
            yield up(home)
        finally:
            down(home)


@pytest.fixture(scope="module")
def world(fleet, request):
    name = request.module.__name__.rpartition(".")[2].removeprefix("test_")
    monolith = create_monolith(fleet.legacy, f"legacy_{name}")
    catalog = create_target(fleet.target, f"target_{name}")
    buckets = f"legacy-{name}".replace("_", "-"), f"target-{name}".replace("_", "-")
    for bucket in buckets:
        create_bucket(fleet.objects, bucket)
    settings = variables(fleet.addresses()) | {
        "SYNC_LEGACY_DB": monolith.reader_url,
        "SYNC_TARGET_DB": catalog,
        "SYNC_LEGACY_S3_BUCKET": buckets[0],
        "SYNC_TARGET_S3_BUCKET": buckets[1],
        "SYNC_RECHECK_SECONDS": "0.2",
    }
    client = fleet.objects.client()
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in settings.items():
            patch.setenv(variable, value)
        stores = Stores(Settings.from_env())
        world = World(fleet, stores, monolith.admin_url, fleet.target.url(f"target_{name}"), client)
        for index in world.search("_cat/indices?format=json"):
            world.search(index["index"], "DELETE")
        try:
            yield world
        finally:
            stores.close()
            client.close()
    drop_database(fleet.legacy, f"legacy_{name}")
    drop_database(fleet.target, f"target_{name}")
