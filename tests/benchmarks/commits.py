"""Commits a second that an outbox's triggers leave the monolith: `make bench-commits`.

Writers update one row a transaction, each a row of its own, as fast as the monolith commits: without triggers, with
those of `outbox install`, and with those of `outbox install --notify`. The three take turns, because the machine may
be busy with other work as well. No follower runs.
"""

from __future__ import annotations

import shutil
import statistics
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated

import psycopg2
import typer

from demo.environment import variables
from demo.fleet import down, up
from demo.home import Home
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.ledger.ledger import migrate
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.run.capture import subject_of
from sync_pipeline.settings import Settings
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources import outbox_tables
from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.table import Table
from sync_pipeline.stores.stores import Stores
from tests.benchmarks.narrow.narrow import adapt
from tests.installed import flat

_TABLE = """
    CREATE TABLE note (id bigint PRIMARY KEY, title text); GRANT SELECT ON note TO sync_reader;
    INSERT INTO note SELECT n, 'title' FROM generate_series(1, 1000) n
"""
_NOTE = Entity(
    name="note",
    owner="team:benchmarks",
    origin=LegacyQuery("SELECT id, title FROM note", key=("id",)),
    tables=(Table("note", key=("id",)),),
    capture=Outbox(),
    adapt=adapt,
    sinks=(RelationalTable("catalog.note", key=("id",), columns={"id": "bigint", "title": "text"}),),
    partitions=KeyRanges(1),
)
_VARIANTS = {"no trigger": None, "triggers": False, "triggers that notify": True}


def main(
    writers: Annotated[int, typer.Option(help="Sessions that write at the same time.")] = 8,
    seconds: Annotated[float, typer.Option(help="How long each turn takes.")] = 5.0,
    rounds: Annotated[int, typer.Option(help="Turns of each variant.")] = 5,
) -> None:
    """Measure; servers of their own, removed at the end."""
    home = Home(Path(".bench").absolute())
    home.java_flags = ()
    try:
        at = up(home).addresses()
        url = at.monolith.admin_url
        _run(url, _TABLE)
        with closing(Stores(Settings.from_env(variables(at)))) as stores:
            migrate(stores)
            context = EntityContext.open(_NOTE, stores)
            _turn(url, writers, seconds)  # not counted
            found: dict[str, list[float]] = {name: [] for name in _VARIANTS}
            for _ in range(rounds):
                for name, notify in _VARIANTS.items():
                    found[name].append(_with_triggers(context, url, notify, writers, seconds))
        for name, rates in found.items():
            listed = ", ".join(f"{rate:,.0f}" for rate in rates)
            print(f"{name}: median {statistics.median(rates):,.0f} commits/s ({listed})", flush=True)
    finally:
        down(home)
        shutil.rmtree(home.root, ignore_errors=True)


def _with_triggers(context: EntityContext, url: str, notify: bool | None, writers: int, seconds: float) -> float:
    """Commits a second with triggers that notify or do not; without any where `notify` is None."""
    subject, outbox = subject_of(context), Outbox()
    if notify is not None:
        _run(url, *flat(outbox_tables.install(subject, outbox, notify)))
    try:
        return _turn(url, writers, seconds)
    finally:
        _run(url, *flat(outbox_tables.uninstall(subject, outbox)), "VACUUM note")


def _turn(url: str, writers: int, seconds: float) -> float:
    counts, ready = [0] * writers, threading.Barrier(writers)

    def write(n: int) -> None:
        with closing(psycopg2.connect(url)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            ready.wait()
            limit = time.monotonic() + seconds
            while time.monotonic() < limit:
                cursor.execute("UPDATE note SET title = 'title' WHERE id = %s", (n + 1,))
                counts[n] += 1

    threads = [threading.Thread(target=write, args=(n,)) for n in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def _run(url: str, *statements: str) -> None:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        for statement in statements:
            connection.cursor().execute(statement)


if __name__ == "__main__":
    typer.run(main)
