"""The demo's monolith and its editors. The ledger is the log that editors write in their transactions."""

from collections.abc import Iterator
from contextlib import contextmanager

from demo.databases import connected
from demo.edit import Editors
from demo.fleet import Fleet
from tests.chaos import ledger
from tests.chaos.guarded import Guarded
from tests.chaos.plan import RATE, WRITERS, Plan
from tests.observer import Observer
from tests.oracle import Difference
from tests.world import World, opened


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
        return world.differences()

    def noted(self, world: World) -> list[str]:
        return ledger.violations(world)


def _run(editors: Editors) -> None:
    editors.run()
