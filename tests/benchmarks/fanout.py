"""A parent of very many roots is renamed under editors: python -m tests.benchmarks.fanout wal --roots 50000.

Prints the lag of the editors' own changes before and meanwhile, how long the fan-out took, and the peak memory of who
follows. The sweep is off.
"""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated

import psycopg2
import typer

from demo.lag import Observer
from tests.benchmarks.lag import edit, followed

_NAME = "UPDATE authors SET name = 'the parent' WHERE id = (SELECT min(id) FROM authors)"
_REFER = """
    UPDATE content SET author_id = (SELECT min(id) FROM authors)
    WHERE id IN (SELECT id FROM content WHERE deleted_at IS NULL ORDER BY id LIMIT {roots})"""
_RENAME = "UPDATE authors SET name = 'renamed' WHERE id = (SELECT min(id) FROM authors)"
_AUTHORS = """
    SELECT count(*) FROM (SELECT author FROM catalog.text UNION ALL SELECT author FROM catalog.video
                          UNION ALL SELECT author FROM catalog.audio) a WHERE author = '{}'"""
_GIVE_UP_SECONDS = 900.0


def main(
    source: Annotated[str, typer.Argument(help="outbox or wal.")],
    roots: Annotated[int, typer.Option(help="Rows that refer to the parent.")] = 50_000,
    rate: Annotated[int, typer.Option(help="Rows that editors change a second.")] = 50,
    seconds: Annotated[float, typer.Option(help="Of edits before the rename.")] = 15.0,
) -> None:
    """Measure; servers of their own, removed at the end."""
    with followed(source, int(roots * 1.3), _NAME, _REFER.format(roots=roots)) as (at, (live,)):
        legacy, catalog = at.monolith.admin_url, at.catalog_url
        expected = _one(catalog, _AUTHORS.format("the parent"))
        print("peak MB before", _peak(live.pid))
        observer = Observer(legacy, catalog).start()
        edit(legacy, rate, seconds, False)
        print("before", observer.finish(20).line(), flush=True)
        observer = Observer(legacy, catalog).start()
        took = _spread(legacy, catalog, expected, rate)
        print("meanwhile", observer.finish(20).line())
        print(f"{expected} roots in {took:.0f} s, {expected / took:.0f} a second; peak MB {_peak(live.pid)}")


def _spread(legacy: str, catalog: str, expected: int, rate: int) -> float:
    """Rename, and edit until all roots show it; seconds."""
    began, done = time.monotonic(), threading.Event()
    editor = threading.Thread(target=_edit_until, args=(legacy, rate, done))
    editor.start()
    try:
        with closing(psycopg2.connect(legacy)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(_RENAME)
        while _one(catalog, _AUTHORS.format("renamed")) < expected:
            if time.monotonic() - began > _GIVE_UP_SECONDS:
                raise TimeoutError(
                    f"{_one(catalog, _AUTHORS.format('renamed'))} of {expected} roots after {_GIVE_UP_SECONDS:.0f} s"
                )
            time.sleep(1)
        return time.monotonic() - began
    finally:
        done.set()
        editor.join()


def _edit_until(url: str, rate: int, done: threading.Event) -> None:
    while not done.is_set():
        edit(url, rate, 2.0, False)


def _one(url: str, query: str) -> int:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return int(cursor.fetchone()[0])


def _peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


if __name__ == "__main__":
    typer.run(main)
