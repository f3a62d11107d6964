"""CPU of a pipeline in which nothing changes: `make bench-idle`, or python -m tests.benchmarks.idle --entities 50.

The follower of the demo's three entities, or of many narrow ones, runs while nobody edits. The benchmark adds up the
CPU time of the follower and of each server over some minutes: first as it is, then with a million copied files in the
ledger, then without them again. The sweep is off, because its cost follows the rows and not the time; what it pays
for the listing of the legacy bucket is measured apart (`--listed`).

The files are rows of `sync.media`, each with one name in `sync.media_ref`, so that nothing is owed. There are no such
objects in the bucket and no such rows in the monolith: nothing lists or reads either of them while the sweep is off.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

import psutil
import psycopg2
import typer

from demo.fleet import LEGACY_BUCKET, Addresses, running
from demo.home import Home
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.files import load_entities
from sync_pipeline.ledger.sweeps import take
from sync_pipeline.run.rewritten_files import compare_listing
from sync_pipeline.settings import Settings
from sync_pipeline.stores.stores import Stores
from tests.benchmarks.ground import Ground
from tests.benchmarks.lag import followed
from tests.command import Command

_CONTENTS = 1_000
_FILES = """
    INSERT INTO sync.media (target_key, source_key, source_etag, size, sha256, target_etag)
    SELECT 'video/idle/' || n, 'idle/' || n, md5(n::text), 100000, md5(n::text) || md5(n::text), md5(n::text)
    FROM generate_series(1, {files}) n;
    INSERT INTO sync.media_ref (entity, key, source_key, target_key)
    SELECT 'video', 'idle ' || n % 100000, 'idle/' || n, 'video/idle/' || n FROM generate_series(1, {files}) n;
"""
# no DELETE: that would queue a million objects to be looked at
_NO_FILES = "TRUNCATE sync.media, sync.media_ref"
_NARROW = """
    CREATE TABLE {name} (id bigint PRIMARY KEY, body text, updated_at timestamptz NOT NULL DEFAULT now());
    INSERT INTO {name} SELECT n, 'body ' || n, now() - interval '1 hour' FROM generate_series(1, 100) n;
    CREATE INDEX ON {name} (updated_at); GRANT SELECT ON {name} TO sync_reader
"""
_ENTITY = """from tests.benchmarks.narrow.narrow import narrow

