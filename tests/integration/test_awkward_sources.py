"""Each source on the awkward monolith under eight writers, told apart by what it claims; and the oracle itself."""

import pytest

from sync_pipeline.preflight.declarations import check_entity
from sync_pipeline.run.sweep_requests import ask_for_sweep
from tests.awkward.ground import awkward_world, behind, differences, followed, installed
from tests.awkward.writers import Writers
from tests.installed import catalogue
from tests.world import wait_for

# what reports nothing of tables without stamps needs the sweep
SWEPT = {"watermark": True, "outbox": False, "wal": False, "sweep": True}
TRANSACTIONS = 250


@pytest.fixture(params=SWEPT)
def world(fleet, request):
    seconds = "2" if SWEPT[request.param] else "1e9"
    settings = {"SYNC_SWEEP_SECONDS": seconds, "SYNC_MARGIN_SECONDS": "0.2", "SYNC_BRAKE_ROWS": "100000"}
    settings |= {"SYNC_FUTURE_LIMIT_SECONDS": "2"}  # versions whose transactions were rolled back
    with awkward_world(fleet, f"awkward_{request.param}", request.param, rows=120, **settings) as world:
        before = catalogue(world)
        with installed(world):
            faults = [
                notice for context in world.contexts.values() for notice in check_entity(world.stores, context.entity)
            ]
            assert [fault for fault in faults if fault.level != "ok"] == []
            world.backfill()
            yield request.param, world
        assert catalogue(world) == before


def test_under_eight_writers(world):
    source, world = world
    with followed(world):
        with Writers(world, seed=7).at_work() as writers:
            wait_for(lambda: writers.committed > TRANSACTIONS, 60)
        caught_up(world, swept=SWEPT[source])
        assert differences(world) == []
    assert {"(rolled back)", "(late)"} <= writers.tally.keys()
    told = world.target("SELECT min(events_deferred), min(events_dropped) FROM sync.cursor WHERE entity = 'aw_loan'")
    assert all(told[0]) is (source == "outbox"), told
    swept = world.target("SELECT 1 FROM sync.cursor WHERE swept_from IS NOT NULL")
    assert bool(swept) is SWEPT[source]


def caught_up(world, swept):
    """All that is committed by now is done."""
    ((since,),) = world.legacy("SELECT clock_timestamp()")
    for context in world.contexts.values() if swept else ():
        ask_for_sweep(context, since)
    wait_for(lambda: not behind(world, since, swept=swept), 60)
