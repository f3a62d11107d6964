"""A place to work in, small: a loaded monolith with editors at it, Dagster over it, and Data Docs served."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from checks.data_docs import DataDocs
from checks.serving import serving
from demo.edit import Editors
from demo.machine import free_port
from demo.run.api import DagsterApi
from tests.world import World

CONTENTS, FILES, RATE = 2_000, 60, 3.0
BY_HAND = "Changed by hand"
_LONGEST_SECONDS = 3_600.0
_CLOSED = """
    CREATE FUNCTION public.closed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'the books of %% are closed', to_char(NEW.created_at, 'YYYY-MM'); END $$;
    CREATE TRIGGER closed BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW
    WHEN (to_char(NEW.created_at AT TIME ZONE 'UTC', 'YYYY-MM') = '{month}') EXECUTE FUNCTION public.closed()"""


@dataclass(frozen=True)
class Planted:
    """Ids of what was changed and of what was taken away."""

    row: int
    lost_row: int
    document: int
    lost_document: int


@dataclass(frozen=True)
class Workplace:
    """What a test needs beside the pages: both sides, and who edits."""

    world: World
    editors: "Editing"

    @property
    def url(self) -> str:
        return self.world.fleet.webserver.url

    def missing(self, kind: str, year: str) -> int:
        """How many contents of a kind and year the monolith holds and the new table does not."""
        there = {id for (id,) in self.world.target(f"SELECT id FROM catalog.{kind}")}
        where = "kind = %s AND deleted_at IS NULL AND to_char(created_at AT TIME ZONE 'UTC', 'YYYY') = %s"
        wanted = {id for (id,) in self.world.legacy(f"SELECT id FROM content WHERE {where}", [kind, year])}
        assert wanted
        return len(wanted - there)

    def plant(self) -> Planted:
        """Mismatches of each kind in the sinks of video, past the engine."""
        world = self.world
        public = "SELECT id FROM catalog.video WHERE is_public AND header IS NOT NULL ORDER BY id LIMIT 4"
        planted = Planted(*(id for (id,) in world.target(public)))
        world.target("UPDATE catalog.video SET header = %s, price = -1 WHERE id = %s", [BY_HAND, planted.row])
        world.target("DELETE FROM catalog.video WHERE id = %s", [planted.lost_row])
        world.document("POST", f"video/_update/{planted.document}", {"doc": {"header": BY_HAND}})
        world.document("DELETE", f"video/_doc/{planted.lost_document}")
        ((file,),) = world.target("SELECT files[1] FROM catalog.video WHERE cardinality(files) > 0 LIMIT 1")
        world.client.delete_object(Bucket=world.target_bucket, Key=file)
        return planted

    @contextmanager
    def closed(self, table: str, month: str) -> Iterator[None]:
        """Somebody at the new side lets nobody write rows of a month."""
        self.world.target(_CLOSED.format(table=table, month=month))
        try:
            yield
        finally:
            self.world.target("DROP FUNCTION public.closed CASCADE")


class Editing:
    """Editors at work until they go home."""

    def __init__(self, world: World) -> None:
        self._editors = Editors(world.monolith.admin_url, world.client, world.legacy_bucket, RATE, _LONGEST_SECONDS)
        self._thread = threading.Thread(target=self._editors.run, name="editors")
        self._thread.start()

    def go_home(self) -> None:
        """No edit comes after this; may be said twice."""
        self._editors.halt()
        self._thread.join()


@contextmanager
def opened(world: World, folder: Path) -> Iterator[Workplace]:
    """Load, start Dagster in the environment that leads to the world, and let editors work."""
    fleet = world.fleet
    world.load(CONTENTS, FILES)
    docs = DataDocs.from_env({"SYNC_DATA_DOCS": str(folder)})
    with serving(docs, port=free_port()) as address:
        # often enough to see its tick; in the demo it is twice an hour
        settings = {"SYNC_DATA_DOCS": docs.home, "SYNC_DATA_DOCS_URL": address, "SYNC_SWEEP_CRON": "* * * * *"}
        try:
            fleet.start_dagster(settings)
            DagsterApi(fleet.webserver.url).wait_ready(180)
            editors = Editing(world)
            try:
                yield Workplace(world, editors)
            finally:
                editors.go_home()
        finally:
            for service in reversed(fleet.dagster):
                service.stop()
