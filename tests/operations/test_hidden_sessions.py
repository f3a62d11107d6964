"""A reader who may not see other sessions' transactions says so, and looks back instead."""

import psycopg2
import pytest

from sync_pipeline.ledger.cursor import Lease
from sync_pipeline.run import live
from sync_pipeline.run.capture import open_cursor, resumed

BLIND = "SELECT blind FROM sync.cursor WHERE entity = 'text'"


@pytest.fixture
def unseeing(world):
    world.legacy("REVOKE pg_read_all_stats FROM sync_reader")
    yield
    world.legacy("GRANT pg_read_all_stats TO sync_reader")


def test_what_a_hidden_transaction_wrote_arrives(world, unseeing):
    world.load(40, 0)
    context = world.context("text")
    open_cursor(context)
    lease = Lease.take(context.stores, "text", "test")
    source = resumed(context)

    def poll():
        live.poll(context, lease, source, lambda *_: None, keep_idle=True)

    ((key,),) = world.legacy("SELECT min(id) FROM content WHERE kind = 'text' AND deleted_at IS NULL")
    late = psycopg2.connect(world.monolith.admin_url)
    late.cursor().execute("UPDATE content SET title = 'late', updated_at = now() WHERE id = %s", (key,))
    # as if it had begun a minute ago: no margin reaches that far
    late.cursor().execute("UPDATE content SET updated_at = now() - interval '60 s' WHERE id = %s", (key,))
    poll()
    assert "sweep" in world.target(BLIND)[0][0]
    late.commit()
    late.close()
    poll()
    lease.give_back(context.stores)
    assert world.target("SELECT header FROM catalog.text WHERE id = %s", (key,)) == [("late",)]
