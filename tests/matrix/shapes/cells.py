"""A cell: a shape of tables and a source. Installed under a writer, checked, followed through every kind of change."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pandas as pd

from demo.fleet import Fleet
from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.errors import SyncError
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.preflight.preflight import preflight
from sync_pipeline.run.capture import open_cursor
from sync_pipeline.run.follower import Follower
from sync_pipeline.run.sweep import sweep
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.ddl import apply_steps
from sync_pipeline.sources.table import Table
from tests.claims import ASKS, NO, PARTITION_ATTACHED, YES, claim
from tests.installed import SOURCES, catalogue, install_steps, uninstall_steps
from tests.matrix.matrix import FAILS, HOLDS, REFUSED, Cell, Matrix, Outcome
from tests.matrix.shapes.changes import ROWS, changes_of
from tests.matrix.shapes.shapes import SHAPES, Shape
from tests.matrix.shapes.writers import CONTROL, Watched, writing
from tests.world import World, opened, wait_for

# what a writer may wait longer than one on a table that nobody touches
_SLACK_SECONDS = 0.5
# partitions and their identities are compared with the last look twice a minute, those of an outbox once a minute
_ASKED_SECONDS = 75
_QUERY = """
    SELECT i.id, i.title, (SELECT count(*) FROM part p WHERE p.item_id = i.id) AS parts,
        (SELECT coalesce(sum(p.n), 0)::bigint FROM part p WHERE p.item_id = i.id) AS total
    FROM item i
