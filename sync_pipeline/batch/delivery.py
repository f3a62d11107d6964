"""What outer sinks are owed of a batch: queued in the rows' transaction, sent after it, closed once it is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.db.sql import Cursor
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import IndexFaultError, UnreachableError
from sync_pipeline.ledger import queue_table
from sync_pipeline.ledger.rebuilds import under_way
from sync_pipeline.model.faults import crash_point, guarded
from sync_pipeline.model.reasons import Reason
from sync_pipeline.model.rows import Reject
from sync_pipeline.model.steps import BatchStep
from sync_pipeline.queue import due, parking
from sync_pipeline.sinks.operations import Operations, Sent, join
from sync_pipeline.sinks.outer import OuterSink
from sync_pipeline.sinks.table import before_images


@dataclass(frozen=True)
class Delivery:
    """Operations of a batch for one outer sink, and the records of the queue by which they are owed."""

    sink: OuterSink
    operations: Operations
    owed: list[int] = field(default_factory=list)
    revision: int = 0  # the batch's: an object of a lower version is as it was
    shadow: str = ""  # the name of what a rebuild fills to follow the sink's own, which is sent them first

    def __len__(self) -> int:
        return len(self.operations)

    @classmethod
    def together(cls, deliveries: list[Delivery]) -> Iterator[Delivery]:
        """Join deliveries to one sink, in order, into as few as may be; of a key in several the last one stays."""
        for operations, positions in join([delivery.operations for delivery in deliveries]):
            run = [deliveries[n] for n in positions]
            owed = [record for delivery in run for record in delivery.owed]
            shadow = next((delivery.shadow for delivery in run if delivery.shadow), "")
            yield replace(run[0], operations=operations, owed=owed, shadow=shadow)

    def take(self, positions: Sequence[int]) -> Delivery:
        """Return it with the operations at some positions alone."""
        return replace(self, operations=self.operations.take(positions))

    def without(self, ids: pa.Array) -> Delivery:
        """Return it without some ids (key texts)."""
        if not len(ids):
            return self
        others = pc.invert(pc.is_in(self.operations.ids, value_set=ids))
        return replace(self, operations=self.operations.filter(others))

    def owe(self, cursor: Cursor, entity: str, revision: int) -> Delivery:
        """Queue them, claimed by this worker, in the rows' transaction."""
        owed, shadow = due.owe_delivery(cursor, entity, self.sink.id, self.operations.ids, revision)
        return replace(self, owed=owed, revision=revision, shadow=shadow)

    def note(self, cursor: Cursor, entity: str, refused: int) -> None:
        """Log that the store has answered their request."""
        revisions = self.operations.versions.unique().to_pylist()
        name = self.operations.request_id(entity, self.sink.label)
        values = entity, name, revisions, len(self.operations), refused
        columns = "entity, opaque_id, revisions, documents, refused"
        cursor.defer(f"INSERT INTO sync.request ({columns}) VALUES %s", (values,))


