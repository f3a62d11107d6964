"""Documents of the live delta, sent while the next poll is under way: rows do not wait for the cluster."""

from __future__ import annotations

import logging
import queue
import threading

from sync_pipeline import due
from sync_pipeline.documents import Operations, send
from sync_pipeline.errors import UnreachableError
from sync_pipeline.lane import Lane
from sync_pipeline.pipeline import Outcome, Report

log = logging.getLogger(__name__)

# what more batches bring is left to whoever does what is owed: memory stays bounded while the cluster is slow or down
_BATCHES = 2
_LOOK_SECONDS = 0.1


class Outgoing:
    """A short queue of batches whose rows are committed and whose documents are due, claimed by this process."""

    def __init__(self, lane: Lane, report: Report) -> None:
        self._lane = lane
        self._report = report
        self._queue: queue.Queue[Operations] = queue.Queue(_BATCHES)
        self._error: Exception | None = None

    def take(self, operations: Operations) -> None:
        """Send them soon, or leave them to others. Raises what has stopped the sending."""
        if self._error:
            raise self._error
        if not len(operations.ids):
            return
        try:
            self._queue.put_nowait(operations)
        except queue.Full:
            with self._lane.stores.target() as cursor:
                due.let_go(cursor, operations.owed)

    def run(self, stop: threading.Event) -> None:
        """Send until told to stop, and then what is left."""
        while True:
            try:
                self._send(self._queue.get(timeout=_LOOK_SECONDS))
            except queue.Empty:
                if stop.is_set():
                    return
            except UnreachableError as error:  # they stay due
                log.warning("store unreachable", extra={"entity": self._lane.entity.name, "error": str(error)})
            except Exception as error:
                self._error = error
                return

    def _send(self, operations: Operations) -> None:
        sent, owed = send(self._lane, operations)
        self._report(self._lane.entity.name, Outcome(documents=sent, documents_owed=owed))
