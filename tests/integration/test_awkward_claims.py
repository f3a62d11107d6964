"""Each change of the awkward monolith, on each source: what is claimed arrives without a sweep, the rest by it."""

from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from random import Random

import psycopg2
import pytest

from sync_pipeline.entities.context import EntityContext
from sync_pipeline.ledger.cursor import Lease
from sync_pipeline.model.reasons import PARKED
from sync_pipeline.run import live
from sync_pipeline.run.capture import open_cursor, resumed
from sync_pipeline.run.sweep import sweep
from sync_pipeline.sources import wal
from sync_pipeline.sources.source import Source
from tests.awkward.changes import create_film, shelve
from tests.awkward.desk import Desk
from tests.awkward.ground import awkward_world, caught_by, differences, installed, wanted
from tests.awkward.kinds import KINDS
from tests.awkward.loans import lend, remind
from tests.claims import ASKS, YES, claim
from tests.installed import SOURCES, catalogue

TRIES = 60
_BEHIND = """
    SELECT entity, 'through ' || applied_through FROM sync.cursor WHERE %s <> 'sweep' AND applied_through < %s
    UNION ALL SELECT entity, reason FROM sync.due WHERE reason <> ALL(%s)"""


@dataclass
class Step:
    """One entity's live delta, poll by poll; `written` counts rows and documents."""

    context: EntityContext
    lease: Lease
    source: Source
    written: int = 0

    def poll(self):
        live.poll(self.context, self.lease, self.source, self._count, keep_idle=True)

    def work(self):
        while live.work(self.context, self._count):
            pass

    def _count(self, _, outcome):
        self.written += outcome.written + outcome.deleted + outcome.documents


@dataclass
class Steps:
    """Of all entities, caught in one way."""

    world: object
    source: str
    each: list[Step]

    def catch_up(self):
        """All that is committed by now and reported is done; what waits for another time is done now."""
        ((since,),) = self.world.legacy("SELECT clock_timestamp()")
        for _ in range(TRIES):
            for step in self.each:
                step.poll()
            self.world.hurry()
            for step in self.each:
                step.work()
            left = self.world.target(_BEHIND, [self.source, since, list(PARKED)])
            if not left:
                return
        pytest.fail(f"not done: {left}")

    def sweep(self):
        """Let the sweep find the rest."""
        for step in self.each:
            sweep(step.context)
        self.catch_up()

    @property
    def written(self):
        return sum(step.written for step in self.each)


@pytest.fixture(scope="module")
def world(fleet):
    settings = {"SYNC_MARGIN_SECONDS": "0.2", "SYNC_BRAKE_ROWS": "100000"}
    with awkward_world(fleet, "claims", "sweep", rows=24, **settings) as world, pytest.MonkeyPatch.context() as patch:
        patch.setattr(wal, "_MARK_SECONDS", 0.0)  # each poll tells how far it came
        world.backfill()
        yield world


@pytest.fixture(scope="module", params=SOURCES)
def steps(request, world):
    """All entities caught by a source, which begins as if there had been no other."""
    before = catalogue(world)
    restock(world, request.param)
    caught_by(world, request.param)
    with installed(world), ExitStack() as stack:
        world.target("UPDATE sync.cursor SET state = NULL, source = NULL, gap_at = NULL, sweep_wanted = NULL")
        each = [stack.enter_context(stepping(context)) for context in world.contexts.values()]
        steps = Steps(world, request.param, each)
        steps.sweep()
        assert differences(world) == []
        yield steps
    assert catalogue(world) == before


@contextmanager
def stepping(context):
    open_cursor(context)
    lease = Lease.take(context.stores, context.entity.name, "test")
    with closing(resumed(context)) as source:
        yield Step(context, lease, source)
    lease.give_back(context.stores)


def restock(world, source):
    """What the source before has used up."""
    rng = Random(source)
    with closing(psycopg2.connect(world.monolith.admin_url)) as connection:
        for change in (create_film, shelve, lend, remind) * 8:
            attempt(world, connection, change, rng)


def attempt(world, connection, change, rng):
    """The change once, unless it meets what another one has left."""
    try:
        change(Desk.of(world, connection.cursor(), rng))
        connection.commit()
    except psycopg2.IntegrityError:
        connection.rollback()


def make(world, source, change):
    """The change, again and again until it has changed what is wanted of each entity that it is said to change."""
    before, rng = wanted(world), Random(f"{source} {change.__name__}")
    with closing(psycopg2.connect(world.monolith.admin_url)) as connection:
        for _ in range(TRIES):
            attempt(world, connection, change, rng)
            after = wanted(world)
            changed = {kind for kind in after if after[kind] != before[kind]}
            assert changed <= KINDS[change].keys(), f"it changes {changed}, which KINDS does not say"
            if changed == KINDS[change].keys():
                return
    pytest.fail(f"it changes only {changed} of {[*KINDS[change]]}")


def asked_for_sweep(world, kind):
    return world.target("SELECT sweep_wanted > swept_from FROM sync.cursor WHERE entity = %s", [f"aw_{kind}"]) == [
        (True,)
    ]


def rounds():
    """Changes that go together, as they change different entities; those that change nothing go by themselves."""
    found = [[change for change in KINDS if not KINDS[change]]]
    for change in (change for change in KINDS if KINDS[change]):
        apart = (each for each in found[1:] if not any(KINDS[change].keys() & KINDS[other].keys() for other in each))
        fit = next(apart, None)
        if fit is None:
            found.append(fit := [])
        fit.append(change)
    return found


def name_of(changes):
    return "+".join(change.__name__ for change in changes)


@pytest.mark.parametrize("changes", rounds(), ids=name_of)
def test_what_is_claimed_arrives_and_the_rest_is_swept(world, steps, changes):
    for change in changes:
        make(world, steps.source, change)
    before = steps.written
    steps.catch_up()
    found = differences(world)
    for change in changes:
        for entity in KINDS[change]:
            honest(world, steps.source, change, entity, [each for each in found if each.kind == entity])
    assert {difference.kind for difference in found} <= {entity for change in changes for entity in KINDS[change]}
    if not any(KINDS[change] for change in changes):
        assert steps.written == before
    if found:
        steps.sweep()
        assert differences(world) == []


def honest(world, source, change, entity, wrong):
    """What is claimed is right, what is not is wrong still, and where a sweep is to be asked for it is."""
    kinds = KINDS[change][entity]
    said, what = claim(source, *kinds), f"{change.__name__} is to {entity} {' and '.join(kinds)}: {source}"
    if said == YES:
        assert wrong == [], f"{what} claims it, and lost it"
    else:
        assert wrong, f"{what} does not claim it, and caught it: say so"
        assert (said == ASKS) is asked_for_sweep(world, entity), what
