"""Writers that go on during an installation, one on the shape's tables and one on a table that nobody touches."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from random import Random

import psycopg2

from tests.matrix.shapes.shapes import Shape

CONTROL = "CREATE TABLE control (id bigint PRIMARY KEY, item_id bigint, n integer)"
_PAUSE_SECONDS = 0.002
_LONG_WAITS = """
    SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE NOT l.granted AND a.application_name = 'matrix writer' AND l.waitstart < now() - interval '1 s'
"""


@dataclass
class Writer(threading.Thread):
    """Commits one statement after the other, and notes the longest and every error."""

    url: str
    statements: Sequence[str]
    seed: int
    written: int = 0
    longest: float = 0.0
    errors: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        random = Random(self.seed)
        with closing(psycopg2.connect(self.url, application_name="matrix writer")) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            while not self.stop.wait(_PAUSE_SECONDS):
                statement = random.choice(self.statements)
                values = {"id": random.randrange(10_000, 10_100), "root": random.randrange(10_000, 10_100)}
                began = time.monotonic()
                try:
                    cursor.execute(statement, values)
                except psycopg2.Error as error:
                    self.errors.append(str(error).strip())
                self.longest = max(self.longest, time.monotonic() - began)
                self.written += 1


@dataclass
class Watched:
    """What was seen of the writers while they went on."""

    writer: Writer
    control: Writer
    waits_above_a_second: int = 0


def statements_of(shape: Shape) -> list[str]:
    """Inserts, updates and deletes of both tables, through the root and through the leaf that the shape names."""
    items, parts = (["item", shape.leaves.get("item", "item")], ["part", shape.leaves.get("part", "part")])
    return [
        *(f"INSERT INTO {t} (id, title) SELECT %(id)s, 'w' WHERE NOT EXISTS (SELECT FROM item WHERE id = %(id)s)"
          for t in items),
        *(f"UPDATE {t} SET title = title || '.', updated_at = now() WHERE id = %(id)s" for t in items),
        *(f"DELETE FROM {t} WHERE id = %(id)s" for t in items),
        *(f"INSERT INTO {t} (id, item_id, n) SELECT %(id)s, %(root)s, 1"
          " WHERE NOT EXISTS (SELECT FROM part WHERE id = %(id)s)" for t in parts),
        *(f"UPDATE {t} SET item_id = %(root)s WHERE id = %(id)s" for t in parts),
        *(f"DELETE FROM {t} WHERE id = %(id)s" for t in parts),
    ]  # fmt: skip


def control_statements() -> list[str]:
    """The same kinds of statements on a table of their own."""
    return [
        "INSERT INTO control VALUES (%(id)s, %(root)s, 1) ON CONFLICT (id) DO NOTHING",
        "UPDATE control SET n = n + 1 WHERE id = %(id)s",
        "DELETE FROM control WHERE id = %(id)s",
    ]


@contextmanager
def writing(url: str, shape: Shape, seed: int) -> Iterator[Watched]:
    """Both writers and a look at their locks, for as long as this lasts."""
    watched = Watched(Writer(url, statements_of(shape), seed), Writer(url, control_statements(), seed))
    looking = threading.Thread(target=_look, args=(url, watched), daemon=True)
    for thread in (watched.writer, watched.control, looking):
        thread.start()
    try:
        yield watched
    finally:
        for writer in (watched.writer, watched.control):
            writer.stop.set()
        for thread in (watched.writer, watched.control, looking):
            thread.join()


def _look(url: str, watched: Watched) -> None:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        while not watched.writer.stop.wait(0.05):
            cursor.execute(_LONG_WAITS)
            watched.waits_above_a_second += cursor.fetchone()[0]
