"""The live delta: one run follows all entities for a while, and says now and then what it moved.

It says so by observations: a materialization would set the verdict of the last reconciliation aside.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import dagster as dg
from pydantic import Field

from assets.deployment import KEPT, Deployment, location_of
from assets.lineage import column_lineages, sink_keys, sink_specs
from assets.observed import Figures, observed
from assets.resources import Engine
from sync_pipeline.batch.order import Outcome
from sync_pipeline.entities.context import open_contexts
from sync_pipeline.entity import Entity
from sync_pipeline.errors import UnreachableError
from sync_pipeline.run.background import in_background
from sync_pipeline.run.follower import Follower
from sync_pipeline.run.heartbeat import read_workers
from sync_pipeline.run.live import caught_up, mark
from sync_pipeline.stores.stores import Stores

# the first one soon, for whoever looks at a pipeline just started
_FIRST_TELL_SECONDS = 5.0
# each is an event for each sink: they are most of what Dagster stores
_TELL_SECONDS = 600.0
_LOOK_SECONDS = 0.5
# a successor that is on its way is asked for so often, and waited for so long beyond this run's time
_ASK_SECONDS = 3.0
_LONGEST_WAIT_SECONDS = 600.0
_COUNTS = {
    "relational": ("written", "deleted", "parked"),
    "search": ("documents",),
    "media": ("files", "file_bytes"),
}
_COUNTED = [count for counts in _COUNTS.values() for count in counts]


class Live(dg.Config):
    """How long a run follows."""

    minutes: float = Field(0, ge=0, description="Follow for so long; 0: until all that is committed now has arrived.")


class Moved:
    """What moved since it was last told, per entity; many threads add to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: dict[str, Outcome] = {}

    def add(self, entity: str, outcome: Outcome) -> None:
        """Count a batch."""
        with self._lock:
            total = self._outcomes.setdefault(entity, Outcome())
            for count in _COUNTED:
                setattr(total, count, getattr(total, count) + getattr(outcome, count))

    @property
    def names(self) -> set[str]:
        """Entities of which something moved."""
        with self._lock:
            return set(self._outcomes)

    def take(self) -> dict[str, Outcome]:
        """The counts since the last call."""
        with self._lock:
            taken, self._outcomes = self._outcomes, {}
        return taken


def live_asset(entities: dict[str, Entity]) -> dg.AssetsDefinition:
    """All sinks of all entities; a run may be asked for some of them."""

    @dg.multi_asset(
        name="follow", specs=[spec for entity in entities.values() for spec in sink_specs(entity)], can_subset=True
    )
    def live(context: dg.AssetExecutionContext, engine: Engine, config: Live) -> Iterator[dg.MaterializeResult[None]]:
        chosen = [entity for entity in entities.values() if context.selected_asset_keys & {*sink_keys(entity).values()}]
        moved = Moved()
        with engine.stores() as stores:
            follower = Follower(chosen, stores, moved.add, name=context.run.run_id)
            watch = Watch(context, stores, follower, moved)
            with in_background(follower.run, "follower"):
                watch.for_minutes(config.minutes) if config.minutes else watch.until_caught_up()
            failures = follower.failures | watch.left
            if not config.minutes:
                for key, moves, figures in watch.movements(
                    [entity for entity in chosen if entity.name not in failures]
                ):
                    yield dg.MaterializeResult(asset_key=key, metadata={**moves, **watch.lineage(key)})
                    context.log_event(dg.AssetObservation(key, metadata=figures))
        if failures:
            raise _failure(failures)

    return live


