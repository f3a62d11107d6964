"""An entity whose parts have an id of their own, by which the new table identifies them: a film and its posters."""

import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest

from sync_pipeline import pipeline
from sync_pipeline.batch.order import Order
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.pipeline import sync_roots
from sync_pipeline.sinks.media import MediaBucket
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.table import Table
from tests.hands import at_work

# `also` is a second film of a poster: the query gives the poster twice then, as a query that is wrong does
MONOLITH = """
    CREATE TABLE film (id bigint PRIMARY KEY, title text);
    CREATE TABLE poster (id bigint PRIMARY KEY, film_id bigint, title text, file text, also bigint);
    CREATE INDEX ON poster (film_id);
    GRANT SELECT ON film, poster TO sync_reader;
    INSERT INTO film SELECT n, 'film ' || n FROM generate_series(1, 9) n;
"""
COLUMNS = {"film_id": "bigint", "id": "bigint", "title": "text", "film": "text", "file": "text"}
FILMS, POSTERS, FILES = 9, 40, 20


def adapt(legacy: pd.DataFrame) -> pd.DataFrame:
    if legacy["title"].eq("bad").any():
        raise ValueError("a bad title")
    return legacy[[*COLUMNS]]


POSTER = Entity(
    name="poster",
    owner="team:tests",
    origin=LegacyQuery(
        "SELECT f.id AS film_id, p.id, p.title, f.title AS film, p.file FROM poster p"
        " JOIN film f ON f.id IN (p.film_id, p.also)",
        key=("film_id", "id"),
        root=("film_id",),
    ),
    tables=(Table("film", key=("id",)), Table("poster", key=("film_id",))),
    adapt=adapt,
    sinks=(
        MediaBucket(columns=("file",), prefix="poster"),
        RelationalTable("catalog.poster", key=("film_id", "id"), columns=COLUMNS, primary_key=("id",)),
        SearchIndex(
            "poster", fields={"film_id": {"type": "long"}, "id": {"type": "long"}, "title": {"type": "keyword"}}
        ),
    ),
    partitions=KeyRanges(3),
    capture=Outbox(),
)
# the same, and nothing beside its rows
PLAIN = replace(
    POSTER,
    name="plain",
    sinks=(RelationalTable("catalog.plain", key=("film_id", "id"), columns=COLUMNS, primary_key=("id",)),),
)

# the same with documents that the index may refuse
UNDONE = replace(
    POSTER,
    name="undone",
    on_refused="compensate",
    sinks=(
        RelationalTable("catalog.undone", key=("film_id", "id"), columns=COLUMNS, primary_key=("id",)),
        SearchIndex("undone", fields={"id": {"type": "long"}, "title": {"type": "long"}}),
    ),
)


def put(world, film, poster, title="as it was"):
    """A poster of this film, wherever it was before."""
    world.legacy(
        "INSERT INTO poster VALUES (%s, %s, %s) ON CONFLICT (id) DO UPDATE SET film_id = excluded.film_id,"
        " title = excluded.title",
        [poster, film, title],
    )


def see(context, *films, order=None):
    """The films' events are applied, in one batch."""
    return sync_roots(context, context.origin.root.parse(map(str, films)), order or Order(acknowledge=True))


class Held:
    """A batch in a thread of its own, which stops before one of its steps until it is let go; see `stopping`."""

    def __init__(self, run, step):
        self.run, self.step = run, step
        self._has_read, self._go_on, self.error = threading.Event(), threading.Event(), None
        self._thread = threading.Thread(target=self._work)
        self._thread.start()
        assert self._has_read.wait(60)

    def _work(self):
        _held.batch = self
        try:
            self.run()
        except BaseException as error:
            self.error = error
        finally:
            self._has_read.set()

    def stop(self, step):
        if step == self.step:
            self._has_read.set()
            assert self._go_on.wait(60)

    def go_on(self):
        self._go_on.set()

    def let_go(self):
        self.go_on()
        self._thread.join()
        if self.error:
            raise self.error


_held = threading.local()
STEPS = ("prepare", "write")


@contextmanager
def stopping():
    """Batches of `Held` stop: before they look into the ledger (`prepare`), or before they write (`write`)."""
    with pytest.MonkeyPatch.context() as patch:
        for step in STEPS:
            patch.setattr(pipeline, step, partial(_stopped, step, getattr(pipeline, step)))
        yield


def _stopped(step, go_on, *arguments):
    if batch := getattr(_held, "batch", None):
        batch.stop(step)
    return go_on(*arguments)


def edit(cursor, dice):
    """A poster comes, changes, moves or goes; two exchange their films; a film comes or goes."""
    film, poster, other = dice.randint(1, FILMS), dice.randint(1, POSTERS), dice.randint(1, POSTERS)
    acts = [
        (
            "INSERT INTO poster VALUES (%s, %s, %s, %s) ON CONFLICT (id) DO UPDATE SET film_id = excluded.film_id,"
            " title = excluded.title",
            (poster, film, str(dice.random()), f"{dice.randrange(FILES)}.png"),
        ),
        ("UPDATE poster SET film_id = %s WHERE id = %s", (film, poster)),
        ("UPDATE poster SET title = %s WHERE id = %s", (str(dice.random()), poster)),
        ("DELETE FROM poster WHERE id = %s AND random() < 0.4", (poster,)),
        (
            "UPDATE poster p SET film_id = o.film_id FROM poster o WHERE p.id IN (%(a)s, %(b)s)"
            " AND o.id IN (%(a)s, %(b)s) AND o.id <> p.id",
            {"a": poster, "b": other},
        ),
        ("INSERT INTO film VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET title = excluded.title", (film, str(poster))),
        ("DELETE FROM film WHERE id = %s AND random() < 0.2", (film,)),
    ]
    cursor.execute(*dice.choice(acts))


def edited(world):
    return at_work(world.monolith.admin_url, edit)
