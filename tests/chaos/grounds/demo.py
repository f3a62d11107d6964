"""The demo's monolith and its editors. The ledger is the log that editors write in their transactions."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2

from demo.databases import connected
from demo.edit import Editors
from demo.fleet import Fleet
from tests.chaos import ledger
from tests.chaos.guarded import Guarded
from tests.chaos.plan import RATE, WRITERS, Plan
from tests.observer import Observer
from tests.oracle import Difference, expected
from tests.receivers import SETTING
from tests.world import World, http, opened


class Demo:
    """Three kinds of content with files, versions and stamps."""

    entities = "tests.chaos.entities"

    @contextmanager
    def opened(self, fleet: Fleet, plan: Plan, settings: dict[str, str]) -> Iterator[World]:
        with opened(fleet, plan.name, SYNC_ENTITIES=self.entities, **settings) as world:
            world.load(plan.contents, plan.files, poison=plan.poison)
            yield world

    @contextmanager
    def written(self, world: World, plan: Plan) -> Iterator[None]:
        editors = Editors(
            world.monolith.admin_url,
            world.client,
            world.legacy_bucket,
            rate=RATE,
            seconds=600,
            workers=WRITERS,
            poison=plan.poison,
            seed=plan.writers_seed,
            late_seconds=(0.5, 3),
            without=plan.without,
        )
        thread = Guarded(lambda: _run(editors))
        thread.start()
        try:
            yield
        finally:
            editors.halt()
            thread.check()

    def observer(self, world: World) -> Observer:
        return Observer(world.target_url, world.search_url)

    def versions(self, url: str) -> dict[int, int]:
        with connected(url) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT id, version FROM content WHERE deleted_at IS NULL")
            return dict(cursor.fetchall())

    def commits(self, world: World) -> int:
        return ledger.commits(world)

    def differences(self, world: World) -> list[Difference]:
        return world.differences() + _item_differences(world)

    def noted(self, world: World) -> list[str]:
        return ledger.violations(world)


def _item_differences(world: World) -> list[Difference]:
    """What the receiver holds that it should not, or lacks."""
    with closing(psycopg2.connect(world.monolith.admin_url)) as legacy:
        wanted, poisoned = expected(legacy)
    public = {key: row for key, row in wanted["video"].items() if row["is_public"]}
    sent = {str(key): {"header": row["header"], "version": row["version"]} for key, row in public.items()}
    there = http(os.environ[SETTING], "GET", "items")
    wrong = [key for key in sent.keys() | there.keys() if sent.get(key) != there.get(key)]
    found = [(key, f"{there.get(key)} for {sent.get(key)}") for key in wrong if key not in poisoned["video"]]
    return [Difference("item", "video", key, "", detail) for key, detail in found]


def _run(editors: Editors) -> None:
    editors.run()