@dataclass
class Watch:
    """Looks after a follower, and tells Dagster what it moves."""

    context: dg.AssetExecutionContext
    stores: Stores
    follower: Follower
    moved: Moved
    left: dict[str, Exception] = field(default_factory=dict)  # entities that were not waited for, and why
    _stopped: dict[str, str] = field(default_factory=dict)
    _seen: set[dg.AssetKey] = field(default_factory=set)
    _next_ask: float = 0.0  # when the successor is asked for again, and what was answered
    _waits: bool = False

    def for_minutes(self, minutes: float) -> None:
        """Tell now and then, and once the time is up, what moved."""
        end = time.monotonic() + minutes * 60
        next_time = time.monotonic() + (_FIRST_TELL_SECONDS if self._has_new() else _TELL_SECONDS)
        while time.monotonic() < end or self._awaits_successor(end):
            self._observe_run()
            if time.monotonic() >= next_time:
                self._tell()
                next_time += _TELL_SECONDS
        self._tell()

    def _awaits_successor(self, end: float) -> bool:
        """Whether a successor has been launched that does not beat yet: it may be a pod that needs minutes to start.

        Asked for every few seconds, once the time is up; what cannot be asked for is not waited for.
        """
        now = time.monotonic()
        if now < self._next_ask:
            return self._waits
        self._next_ask = now + _ASK_SECONDS
        self._waits = now < end + _LONGEST_WAIT_SECONDS and self._successor_is_on_its_way()
        return self._waits

    def _successor_is_on_its_way(self) -> bool:
        run = self.context.run
        if not KEPT.items() <= run.tags.items():
            return False  # not the sensor's: started by hand, it ends when it was to end
        try:
            workers = read_workers(self.stores)
            ours = Deployment(location_of(run), workers.ledger).kept_runs(
                self.context.instance, workers.last_heartbeats
            )
        except Exception as error:
            self.context.log.warning(f"a successor could not be looked for: {error}")
            return False
        ids = [record.dagster_run.run_id for record in ours]
        later = ours[: ids.index(run.run_id)] if run.run_id in ids else []
        # one that is queued may wait for this run's place
        pending = [record.dagster_run for record in later if record.dagster_run.status != dg.DagsterRunStatus.QUEUED]
        return bool(pending) and not any(run.run_id in workers.last_heartbeats for run in pending)

    def until_caught_up(self) -> None:
        """Until everything that is committed now has arrived, in all entities that can be followed.

        One that is stopped is left only once all others are through: it is tried again, and may go on by then.
        """
        contexts, self.left = open_contexts(self.stores, self.follower.entities)
        since = mark(contexts) if contexts else None
        while contexts:
            self._observe_run()
            with self._patience():
                contexts = [context for context in contexts if not caught_up(context, since)]
            stopped, behind = dict(self.follower.failures), {context.entity.name for context in contexts}
            if behind <= stopped.keys():
                self.left |= {name: stopped[name] for name in behind}
                return

    def movements(self, entities: list[Entity]) -> Iterator[tuple[dg.AssetKey, Figures, Figures]]:
        """What moved into each sink since it was told last, and what is observed of it."""
        moved = self.moved.take()
        for entity in entities:
            outcome = moved.get(entity.name, Outcome())
            figures: dict[dg.AssetKey, Figures] = {}
            with self._patience():
                figures = observed(self.stores, entity)
            for sink, key in sink_keys(entity).items():
                if key in self.context.selected_asset_keys:
                    moves: Figures = {name.replace("_", " "): getattr(outcome, name) for name in _COUNTS[sink]}
                    yield key, moves, figures.get(key, {})

    def lineage(self, key: dg.AssetKey) -> dict[str, dg.TableColumnLineage]:
        """Of a materialization, the only event whose column lineage Dagster reads."""
        found = {key: lineage for entity in self.follower.entities for key, lineage in column_lineages(entity).items()}
        return {"dagster/column_lineage": found[key]} if key in found else {}

    def _observe_run(self) -> None:
        time.sleep(_LOOK_SECONDS)  # a run of Dagster reports what its follower has done at intervals
        now = {name: str(error) for name, error in self.follower.failures.items()}
        for name in now.keys() - self._stopped.keys():
            self.context.log.error(f"entity {name} stopped, and is tried again: {now[name]}")
        self._stopped = now

    def _tell(self) -> None:
        for key in [key for entity in self.follower.entities for key in self._keys(entity)]:
            if self._is_new(key):
                self.context.log_event(dg.AssetMaterialization(key, metadata=self.lineage(key)))
        moving = [entity for entity in self.follower.entities if entity.name in self.moved.names]
        for key, moves, figures in self.movements(moving):
            self.context.log_event(dg.AssetObservation(key, metadata={**moves, **figures}))

    def _keys(self, entity: Entity) -> list[dg.AssetKey]:
        """The entity's assets that are this run's to tell; none while it cannot be followed.

        In the order in which they are written: what comes to be before what it is made of is called unsynced.
        """
        if entity.name in self.follower.failures:
            return []
        return [key for key in sink_keys(entity).values() if key in self.context.selected_asset_keys]

    def _is_new(self, key: dg.AssetKey) -> bool:
        """The first time that it is followed, an asset comes to be; from then on it is observed.

        At once, not when something moves: it sets aside what checks have said by then.
        """
        if key in self._seen:
            return False
        self._seen.add(key)
        return self.context.instance.get_latest_materialization_event(key) is None

    def _has_new(self) -> bool:
        keys = [key for entity in self.follower.entities for key in self._keys(entity)]
        return any(self.context.instance.get_latest_materialization_event(key) is None for key in keys)

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """The follower itself waits for a store that does not answer; so do its watchers."""
        try:
            yield
        except UnreachableError as error:
            self.context.log.warning(str(error))


def _failure(failures: dict[str, Exception]) -> dg.Failure:
    lines = "\n".join(f"- {name}: {error}" for name, error in failures.items())
    return dg.Failure(
        f"{', '.join(failures)} could not be followed; the other entities went on.",
        metadata={"entities": dg.MetadataValue.md(lines)},
        allow_retries=False,
    )
