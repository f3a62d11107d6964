"""An entity whose legacy row comes as none, one or several rows here: a work, and its title in each language."""

from contextlib import suppress

import pandas as pd
import psycopg2

from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.sinks.media import MediaBucket
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.table import Table
from tests.hands import at_work

MONOLITH = """
    CREATE TABLE work (id bigint PRIMARY KEY, genre text, updated_at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE TABLE work_title (work_id bigint, lang text, title text, cover text,
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (work_id, lang));
    CREATE INDEX ON work (updated_at); CREATE INDEX ON work_title (updated_at);
    GRANT SELECT ON work, work_title TO sync_reader;
"""
COLUMNS = ("id", "lang", "title", "genre", "cover")


def adapt(legacy: pd.DataFrame) -> pd.DataFrame:
    if legacy["title"].eq("bad").any():
        raise ValueError("a bad title")
    return pd.DataFrame({column: legacy[column] for column in COLUMNS})


TITLE = Entity(
    name="title",
    owner="team:tests",
    origin=LegacyQuery(
        "SELECT t.title, w.id, t.lang, w.genre, t.cover FROM work w JOIN work_title t ON t.work_id = w.id",
        key=("id", "lang"),
        root=("id",),
    ),
    tables=(Table("work", key=("id",), stamp="updated_at"), Table("work_title", key=("work_id",), stamp="updated_at")),
    adapt=adapt,
    sinks=(
        MediaBucket(columns=("cover",), prefix="title"),
        RelationalTable(
            "catalog.title",
            key=("id", "lang"),
            columns={"id": "bigint", "lang": "text", "title": "text", "genre": "text", "cover": "text"},
        ),
        SearchIndex(
            "title", fields={"id": {"type": "long"}, "lang": {"type": "keyword"}, "title": {"type": "keyword"}}
        ),
    ),
    partitions=KeyRanges(2),
    capture=Outbox(),
)

LANGUAGES = ("de", "en", "fr", "it")
FILES = 300
PUT = "INSERT INTO work_title VALUES (%s, %s, %s) ON CONFLICT (work_id, lang) DO UPDATE SET title = excluded.title"


def edit(cursor, dice):
    """A change of any work or title, without a look at the others."""
    cover = f"{dice.randrange(FILES)}.png"
    key, other, lang = dice.randint(1, 30), dice.randint(1, 30), dice.choice(LANGUAGES)
    acts = [
        ("INSERT INTO work VALUES (%s, 'g') ON CONFLICT (id) DO UPDATE SET genre = %s", (key, str(dice.random()))),
        ("DELETE FROM work WHERE id = %s AND random() < 0.3", (key,)),
        ("DELETE FROM work_title WHERE (work_id, lang) = (%s, %s)", (key, lang)),
        ("UPDATE work_title SET work_id = %s WHERE (work_id, lang) = (%s, %s)", (other, key, lang)),
        (PUT, (key, lang, str(dice.random()))),
        (PUT, (other, lang, str(dice.random()))),
        ("UPDATE work_title SET cover = %s WHERE (work_id, lang) = (%s, %s)", (cover, key, lang)),
    ]
    with suppress(psycopg2.errors.UniqueViolation, psycopg2.errors.DeadlockDetected):
        cursor.execute(*dice.choice(acts))


def edited(world):
    return at_work(world.monolith.admin_url, edit)
