"""ALTER TABLE rewrites a table of the monolith while the engine waits to read it: its rows are not taken for gone.

To a snapshot that is older than the rewrite, the table is empty.
"""

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg2
import pyarrow as pa
import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.run.capture import subject_of
from sync_pipeline.sources.roots import pages, track
from sync_pipeline.sources.watermark import stamped_since
from tests.caught._tables import TABLES
from tests.world import opened, wait_for

WAITS = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
BEGINNING = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
# a column that the entity does not read, with another type and its own: both write all rows anew
REWRITES = {"content": ("view_count", "numeric", "bigint"), "authors": ("created_at", "timestamp", "timestamptz")}


@pytest.fixture(scope="module")
def context(fleet):
    with opened(fleet, "rewritten") as world:
        world.load(60, 0)
        yield world, world.all_in("text")


def during_a_rewrite(world, table, read):
    """What is read by somebody who began to wait for the table before its rewrite was committed."""
    name, other, own = REWRITES[table]
    with closing(psycopg2.connect(world.monolith.admin_url)) as connection, ThreadPoolExecutor(1) as reader:
        connection.cursor().execute(f"ALTER TABLE {table} ALTER COLUMN {name} TYPE {other}")
        reading = reader.submit(read)
        wait_for(lambda: world.legacy(WAITS, [table]))
        connection.commit()
        found = reading.result()
    world.legacy(f"ALTER TABLE {table} ALTER COLUMN {name} TYPE {own}")
    return found


@pytest.mark.hazard(51)
@pytest.mark.parametrize("table", REWRITES)
def test_a_batch_leaves_its_rows_as_they_are(context, table):
    world, context = context
    held = "SELECT * FROM catalog.text ORDER BY id"
    before = world.target(held)
    keys = context.origin.key.parse([str(key) for (key,) in world.target("SELECT id FROM catalog.text")])
    during_a_rewrite(world, table, lambda: sync_keys(context, keys, Order()))
    assert world.target(held) == before != []


def referring(context):
    """Roots of all authors, as a source looks them up that was told of these."""
    subject = subject_of(context)
    with context.stores.legacy() as cursor:
        cursor.execute("SELECT array_agg(id::text) FROM authors")
        (authors,) = cursor.fetchone()
        tracked = track(cursor, subject, TABLES[-1])
    found = [page.keys for page in pages(subject, tracked, authors, 1_000)]
    return pa.concat_tables([subject.key.schema.empty_table(), *found])


READS = {
    "page": lambda context: context.origin.page(None, None, "true", 1_000).table,
    "digests": lambda context: context.origin.digests(None, 1_000),
    "stamps": lambda context: pa.concat_tables(stamped_since(subject_of(context), BEGINNING, 1_000)),
    "roots": referring,
}


@pytest.mark.hazard(51)
@pytest.mark.parametrize("read", READS)
def test_all_rows_are_read(context, read):
    world, context = context
    rows = READS[read](context).num_rows
    assert during_a_rewrite(world, "content", lambda: READS[read](context)).num_rows == rows > 0