"""
_COLUMNS = {"id": "bigint", "title": "text", "parts": "bigint", "total": "bigint"}
_SEEN = "SELECT id, title, parts, total FROM catalog.{} ORDER BY 1"


def _adapt(legacy: pd.DataFrame) -> pd.DataFrame:
    return legacy


def entity_of(source: str, n: int) -> Entity:
    """An entity over both tables; several have the same tables and differ in their names."""
    name = f"shaped_{n}" if n else "shaped"
    return Entity(
        name=name,
        owner="team:tests",
        origin=LegacyQuery(_QUERY, key=("id",)),
        tables=(
            Table("item", key=("id",), stamp="updated_at"),
            Table("part", key=("item_id",), stamp="updated_at"),
        ),
        adapt=_adapt,
        sinks=(RelationalTable(f"catalog.{name}", key=("id",), columns=_COLUMNS),),
        partitions=KeyRanges(1),
        capture=SOURCES[source],
    )


def play(shape: Shape, source: str, fleet: Fleet, seed: int) -> Outcome:
    """Install under writers, check, follow, change, take away; the first thing that is wrong is the outcome."""
    settings = {"SYNC_SWEEP_SECONDS": "1e9", "SYNC_MARGIN_SECONDS": "0.2"}
    with opened(fleet, "matrix_shapes", **settings) as world:
        world.legacy(f"{shape.sql} {CONTROL}; GRANT SELECT ON ALL TABLES IN SCHEMA public TO sync_reader")
        world.legacy(ROWS.format(item=shape.leaves.get("item", "item"), part=shape.leaves.get("part", "part")))
        before = catalogue(world)
        contexts = [EntityContext.open(entity_of(source, n), world.stores) for n in range(shape.entities)]
        with writing(world.monolith.admin_url, shape, seed) as watched:
            refusal = _installed(world, contexts)
            threading.Event().wait(1.0)  # writers go on under what was installed
        figures = _figures(watched)
        faults = [*_hurt(watched), *([] if refusal else _untrue(world, shape, source, contexts))]
        faults += _taken_away(world, contexts, before)
        if bool(refusal) != (source in shape.refused_by):
            faults.append(f"refused: {refusal}" if refusal else "it should have been refused")
        if faults:
            return Outcome(FAILS, "; ".join(faults)[:400], figures)
        return Outcome(REFUSED if refusal else HOLDS, refusal[:200], figures)


def _installed(world: World, contexts: list[EntityContext]) -> str:
    """Make what the source needs; why that, or the check afterwards, refuses."""
    try:
        _install(world, contexts)
    except SyncError as error:
        return str(error)
    about = {f"entity {context.entity.name}" for context in contexts}
    notices = preflight(world.stores, [context.entity for context in contexts])
    return "; ".join(n.what for n in notices if n.level == "error" and n.about in about)


def _install(world: World, contexts: list[EntityContext]) -> None:
    for context in contexts:
        apply_steps(world.monolith.admin_url, install_steps(context), lambda _: None)


def _figures(watched: Watched) -> dict[str, str]:
    return {
        "statements": str(watched.writer.written),
        "longest write, s": f"{watched.writer.longest:.2f}",
        "longest control, s": f"{watched.control.longest:.2f}",
    }


def _hurt(watched: Watched) -> Iterator[str]:
    """What the installation did to the writers."""
    if watched.writer.errors:
        yield f"{len(watched.writer.errors)} writes failed: {watched.writer.errors[0]}"
    if watched.waits_above_a_second:
        yield f"a writer waited for a lock for more than a second ({watched.waits_above_a_second} looks)"
    if watched.writer.longest > watched.control.longest + _SLACK_SECONDS:
        yield f"the longest write took {watched.writer.longest:.2f} s"


def _untrue(world: World, shape: Shape, source: str, contexts: list[EntityContext]) -> list[str]:
    """Changes that do not arrive as the table of claims says."""
    for context in contexts:
        open_cursor(context)
        keys = [str(key) for (key,) in world.legacy("SELECT DISTINCT id FROM item")]
        sync_keys(context, context.origin.key.parse(keys), Order())
    world.target("UPDATE sync.cursor SET filled_at = now(), swept_from = now(), swept_at = now()")
    with _following(world, contexts):
        for change in changes_of(shape):
            promise = claim(source, change.kind)
            world.target("UPDATE sync.cursor SET sweep_wanted = NULL")
            world.legacy(change.sql)
            if change.kind == PARTITION_ATTACHED:  # a new partition is born without what the source needs
                _install(world, contexts)
            if faults := [f"{change.sql}: {fault}" for fault in _kept(world, contexts, promise)]:
                return faults  # what comes after it differs as well
    return []


@contextmanager
def _following(world: World, contexts: list[EntityContext]) -> Iterator[None]:
    entities = [context.entity for context in contexts]
    follower, stop = Follower(entities, world.stores), threading.Event()
    thread = threading.Thread(target=follower.run, args=(stop,))
    thread.start()
    try:
        names = [entity.name for entity in entities]
        wait_for(lambda: world.target("SELECT count(*) FROM sync.cursor WHERE owner IS NOT NULL AND entity = ANY(%s)",
                                      [names]) == [(len(names),)])  # fmt: skip
        yield
    finally:
        stop.set()
        thread.join()


def _kept(world: World, contexts: list[EntityContext], promise: str) -> Iterator[str]:
    """Whether a change that was just committed arrives, asks for a sweep, or is left to it."""
    if promise == ASKS and not _soon(partial(_is_sweep_wanted, world), _ASKED_SECONDS):
        yield "no sweep was asked for"
    if promise == YES and not _soon(partial(_is_equal, world, contexts)):
        yield "it did not arrive"
    if promise in {ASKS, NO}:
        for context in contexts:
            sweep(context)
        if not _soon(partial(_is_equal, world, contexts)):
            yield "the sweep did not bring it"


def _is_sweep_wanted(world: World) -> bool:
    return bool(world.target("SELECT 1 FROM sync.cursor WHERE sweep_wanted IS NOT NULL"))


def _is_equal(world: World, contexts: list[EntityContext]) -> bool:
    wanted = world.legacy(f"SELECT id, title, parts, total FROM ({_QUERY}) q ORDER BY 1")
    return all(world.target(_SEEN.format(context.entity.name)) == wanted for context in contexts)


def _soon(condition: object, seconds: float = 15) -> bool:
    limit = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > limit:
            return False
        threading.Event().wait(0.05)
    return True


def _taken_away(world: World, contexts: list[EntityContext], before: list[object]) -> list[str]:
    """What is left behind in the monolith's catalogue."""
    for context in contexts:
        apply_steps(world.monolith.admin_url, uninstall_steps(context), lambda _: None)
    after = catalogue(world)
    return [
        f"left behind: {sorted(set(now) ^ set(then))}" for now, then in zip(after, before, strict=True) if now != then
    ]


def _cells() -> Iterator[Cell]:
    for shape in SHAPES:
        for source in SOURCES:
            yield Cell(f"{shape.name}, {source}", partial(play, shape, source))


SHAPES_BY_SOURCE = Matrix("shapes", "Table shapes by source", tuple(_cells()))
