"""The story of `make demo`: history through Dagster under editors, live delta by the sensor, then one verdict."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from demo.databases import connected
from demo.edit import Editors
from demo.edit.tally import Tally
from demo.environment import settings, variables
from demo.errors import DemoError
from demo.fleet import LEGACY_BUCKET, TARGET_BUCKET, Fleet
from demo.lag import Observer
from demo.lag.report import Report
from demo.load import load
from demo.run.api import DagsterApi
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.files import load_entities
from sync_pipeline.entity import Entity
from sync_pipeline.errors import UnreachableError
from sync_pipeline.ledger import queue_reads
from sync_pipeline.run.heartbeat import last_heartbeats
from sync_pipeline.run.live import caught_up, mark
from sync_pipeline.sinks.media.ownership import MARK_OBJECT
from sync_pipeline.sinks.search import indices_of
from sync_pipeline.stores.stores import Stores

# editors go on while history is filled; this bounds a demo that hangs
_LONGEST_SECONDS = 480.0
_CATCH_UP_SECONDS = 180.0
_POLL_SECONDS = 0.5

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How much to load, and how editors work."""

    contents: int
    media: int
    rate: float
    seconds: float


@dataclass(frozen=True)
class Played:
    """What was measured; times are in seconds."""

    edits: Tally
    lag: Report
    history_seconds: float
    history_rows: int
    catch_up_seconds: float
    checks: list[dict[str, Any]]
    moved: dict[str, int]
    due: int
    seconds: float


def play(fleet: Fleet, plan: Plan, say: Say) -> Played:
    """Load, move under editors, stop, catch up, reconcile. Raises DemoError saying what did not come about."""
    began = time.monotonic()
    admin_url = fleet.addresses().monolith.admin_url
    loaded = load(admin_url, fleet.objects.client(), LEGACY_BUCKET, contents=plan.contents, files=plan.media)
    say(f"loaded {loaded.contents:,} contents and {loaded.files:,} files into the monolith")
    fleet.start_dagster(variables(fleet.addresses()))
    api = DagsterApi(fleet.webserver.url)
    api.wait_ready()
    say(f"Dagster is up: {fleet.webserver.url}")
    stores = Stores(settings(fleet.addresses()))
    try:
        entities = list(load_entities(stores.settings.entities).values())
        sensor = api.start_sensor("keep_live")
        _wait(lambda: _is_followed(stores), 90, "the sensor's first run")
        say("the sensor keeps the live delta going")
        observer = Observer(admin_url, fleet.addresses().catalog_url).start()
        with _editing(fleet, plan) as editors:
            history_seconds = _fill_history(api, entities)
            say(f"history of {len(entities)} entities is filled; editors go on")
            editors.until(plan.seconds)
        say(f"the editors stopped: {editors.tally.committed:,} transactions, {editors.tally.rate:.1f}/s")
        catch_up_seconds = _catch_up(entities, stores)
        lag = observer.finish()
        say(f"caught up, a sweep included, {catch_up_seconds:.1f} s after the editors")
        api.stop_sensor(sensor)
        checks = _reconcile(api)
        say("reconciled every row, document and file")
        api.end_runs()
        rows, due = _ledger(stores)
        return Played(
            editors.tally,
            lag,
            history_seconds,
            rows,
            catch_up_seconds,
            checks,
            _moved(fleet, stores, entities),
            due,
            time.monotonic() - began,
        )
    finally:
        stores.close()


class _Editing:
    """Editors at work in a thread of their own."""

    def __init__(self, editors: Editors) -> None:
        self._editors = editors
        self._began = time.monotonic()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="editors")
        self.tally = Tally()
        self._thread.start()

    def until(self, seconds: float) -> None:
        """Let them work until they have worked for so long."""
        self._thread.join(max(0.0, self._began + seconds - time.monotonic()))

    def end(self) -> None:
        """Stop them; raises what went wrong with them."""
        self._editors.halt()
        self._thread.join()
        if self._error:
            raise self._error

    def _run(self) -> None:
        try:
            self.tally = self._editors.run()
        except Exception as error:
            self._error = error


@contextmanager
def _editing(fleet: Fleet, plan: Plan) -> Iterator[_Editing]:
    admin_url = fleet.addresses().monolith.admin_url
    editing = _Editing(
        Editors(admin_url, fleet.objects.client(), LEGACY_BUCKET, plan.rate, max(plan.seconds, _LONGEST_SECONDS))
    )
    try:
        yield editing
    finally:
        editing.end()


def _fill_history(api: DagsterApi, entities: list[Entity]) -> float:
    began = time.monotonic()
    api.wait_backfills([api.backfill(["history", f"{entity.name}_history"]) for entity in entities], _LONGEST_SECONDS)
    return time.monotonic() - began


def _catch_up(entities: list[Entity], stores: Stores) -> float:
    """Wait until the run that follows has brought everything over; seconds it took."""
    began = time.monotonic()
    contexts = [EntityContext.open(entity, stores) for entity in entities]
    since = mark(contexts)
    _wait(lambda: all(caught_up(context, since) for context in contexts), _CATCH_UP_SECONDS, "catching up")
    return time.monotonic() - began


def _reconcile(api: DagsterApi) -> list[dict[str, Any]]:
    run = api.launch("reconcile")
    status = api.wait_run(run, 180)
    if status != "SUCCESS":
        raise DemoError(f"the run of `reconcile` ended as {status}")
    return api.checks(run)


def _is_followed(stores: Stores) -> bool:
    try:
        with stores.target() as cursor:
            cursor.execute("SELECT to_regclass('sync.cursor') IS NOT NULL")
            if not cursor.fetchone()[0]:
                return False
            cursor.execute("SELECT count(*) > 0 AND bool_and(applied_through IS NOT NULL) FROM sync.cursor")
            return bool(cursor.fetchone()[0]) and bool(last_heartbeats(stores))
    except UnreachableError:
        return False


def _ledger(stores: Stores) -> tuple[int, int]:
    """(rows that histories read, keys owed)."""
    with stores.target() as cursor:
        cursor.execute("SELECT coalesce(sum(rows), 0)::bigint FROM sync.backfill")
        rows = int(cursor.fetchone()[0])
        return rows, queue_reads.count_keys(cursor)


def _moved(fleet: Fleet, stores: Stores, entities: list[Entity]) -> dict[str, int]:
    """What the new side holds, by its own count: rows, documents, files and bytes."""
    moved = {"rows": 0, "documents": 0, "files": 0, "bytes": 0}
    with connected(fleet.addresses().catalog_url) as connection, connection.cursor() as cursor:
        for entity in entities:
            cursor.execute(f"SELECT count(*) FROM {entity.table.quoted}")
            moved["rows"] += cursor.fetchall()[0][0]
    for entity in entities:
        for index in indices_of(entity.sinks):
            moved["documents"] += stores.search.count(index=index.alias)["count"]
    pages = fleet.objects.client().get_paginator("list_objects_v2").paginate(Bucket=TARGET_BUCKET)
    for item in (item for page in pages for item in page.get("Contents", [])):
        if item["Key"].endswith(f"/{MARK_OBJECT}"):
            continue
        moved["files"] += 1
        moved["bytes"] += item["Size"]
    return moved


def _wait(met: Callable[[], bool], seconds: float, what: str) -> None:
    limit = time.monotonic() + seconds
    while not met():
        if time.monotonic() > limit:
            raise DemoError(f"{what}: not done after {seconds:.0f} s")
        time.sleep(_POLL_SECONDS)  # the condition is a query, and its server sends no events
