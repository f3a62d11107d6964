"""A store is away for long, under editors: rows keep flowing, what is owed stays bounded, and all catches up by itself.

SYNC_TEST_OUTAGE_SECONDS makes it as long as one likes.
"""

import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from demo.fleet import down, up
from demo.home import Home
from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.explain.why import why
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.run.live import work
from tests.newsroom import UNSTAMPED, edited, end, follow, leave_out_the_sweep, settle
from tests.sinks import index_of
from tests.world import opened, wait_for

CONTENTS, FILES = 600, 60
SECONDS = float(os.environ.get("SYNC_TEST_OUTAGE_SECONDS", "8"))
# beside the keys of rows, some are under way
SLACK = 200
# what a follower may need beyond what it needs anyway
MEMORY = 150 << 20
OWED = {"search": ("documents",), "objects": ("media",)}
_KEYS = "SELECT coalesce(sum(coalesce(cardinality(keys), 1)), 0), count(*) FROM sync.due WHERE reason = ANY(%s)"


@pytest.fixture(scope="module")
def world(jars, tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("servers"))
    try:
        with opened(up(home), "outages") as world:
            world.load(CONTENTS, FILES)
            leave_out_the_sweep(world)
            for name in world.contexts:
                world.all_in(name)
            yield world
    finally:
        down(home)


@pytest.mark.parametrize("away", ["search", "objects"])
def test_away_for_long(world, tmp_path, away):
    with edited(world, seed=9, without=UNSTAMPED | {"overwrite_file"}) as observer:
        live = follow(tmp_path / "live")
        ((started,),) = world.legacy("SELECT clock_timestamp()")
        wait_for(lambda: flows(world, started), 60)  # by then it has loaded what it works with
        before = resident(live.pid)
        getattr(world.fleet, away).kill()
        most, asked = watched(world, live, away)
        assert resident(live.pid) < before + MEMORY
        server = getattr(world.fleet, away)
        server.start()
        server.wait_healthy()
        wait_for(lambda: not left(world, away), 90)  # by itself, while editors go on
        assert live.alive(), live.tail()
        end(live)
    print(f"{away} away for {SECONDS:.0f} s: at most {most} keys owed, {asked} times asked")
    assert "store left alone" in live.log.read_text()
    assert most > 0
    assert observer.setbacks == []
    settle(world, tmp_path / "settle")
    assert world.differences() == []


def test_what_begins_while_the_cluster_is_away_brings_rows_and_makes_its_index_later(world):
    """As a follower does that is started meanwhile, or a run that replaces another."""
    text = world.contexts["text"].entity
    assert index_of(text)
    sinks = (replace(text.table, name="catalog.late"), replace(index_of(text), alias="late"))
    world.fleet.search.kill()
    context = EntityContext.open(replace(text, name="late", sinks=sinks), world.stores)
    keys = [key for (key,) in world.legacy("SELECT id::text FROM content WHERE kind = 'text' AND deleted_at IS NULL")]
    outcome = sync_keys(context, context.origin.key.parse(keys), Order())
    assert world.target("SELECT count(*) FROM catalog.late") == [(outcome.written,)]
    assert outcome.documents_owed > 0
    assert why(context, keys[0]).as_dict()["sinks"]["search"].startswith("unknown")
    world.fleet.search.start()
    world.fleet.search.wait_healthy()
    wait_for(lambda: all_sent(world, context), 60)
    world.document("POST", "late/_refresh")
    assert world.document("GET", "late/_count")["count"] == outcome.documents_owed


def all_sent(world, context):
    world.hurry()
    work(context, lambda *_: None)
    return not world.target("SELECT 1 FROM sync.due WHERE entity = %s", [context.entity.name])


def watched(world, live, away):
    """The most keys that were owed at a time, while rows flow; how often the store was left alone."""
    most, until = 0, time.monotonic() + SECONDS
    while time.monotonic() < until:
        ((since,),) = world.legacy("SELECT clock_timestamp()")
        wait_for(lambda since=since: flows(world, since), 60)
        ((keys, _),) = world.target(_KEYS, [list(OWED[away])])
        most = max(most, int(keys))
        ((contents,),) = world.legacy("SELECT count(*) FROM content")
        assert keys <= contents + SLACK, "grows with the time, not with the keys"
        assert live.alive(), live.tail()
    return most, len(re.findall("store left alone", live.log.read_text()))


def flows(world, since):
    return not world.target("SELECT 1 FROM sync.cursor WHERE applied_through IS NULL OR applied_through < %s", [since])


def left(world, away):
    return world.target("SELECT 1 FROM sync.due WHERE reason = ANY(%s) AND attempts > 0", [list(OWED[away])])


def resident(pid):
    """Bytes of memory that a process holds."""
    (pages,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(pages) * 1024
