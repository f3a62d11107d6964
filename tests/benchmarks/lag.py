"""Lag of a source while the monolith changes 1,000 rows a second: python -m tests.benchmarks.lag wal --seconds 120.

In the second half one of the monolith's sessions keeps a transaction open. The sweep is off. Lag is from commit to
commit. What comes first is not counted: a cluster just started is busy with compiling its own code.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

import psycopg2
import typer

from demo.environment import variables
from demo.fleet import LEGACY_BUCKET, Addresses, down, up
from demo.home import Home
from demo.lag import Observer
from demo.load import load
from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.files import load_entities
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.run.capture import open_cursor
from sync_pipeline.settings import Settings
from sync_pipeline.stores.stores import Stores
from tests.command import Command
from tests.installed import made

_ROWS_A_TRANSACTION = 20
_WRITERS = 4
_EDITABLE = "SELECT id FROM content WHERE deleted_at IS NULL AND coalesce(attrs ->> 'duration', '0') ~ '^[0-9]+$'"
_EDIT = """
    WITH edited AS (
        UPDATE content SET title = 'at ' || clock_timestamp(), version = version + 1, updated_at = now()
        WHERE id = ANY(%s) RETURNING id, version)
    INSERT INTO demo.edit_log (content_id, kind, version, deleted) SELECT id, 'edit', version, false FROM edited"""


def main(
    source: Annotated[str, typer.Argument(help="watermark, outbox or wal.")],
    rate: Annotated[int, typer.Option(help="Changed rows a second.")] = 1_000,
    seconds: Annotated[float, typer.Option(help="How long.")] = 120.0,
    warm: Annotated[float, typer.Option(help="How long before that, not counted.")] = 60.0,
    contents: Annotated[int, typer.Option(help="Rows of content.")] = 20_000,
    apart: Annotated[bool, typer.Option(help="Follow each entity in a process of its own.")] = False,
    notify: Annotated[bool, typer.Option(help="Have the outbox's triggers notify.")] = False,
) -> None:
    """Measure; servers of their own, removed at the end."""
    with followed(source, contents, apart=apart, notify=notify) as (at, _):
        edit(at.monolith.admin_url, rate, warm, held=False)
        for name, held in (("", False), ("with a transaction held open", True)):
            observer = Observer(at.monolith.admin_url, at.catalog_url).start()
            edit(at.monolith.admin_url, rate, seconds / 2, held)
            print(name, observer.finish(20).line(), flush=True)
        print("retained bytes", _retained(at.monolith.admin_url))


@contextmanager
def followed(
    source: str,
    contents: int,
    *prepared: str,
    apart: bool = False,
    entities: str = "tests.caught",
    notify: bool = False,
) -> Iterator[tuple[Addresses, list[Command]]]:
    """A filled pipeline that follows by `source`, over a monolith on which the statements `prepared` have run."""
    os.environ["TEST_CAPTURE"] = source
    home = Home(Path(".bench").absolute())
    home.java_flags = ()
    try:
        fleet = up(home)
        at = fleet.addresses()
        own = {"SYNC_ENTITIES": entities, "SYNC_SWEEP_SECONDS": "1e9"}
        os.environ.update({**variables(at), **own})
        load(at.monolith.admin_url, fleet.objects.client(), LEGACY_BUCKET, contents=contents, files=0)
        with closing(Stores(Settings.from_env())) as stores:
            _fill(stores, at.monolith.admin_url, prepared, notify)
            named = load_entities(stores.settings.entities) if apart else ["--all"]
            live = [Command(home.root / f"{name}.log", "sync", name, "--follow") for name in named]
            _wait_followed(stores)
            yield at, live
            for each in live:
                each.interrupt()
            for each in live:
                each.wait()
    finally:
        down(home)
        shutil.rmtree(home.root, ignore_errors=True)


def _wait_followed(stores: Stores) -> None:
    """Until the follower has begun: edits before that would only measure its start."""
    followed = False
    while not followed:
        time.sleep(0.2)
        with stores.target() as cursor:
            cursor.execute("SELECT bool_and(lease_until > now() AND applied_through IS NOT NULL) FROM sync.cursor")
            followed = bool(cursor.fetchone()[0])


def _fill(stores: Stores, admin_url: str, prepared: tuple[str, ...], notify: bool) -> None:
    """All rows are in, and the ledger believes that it was swept."""
    with closing(psycopg2.connect(admin_url)) as connection, connection, connection.cursor() as cursor:
        for statement in prepared:
            cursor.execute(statement)
    for entity in load_entities(stores.settings.entities).values():
        context = EntityContext.open(entity, stores)
        with closing(psycopg2.connect(admin_url)) as connection, connection, connection.cursor() as cursor:
            for statement in made(context, notify=notify):
                cursor.execute(statement)
            cursor.execute("SELECT id::text FROM content WHERE kind = %s", [entity.name])
            keys = [key for (key,) in cursor.fetchall()]
        open_cursor(context)
        if keys:
            sync_keys(context, context.origin.key.parse(keys), Order())
        with stores.target() as cursor:
            cursor.execute("UPDATE sync.cursor SET filled_at = now(), swept_at = now()")


def edit(url: str, rate: int, seconds: float, held: bool) -> None:
    """Change rows at an even rate, with a transaction of somebody else's held open or not."""
    with closing(psycopg2.connect(url)) as holder:
        if held:
            holder.cursor().execute("UPDATE authors SET bio = bio WHERE id = (SELECT min(id) FROM authors)")
        with holder.cursor() as cursor:
            cursor.execute(_EDITABLE)
            ids = [key for (key,) in cursor.fetchall()]
        if not held:
            holder.commit()
        writers = [
            threading.Thread(target=_write, args=(url, ids[n::_WRITERS], rate / _WRITERS, seconds, n))
            for n in range(_WRITERS)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()


def _write(url: str, ids: list[int], rate: float, seconds: float, seed: int) -> None:
    pick, began, done = random.Random(seed), time.monotonic(), 0
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            while time.monotonic() - began < seconds:
                cursor.execute(_EDIT, [pick.sample(ids, _ROWS_A_TRANSACTION)])
                done += _ROWS_A_TRANSACTION
                time.sleep(max(0.0, began + done / rate - time.monotonic()))


def _retained(url: str) -> object:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT slot_name, pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint"
            " FROM pg_replication_slots"
        )
        return cursor.fetchall()


if __name__ == "__main__":
    typer.run(main)
