"""What outer sinks are owed of the live delta, sent while the next polls are under way: rows wait for no store."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from sync_pipeline.batch.delivery import Delivery, send
from sync_pipeline.batch.order import Outcome, Report
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import SyncError, UnreachableError
from sync_pipeline.ledger import queue_table
from sync_pipeline.model.unforeseen import describe
from sync_pipeline.run.background import in_background

log = logging.getLogger(__name__)

# what more polls bring is left to whoever does what is owed: memory stays bounded while the cluster is slow or down
_MOST_DOCUMENTS = 10_000
_MOST_BYTES = 64 << 20
# A request costs the cluster more than the documents in it, and readers see none of them before the next refresh.
_PACE_SECONDS = 0.5


class DocumentSender:
    """What one outer sink is owed of batches whose rows are committed, claimed by this process.

    Requests keep a pace; all that gather meanwhile go in the next: a slow cluster gets fewer and larger ones.
    """

    def __init__(self, context: EntityContext, report: Report) -> None:
        self._context = context
        self._report = report
        self._gathered: list[Delivery] = []
        self._changed = threading.Condition()
        self._error: Exception | None = None

    def take(self, delivery: Delivery) -> None:
        """Send it soon, or leave it to others. Raises what has stopped the sending."""
        if not len(delivery):
            return
        with self._changed:
            if self._error:
                raise self._error
            if self._has_room(delivery):
                self._gathered.append(delivery)
                self._changed.notify()
                return
        with self._context.stores.target() as cursor:
            queue_table.unclaim(cursor, delivery.owed)

    def _has_room(self, delivery: Delivery) -> bool:
        """Whether what is gathered stays small with these; one batch always has room, for its memory is in use."""
        batches = [each.operations for each in (*self._gathered, delivery)]
        documents, size = sum(len(batch) for batch in batches), sum(batch.contents.nbytes for batch in batches)
        return documents <= _MOST_DOCUMENTS and (size <= _MOST_BYTES or not self._gathered)

    def run(self, stop: threading.Event) -> None:
        """Send until told to stop, and then what is left."""
        try:
            while batches := self._next(stop):
                for delivery in Delivery.together(batches):
                    self._send(delivery)
                stop.wait(_PACE_SECONDS)
        except Exception as error:
            self._error = error

    def _next(self, stop: threading.Event) -> list[Delivery]:
        """All that gathered; nothing when it is time to end."""
        with self._changed:
            while not self._gathered and not stop.is_set():
                self._changed.wait(0.1)
            batches, self._gathered = self._gathered, []
            return batches

    def _pending(self) -> set[str]:
        with self._changed:
            return {key for each in self._gathered for key in each.operations.ids.to_pylist()}

    def _send(self, delivery: Delivery) -> None:
        try:
            sent, owed = send(self._context, delivery, self._pending)
        except UnreachableError as error:  # they stay due
            log.warning("store unreachable", extra={"entity": self._context.entity.name, "error": str(error)})
            return
        except SyncError:
            raise
        except Exception as error:  # of one object, most likely: whoever does what is due finds which
            name = self._context.entity.name
            log.error("documents left due", extra={"entity": name, "error": describe(error)}, exc_info=error)
            with self._context.stores.target() as cursor:
                queue_table.unclaim(cursor, delivery.owed)
            return
        self._report(self._context.entity.name, Outcome(documents=sent, documents_owed=owed))


class DocumentSenders:
    """A sender for each outer sink of an entity, so that a slow store holds up no other one."""

    def __init__(self, context: EntityContext, report: Report) -> None:
        self._senders = {sink.id: DocumentSender(context, report) for sink in context.entity.outer_sinks}

    def take(self, delivery: Delivery) -> None:
        """Give a delivery to its sink's sender. Raises what has stopped the sending there."""
        self._senders[delivery.sink.id].take(delivery)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Send in the background until the end of the block, and then what is left."""
        with ExitStack() as running:
            for name, sender in self._senders.items():
                running.enter_context(in_background(sender.run, f"documents of {name}"))
            yield
