"""New sides of one monolith: each with a database and a ledger of its own, in one cluster and one bucket."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg2

from demo.buckets import REGION, create_bucket, remove_marks
from demo.databases import Monolith, create_monolith, create_target, drop_database
from demo.environment import variables
from demo.fleet import Addresses, Fleet
from demo.lag import Observer
from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.files import load_entities
from sync_pipeline.entity import Entity
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.reconcile.verdict import Verdict
from sync_pipeline.run.capture import open_cursor
from sync_pipeline.run.live import caught_up, mark
from sync_pipeline.settings import Settings
from sync_pipeline.stores.stores import Stores
from tests import oracle
from tests.locations.entities._side import alias, on_side
from tests.world import http, wait_for

LEGACY_BUCKET, TARGET_BUCKET = "locations-legacy", "locations-new"
_HELD = "SELECT count(*) FROM sync.cursor WHERE lease_until > now() AND applied_through >= %s"
_TAKEOVERS = "SELECT coalesce(sum(epoch), 0) FROM sync.cursor"


@dataclass
class Source:
    """The monolith, as its editors and an oracle reach it."""

    monolith: Monolith
    client: Any

    def ask(self, statement: str, values: Any = ()) -> list[Any]:
        """A statement of the monolith's own, committed."""
        return _ask(self.monolith.admin_url, statement, values)


@dataclass
class Side:
    """One new side: what its code locations find in their environment, and what a test asks of it."""

    name: str
    source: Source
    environment: dict[str, str]
    target_url: str
    stores: Stores

    @property
    def contexts(self) -> list[EntityContext]:
        """All entities, opened."""
        return [EntityContext.open(entity, self.stores) for entity in self.entities]

    @property
    def entities(self) -> list[Entity]:
        """The demo's entities as this side has them."""
        return [on_side(entity, self.name) for entity in load_entities("assets.entities").values()]

    @property
    def takeovers(self) -> int:
        """How often a lease of an entity has gone to another run."""
        return int(self.ask(_TAKEOVERS)[0][0])

    def ask(self, statement: str, values: Any = ()) -> list[Any]:
        """A statement at the new side, committed."""
        return _ask(self.target_url, statement, values)

    def fill(self) -> None:
        """Bring all rows in, quicker than so many partitions."""
        for context in self.contexts:
            open_cursor(context)
            ids = self.source.ask("SELECT id::text FROM content WHERE kind = %s", [context.entity.name])
            sync_keys(context, context.origin.key.parse([key for (key,) in ids]), Order())

    def wait_followed(self, seconds: float) -> None:
        """Until all leases are held, and what is committed now is applied."""
        ((now,),) = self.source.ask("SELECT clock_timestamp()")
        wait_for(lambda: self.ask(_HELD, [now]) == [(len(self.entities),)], seconds)

    def observe(self) -> Observer:
        """Begin to measure the lag, from commit to commit."""
        return Observer(self.source.monolith.admin_url, self.target_url).start()

    def catch_up(self, seconds: float) -> None:
        """Until all that is committed now is applied and swept."""
        contexts = self.contexts
        since = mark(contexts)
        wait_for(lambda: all(caught_up(context, since) for context in contexts), seconds)

    def verdicts(self) -> list[Verdict]:
        """What the engine's own comparison says."""
        return [reconcile(context) for context in self.contexts]

    def differences(self) -> list[oracle.Difference]:
        """What the oracle finds wrong."""
        client = self.source.client
        with (
            closing(psycopg2.connect(self.source.monolith.admin_url)) as legacy,
            closing(psycopg2.connect(self.target_url)) as target,
        ):
            buckets = oracle.Buckets(client, LEGACY_BUCKET, client, TARGET_BUCKET)
            return oracle.differences(legacy, target, self.stores.settings.search_url, buckets, alias(self.name, "{}"))


@contextmanager
def new_sides(fleet: Fleet, monolith: str, *names: str) -> Iterator[tuple[Source, dict[str, Side]]]:
    """An empty monolith and empty new sides; nothing of them is left at the end."""
    addresses, client = fleet.addresses(), fleet.objects.client()
    source = Source(create_monolith(fleet.legacy, monolith), client)
    for bucket in (LEGACY_BUCKET, TARGET_BUCKET):
        create_bucket(client, bucket)
    remove_marks(client, TARGET_BUCKET)
    sides = {}
    try:
        for name in names:
            database = f"{monolith}_{name}"
            environment = {
                **variables(addresses),
                **_credentials(addresses),
                "SYNC_LEGACY_DB": source.monolith.reader_url,
                "SYNC_TARGET_DB": create_target(fleet.target, database),
                "SYNC_LEGACY_S3_BUCKET": LEGACY_BUCKET,
                "SYNC_TARGET_S3_BUCKET": TARGET_BUCKET,
                "SYNC_ENTITIES": "tests.locations.entities",
                "TEST_SIDE": name,
            }
            stores = Stores(Settings.from_env(environment))
            sides[name] = Side(name, source, environment, fleet.target.url(database), stores)
            _remove_indices(sides[name])
        yield source, sides
    finally:
        for side in sides.values():
            _remove_indices(side)
            side.stores.close()
            drop_database(fleet.target, f"{monolith}_{side.name}")
        client.close()
        drop_database(fleet.legacy, monolith)


def _credentials(at: Addresses) -> dict[str, str]:
    """The keys of each bucket among our own settings, so that one process may work on several sides."""
    return {
        f"SYNC_{bucket}_S3_{setting}": value
        for bucket in ("LEGACY", "TARGET")
        for setting, value in (
            ("ACCESS_KEY_ID", at.access_key),
            ("SECRET_ACCESS_KEY", at.secret_key),
            ("REGION", REGION),
        )
    }


def _remove_indices(side: Side) -> None:
    url = side.stores.settings.search_url
    for index in http(url, "GET", "_cat/indices?format=json&expand_wildcards=open"):
        if index["index"].startswith(alias(side.name, "")):
            http(url, "DELETE", index["index"])


def _ask(url: str, statement: str, values: Any) -> list[Any]:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(statement, values)
        return cursor.fetchall() if cursor.description else []
