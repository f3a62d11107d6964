"""One round: a world, its writers and followers, the faults at their times, then silence, and the judge."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

import psycopg2
from botocore.exceptions import BotoCoreError

from demo.fleet import Fleet
from sync_pipeline.entities.context import EntityContext
from tests.chaos import judge
from tests.chaos.crew import Crew
from tests.chaos.faults import FAULTS
from tests.chaos.grounds import GROUNDS
from tests.chaos.guarded import Guarded
from tests.chaos.network import Network
from tests.chaos.pairs import paired_fleet
from tests.chaos.plan import COMMITS, Plan, Strike
from tests.chaos.scene import Scene
from tests.installed import made, unmade
from tests.observer import Observer
from tests.oracle import KINDS
from tests.receivers import SETTING
from tests.world import World, wait_for

_PATIENCE = 90
_PREPARED = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"


@dataclass
class Result:
    """What came of a round."""

    plan: Plan
    commits: int = 0
    struck: list[str] = field(default_factory=list)  # faults that did strike
    crash_points: dict[str, int] = field(default_factory=dict)
    details: dict[str, int] = field(default_factory=dict)  # what faults did
    cut_short: dict[str, int] = field(default_factory=dict)  # faults that others kept from striking, or from ending
    ends: dict[int, int] = field(default_factory=dict)  # exit codes of followers and backfills
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)


def play(fleet: Fleet, network: Network, plan: Plan, folder: Path) -> Result:
    """Carry a plan out. Raises what the harness itself fails by; whatever is wrong with the engine is in the result."""
    began = time.monotonic()
    result = Result(plan)
    with staged(fleet, network, plan, folder) as scene:
        _play(scene, result)
        result.details, result.cut_short = dict(scene.done), dict(scene.cut_short)
        result.crash_points, result.ends = dict(scene.crew.died_at), dict(scene.crew.ends)
    result.seconds = time.monotonic() - began
    return result


@contextmanager
def staged(fleet: Fleet, network: Network, plan: Plan, folder: Path) -> Iterator[Scene]:
    """Prepare and fill the scene of a plan. At the end, heal and remove everything."""
    ground = GROUNDS[plan.ground]
    _forget(ground.entities, "tests.caught")
    with ExitStack() as stack:
        own = stack.enter_context(paired_fleet(fleet, network, plan))
        network.renew()
        world = stack.enter_context(ground.opened(own, plan, settings(plan) | {SETTING: network.receiver.url}))
        stack.enter_context(_prepared(world, plan))
        stack.callback(network.heal)
        crew = stack.enter_context(Crew(folder, network.settings(dict(os.environ))))
        yield Scene(plan, world, crew, network)


def settings(plan: Plan) -> dict[str, str]:
    """The engine's, but for where its stores are."""
    return {
        "TEST_CAPTURE": plan.source,
        "SYNC_MARGIN_SECONDS": str(plan.margin),
        "SYNC_SWEEP_SECONDS": "1" if plan.swept else "1e9",
        "SYNC_CHUNK_ROWS": "25",
        "SYNC_CHUNK_BYTES": "200000",
        "SYNC_BRAKE_ROWS": "1000000",
        "SYNC_GARBAGE_GRACE_SECONDS": str(plan.grace_seconds),
    }


@contextmanager
def _prepared(world: World, plan: Plan) -> Iterator[None]:
    """Contents, what the source needs, and history, but for what is filled beside; all gone at the end."""
    contexts = list(world.contexts.values())
    for context in contexts:
        for statement in made(context):
            world.legacy(statement)
        if context.entity.name != plan.filled_beside:
            _filled(world, context)
    world.target("UPDATE sync.cursor SET swept_at = now(), swept_from = now(), compared_from = now()")
    try:
        yield
    finally:
        for (name,) in world.legacy(_PREPARED):
            world.legacy("ROLLBACK PREPARED %s", (name,))
        wait_for(lambda: _taken_away(world, contexts), _PATIENCE)


def _filled(world: World, context: EntityContext) -> None:
    if context.entity.name in KINDS:  # quicker than so many chunks
        world.all_in(context.entity.name)
    else:
        world.filled(context.entity.name)
    world.target("UPDATE sync.cursor SET filled_at = now() WHERE entity = %s", [context.entity.name])


def _forget(*packages: str) -> None:
    """Entities read their source at import."""
    for name in [name for name in sys.modules if name.startswith(tuple(f"{package}." for package in packages))]:
        del sys.modules[name]


def _taken_away(world: World, contexts: list[EntityContext]) -> bool:
    """A slot goes when the server has noticed that its reader is gone."""
    try:
        for context in contexts:
            for statement in unmade(context):
                world.legacy(statement)
    except psycopg2.errors.ObjectInUse:
        return False
    return True


def _play(scene: Scene, result: Result) -> None:
    ground = GROUNDS[scene.plan.ground]
    with ground.observer(scene.world) as observer:
        scene.observer = observer
        with ground.written(scene.world, scene.plan):
            for _ in range(scene.plan.followers):
                scene.crew.follow()
            if scene.plan.filled_beside:
                scene.crew.fill(scene.plan.filled_beside)
            result.struck = _struck(scene)
            wait_for(lambda: ground.commits(scene.world) >= COMMITS, _PATIENCE)
        result.commits = ground.commits(scene.world)
        result.violations = _judged(scene, observer)


def _judged(scene: Scene, observer: Observer) -> list[str]:
    """Settled by one of the followers, or by one that has seen nothing of it."""
    last = scene.crew.follow() if scene.plan.ends_fresh else scene.crew.followers[0]
    # at once: one of them might settle it all before the last one has begun
    hanging = scene.crew.end([worker for worker in scene.crew.followers if worker is not last])
    left = judge.settled(scene)
    hanging += scene.crew.end([last])
    left += [f"{worker.log.name} did not end when asked to" for worker in hanging]
    if last.code:
        left.append(f"{last.log.name} ended with {last.code}: {last.log.read_text()[-1_500:]}")
    return left + judge.violations(scene, observer)


def _struck(scene: Scene) -> list[str]:
    """Carry out all strikes, each in a thread of its own, and wait until all is healed; names of those that struck."""
    struck: list[str] = []
    threads = [Guarded(partial(_strike, scene, one, struck)) for one in scene.plan.strikes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for thread in threads:
        thread.check()
    return struck


def _strike(scene: Scene, one: Strike, struck: list[str]) -> None:
    scene.over.wait(one.at)
    try:
        strike = FAULTS[one.fault].strike(scene, Random(one.seed))
        with scene.steps.step():
            strike.__enter__()
        struck.append(one.fault)
        scene.over.wait(one.lasts)
        with scene.steps.step():
            strike.__exit__(None, None, None)
    except (psycopg2.OperationalError, psycopg2.InterfaceError, BotoCoreError):
        scene.cut_short[one.fault] += 1  # another fault took its server away
