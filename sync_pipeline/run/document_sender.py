"""Documents of the live delta, sent while the next polls are under way: rows do not wait for the cluster."""

from __future__ import annotations

import logging
import threading

from sync_pipeline.batch.documents import Operations, send
from sync_pipeline.batch.order import Outcome, Report
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import SyncError, UnreachableError
from sync_pipeline.ledger import queue_table
from sync_pipeline.model.unforeseen import describe

log = logging.getLogger(__name__)

# what more polls bring is left to whoever does what is owed: memory stays bounded while the cluster is slow or down
_MOST_DOCUMENTS = 10_000
_MOST_BYTES = 64 << 20
# A request costs the cluster more than the documents in it, and readers see none of them before the next refresh.
_PACE_SECONDS = 0.5


class DocumentSender:
    """Batches whose rows are committed and whose documents are due, claimed by this process.

    Requests keep a pace; all that gather meanwhile go in the next: a slow cluster gets fewer and larger ones.
    """

    def __init__(self, context: EntityContext, report: Report) -> None:
        self._context = context
        self._report = report
        self._gathered: list[Operations] = []
        self._changed = threading.Condition()
        self._error: Exception | None = None

    def take(self, operations: Operations) -> None:
        """Send them soon, or leave them to others. Raises what has stopped the sending."""
        if not len(operations.ids):
            return
        with self._changed:
            if self._error:
                raise self._error
            if self._has_room(operations):
                self._gathered.append(operations)
                self._changed.notify()
                return
        with self._context.stores.target() as cursor:
            queue_table.unclaim(cursor, operations.owed)

    def _has_room(self, operations: Operations) -> bool:
        """Whether what is gathered stays small with these; one batch always has room, for its memory is in use."""
        batches = [*self._gathered, operations]
        documents, size = sum(len(batch.ids) for batch in batches), sum(batch.contents.nbytes for batch in batches)
        return documents <= _MOST_DOCUMENTS and (size <= _MOST_BYTES or not self._gathered)

    def run(self, stop: threading.Event) -> None:
        """Send until told to stop, and then what is left."""
        try:
            while batches := self._next(stop):
                for operations in Operations.together(batches):
                    self._send(operations)
                stop.wait(_PACE_SECONDS)
        except Exception as error:
            self._error = error

    def _next(self, stop: threading.Event) -> list[Operations]:
        """All that gathered; nothing when it is time to end."""
        with self._changed:
            while not self._gathered and not stop.is_set():
                self._changed.wait(0.1)
            batches, self._gathered = self._gathered, []
            return batches

    def _pending(self) -> set[str]:
        with self._changed:
            return {key for batch in self._gathered for key in batch.ids.to_pylist()}

    def _send(self, operations: Operations) -> None:
        try:
            sent, owed = send(self._context, operations, self._pending)
        except UnreachableError as error:  # they stay due
            log.warning("store unreachable", extra={"entity": self._context.entity.name, "error": str(error)})
            return
        except SyncError:
            raise
        except Exception as error:  # of one object, most likely: whoever does what is due finds which
            name = self._context.entity.name
            log.error("documents left due", extra={"entity": name, "error": describe(error)}, exc_info=error)
            with self._context.stores.target() as cursor:
                queue_table.unclaim(cursor, operations.owed)
            return
        self._report(self._context.entity.name, Outcome(documents=sent, documents_owed=owed))
