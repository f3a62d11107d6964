"""Following from the command line: until caught up, or until interrupted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Mapping

from sync_pipeline.batch.order import Outcome
from sync_pipeline.cli.progress import bars
from sync_pipeline.entities.context import EntityContext, open_contexts
from sync_pipeline.entity import Entity
from sync_pipeline.errors import StoppedError
from sync_pipeline.ledger import queue_reads
from sync_pipeline.operate.drain import Drained, drain
from sync_pipeline.run.background import in_background
from sync_pipeline.run.follower import Follower
from sync_pipeline.run.live import caught_up as has_caught_up
from sync_pipeline.run.live import mark
from sync_pipeline.stores.stores import Stores

_COUNTS = ("keys", "read", "written", "deleted", "parked", "waiting", "documents", "files", "file_bytes")
_LOOK_SECONDS = 0.2


class Totals(dict[str, Outcome]):
    """What was done so far, by entity; threads may add side by side."""

    def __init__(self, entities: Iterable[Entity]) -> None:
        super().__init__({entity.name: Outcome() for entity in entities})
        self._lock = threading.Lock()

    def add(self, entity: str, part: Outcome) -> None:
        """Count an outcome in. What is owed of documents is what the last batches left."""
        with self._lock:
            total = self[entity]
            for field in _COUNTS:
                setattr(total, field, getattr(total, field) + getattr(part, field))
            total.documents_owed = part.documents_owed


def follow(stores: Stores, entities: list[Entity], totals: Totals) -> None:
    """Follow until a signal; that is how it ends. Raises StoppedError naming what could not be followed at the end."""
    stop = threading.Event()
    _on_signals(stop.set)
    follower = Follower(entities, stores, totals.add)
    follower.run(stop)
    if follower.failures:
        raise _stopped(follower.failures)


def caught_up(stores: Stores, entities: list[Entity], totals: Totals) -> bool:
    """Follow until everything committed before now is over and swept; False when interrupted before.

    Raises StoppedError naming entities that something stops; the others have caught up.
    """
    stop, interrupted = threading.Event(), threading.Event()
    left: dict[str, Exception] = {}
    _on_signals(interrupted.set, stop.set)
    contexts, stopped = open_contexts(stores, entities)
    follower = Follower([context.entity for context in contexts], stores, totals.add)
    if not contexts:
        raise _stopped(stopped)
    with bars() as shown:
        level = shown.level("keys")

        def report_progress() -> None:
            done = sum(total.keys for total in totals.values())
            level(done, done + _owed(stores, entities))

        watcher = threading.Thread(target=_watch, args=(contexts, follower, stop, report_progress, left), daemon=True)
        watcher.start()
        follower.run(stop)
        watcher.join()
    if failures := stopped | left | follower.failures:
        raise _stopped(failures)
    return not interrupted.is_set()


def drained(stores: Stores, entities: list[Entity], totals: Totals, seconds: float) -> Drained | None:
    """Follow until everything committed before now, or open now, is over, at most so long; None when interrupted.

    Raises StoppedError naming entities that something stops, or whose history is not in.
    """
    interrupted = threading.Event()
    _on_signals(interrupted.set)
    contexts, stopped = open_contexts(stores, entities)
    if stopped:
        raise _stopped(stopped)
    follower = Follower(entities, stores, totals.add)
    with in_background(follower.run, "follower"):
        found = drain(contexts, seconds, interrupted, follower.failures)
    if follower.failures:
        raise _stopped(follower.failures)
    return None if interrupted.is_set() else found


def _stopped(failures: Mapping[str, Exception]) -> StoppedError:
    return StoppedError(
        *(f"entity {name}: {str(error).removeprefix(f'entity {name}: ')}" for name, error in failures.items())
    )


def _watch(
    contexts: list[EntityContext],
    follower: Follower,
    stop: threading.Event,
    report_progress: Callable[[], None],
    left: dict[str, Exception],
) -> None:
    """Until all have caught up but those that something stops; these are `left`, though they may go on just then."""
    since = mark(contexts)
    while not stop.wait(_LOOK_SECONDS):
        report_progress()
        failures = dict(follower.failures)
        behind = {context.entity.name for context in contexts if not has_caught_up(context, since)}
        if behind <= failures.keys():
            left.update({name: failures[name] for name in behind})
            stop.set()


def _owed(stores: Stores, entities: Iterable[Entity]) -> int:
    with stores.target() as cursor:
        return sum(queue_reads.keys_owed(cursor, entity.name) for entity in entities)


def _on_signals(*acts: Callable[[], None]) -> None:
    """The first signal ends in order; the second one at once."""

    def once(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        for act in acts:
            act()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, once)