entity = narrow("{name}")
"""
_AUTOVACUUM = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'"
_WRITERS = 8


def main(
    entities: Annotated[int, typer.Option(help="The demo's 3, or so many narrow ones.")] = 3,
    files: Annotated[int, typer.Option(help="Copied files; 0 leaves that out.")] = 1_000_000,
    seconds: Annotated[float, typer.Option(help="How long each figure is taken.")] = 120.0,
    settle: Annotated[float, typer.Option(help="How long before: an entity becomes idle gradually.")] = 60.0,
    listed: Annotated[int, typer.Option(help="Objects of the legacy bucket to list; 0 leaves that out.")] = 10_000,
) -> None:
    """Measure; servers of their own, removed at the end."""
    with (
        _package(entities) as (package, statements),
        followed("watermark", _CONTENTS, *statements, entities=package) as (at, live),
    ):
        ground = Ground(running(Home(Path(".bench").absolute())))
        _become_idle(at, settle)
        figures = {"idle": _cpu(ground, live, seconds)}
        if files:
            _run(at.catalog_url, _FILES.format(files=files), "VACUUM (FREEZE, ANALYZE) sync.media, sync.media_ref")
            _become_idle(at, settle / 2)
            figures[f"idle, {files:,} files"] = _cpu(ground, live, seconds)
            _run(at.catalog_url, _NO_FILES)
            _become_idle(at, settle / 2)
            figures["idle again"] = _cpu(ground, live, seconds)
        for name, figure in figures.items():
            print(name, json.dumps(figure), flush=True)
        if files:
            print("added, % of a core", json.dumps(_added(list(figures.values()))), flush=True)
        if listed and entities == 3:
            print(f"listing of {listed:,} objects, CPU s", json.dumps(_listing(ground, at, listed)), flush=True)


@contextmanager
def _package(entities: int) -> Iterator[tuple[str, list[str]]]:
    """The package of entities to follow, and the statements that make their tables."""
    if entities == 3:
        yield "tests.caught", []
        return
    names = [f"narrow_{n}" for n in range(entities)]
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "idle_entities"
        package.mkdir()
        (package / "__init__.py").touch()
        for name in names:
            (package / f"{name}.py").write_text(_ENTITY.format(name=name))
        sys.path.insert(0, folder)
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
        yield "idle_entities", [_NARROW.format(name=name) for name in names]


def _become_idle(at: Addresses, seconds: float) -> None:
    """Write what is left to be written, and wait until neither entities nor autovacuum have anything to do."""
    for url in (at.monolith.admin_url, at.catalog_url):
        _run(url, "ANALYZE")
    _run(at.monolith.admin_url, "CHECKPOINT")
    time.sleep(seconds)
    while any(_ask(url, _AUTOVACUUM) for url in (at.monolith.admin_url, at.catalog_url)):
        time.sleep(1)


def _cpu(ground: Ground, live: list[Command], seconds: float) -> dict[str, float]:
    """CPU seconds a minute of the followers and of each server."""
    began, before = time.monotonic(), _used(ground, live)
    time.sleep(seconds)
    minutes = (time.monotonic() - began) / 60
    return {name: round((used - before[name]) / minutes, 2) for name, used in _used(ground, live).items()}


def _used(ground: Ground, live: list[Command]) -> dict[str, float]:
    engine = sum(sum(psutil.Process(command.pid).cpu_times()[:2]) for command in live)
    return {"engine": engine, **ground.cpu_seconds()}


def _added(figures: list[dict[str, float]]) -> dict[str, float]:
    """What the files add to the mean of the figures before and after, in per cent of a core."""
    first, filled, last = figures
    added = {name: (filled[name] - (first[name] + last[name]) / 2) / 60 * 100 for name in filled}
    return {name: round(share, 2) for name, share in {**added, "in all": sum(added.values())}.items()}


def _listing(ground: Ground, at: Addresses, objects: int) -> dict[str, float]:
    """What one sweep pays to compare the listing of the legacy bucket with the ledger."""
    client = ground.fleet.objects.client()
    keys = [f"listed/{n:08}" for n in range(objects)]
    with ThreadPoolExecutor(_WRITERS) as pool:
        put = list(pool.map(lambda key: client.put_object(Bucket=LEGACY_BUCKET, Key=key, Body=b"listed"), keys))
    etag = put[0]["ETag"]
    _run(
        at.catalog_url,
        "INSERT INTO sync.media (target_key, source_key, source_etag, size, sha256, target_etag)"
        f" SELECT 'video/listed/' || n, 'listed/' || lpad(n::text, 8, '0'), '{etag}', 6, '', ''"
        f" FROM generate_series(0, {objects - 1}) n",
        "INSERT INTO sync.media_ref (entity, key, source_key, target_key)"
        " SELECT 'video', source_key, source_key, target_key FROM sync.media WHERE source_key LIKE 'listed/%'",
        "ANALYZE sync.media, sync.media_ref",
    )
    with closing(Stores(Settings.from_env())) as stores:
        context = EntityContext.open(load_entities(stores.settings.entities)["video"], stores)
        walk = take(stores, "video", 1)
        assert walk
        compare_listing(context, "")  # not counted: the first request makes the client
        before, own, after = ground.cpu_seconds(), time.process_time(), ""
        while after is not None:
            page = compare_listing(context, after)
            with stores.target() as cursor:
                queued = page.queue(cursor, context, walk)
            assert not queued, "a file that is as it was copied is queued"
            after = page.until
        own = time.process_time() - own
    client.close()
    used = ground.cpu_seconds()
    return {"engine": round(own, 2), **{name: round(used[name] - before[name], 2) for name in before}}


def _run(url: str, *statements: str) -> None:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        for statement in statements:
            connection.cursor().execute(statement)


def _ask(url: str, statement: str) -> int:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return int(cursor.fetchone()[0])


if __name__ == "__main__":
    typer.run(main)