def send(
    context: EntityContext,
    delivery: Delivery,
    pending: Callable[[], set[str]] = set,
    shown: Operations | None = None,
) -> tuple[int, int]:
    """Send and close; returns (sent, left owed). What is not taken stays owed, and nothing is raised for it.

    `pending` tells whose later operations the caller is to send after these. `shown` are those that readers lack; the
    others go only to the shadow that a rebuild fills.
    """
    sink, operations, total = delivery.sink, delivery.operations, len(delivery)
    if not total:
        return 0, 0
    shown = operations if shown is None else shown
    crash_point("documents.before")
    try:
        with sink.breaker(context.stores):
            if delivery.shadow or shown is not operations:
                sent = sink.send_with_shadow(context.of_sinks, operations, shown, delivery.shadow)
            else:
                sent = sink.send(context.of_sinks, operations)
        crash_point("documents.after")
    except UnreachableError as error:
        with context.stores.target() as cursor:
            due.postpone(cursor, delivery.owed, UnreachableError(str(error)))
            if isinstance(error, IndexFaultError):
                due.owe_to(cursor, context.entity.name, sink.id, error.suspects)
        return 0, total
    crash_point("close.before")
    with context.stores.target() as cursor:
        # lost with the server, it is done again: rows need not wait for this one's turn at the disk
        cursor.defer("SET LOCAL synchronous_commit = off")
        answered = replace(delivery, operations=shown)
        refused = _refused(context, cursor, answered, sent)  # locks first, as a batch does
        age = due.age_of(cursor, delivery.owed) if sent.missed or sent.retriable else None
        _close(context, cursor, delivery, pending)
        if sent.missed and under_way(cursor, context.entity.name):
            _again(context, cursor, delivery.take(sent.missed), age, [])
        _again(context, cursor, answered.take(sent.retriable), age, sent.reasons)
        _settle(context, cursor, answered, sent, refused)
    crash_point("close.after")
    return total - len(sent.retriable) - len(sent.rejected), max(len(sent.retriable), len(sent.missed))


def _refused(context: EntityContext, cursor: Cursor, delivery: Delivery, sent: Sent) -> list[Reject]:
    """What the sink does not take as it is still. Nothing of a row that was written, or put back, since."""
    if not sent.rejected:
        return []
    ids = delivery.operations.ids
    those = delivery.operations.take([*sent.rejected])
    context.ledger.hold(cursor, those.keys)
    later = context.origin.key.texts(context.ledger.later_than(cursor, those.keys, those.versions)).to_pylist()
    rejects = [
        Reject(ids[n].as_py(), BatchStep.DOCUMENT, *why, sink=delivery.sink.id) for n, why in sent.rejected.items()
    ]
    return [reject for reject in rejects if reject.key not in later]


def _close(context: EntityContext, cursor: Cursor, delivery: Delivery, pending: Callable[[], set[str]]) -> None:
    if delivery.shadow:
        queue_table.delete(cursor, delivery.owed)
    else:  # it may have been on the way when a rebuild began
        queue_table.delete_sent(cursor, delivery.owed)
    # a delete's tombstone may be gone by the time a late request arrives: what was overtaken is owed again
    operations = delivery.operations
    later = context.origin.key.texts(
        context.ledger.later_than(cursor, operations.keys, operations.versions)
    ).to_pylist()
    later = sorted(set(later) - pending()) if later and guarded(24) else []
    due.owe_to(cursor, context.entity.name, delivery.sink.id, later)


def _settle(context: EntityContext, cursor: Cursor, delivery: Delivery, sent: Sent, rejects: list[Reject]) -> None:
    name, operations = context.entity.name, delivery.operations
    if len(operations):
        delivery.note(cursor, name, len(sent.retriable) + len(sent.rejected))
    due.owe(cursor, name, Reason.OVERTAKEN, sent.overwritten)
    parking.park(cursor, name, rejects, 0, context.stores.settings.retry_limit)
    if context.entity.compensates:
        due.owe(cursor, name, Reason.COMPENSATION, [reject.key for reject in rejects])
        refused = {*sent.superseded, *sent.retriable, *sent.rejected}
        taken = pa.array([n for n in range(len(operations)) if n not in refused], pa.int64())
        before_images.forget(cursor, name, operations.ids.take(taken), operations.versions.take(taken))


def _again(
    context: EntityContext,
    cursor: Cursor,
    delivery: Delivery,
    age: due.Age | None,
    reasons: Sequence[str],
) -> None:
    """Owe what could not be taken now, and note why."""
    if texts := delivery.operations.ids.to_pylist():
        owed = due.owe_to(cursor, context.entity.name, delivery.sink.id, texts)
        due.as_old(cursor, owed, age)
        why = f"{delivery.sink.place.name}: {'; '.join(reasons) or 'busy'}"
        due.postpone(cursor, owed, UnreachableError(why))
