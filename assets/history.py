"""History: an entity's backfill by partition, as a partitioned asset."""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict

import dagster as dg

from assets.lineage import history_key, history_spec
from assets.observed import observed
from assets.resources import Engine
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity
from sync_pipeline.errors import UnreachableError
from sync_pipeline.ledger.backfills import BackfillRequest
from sync_pipeline.run.backfill import Filled, begin_history, fill_begun
from sync_pipeline.stores.stores import Stores, first_line

Context = dg.AssetExecutionContext | dg.OpExecutionContext

POOL = "history"
_TRIES = 6
_FIRST_PAUSE_SECONDS = 2.0
# of a run's failures in its first words; the rest a click away
_NAMED = 3


def history_asset(entity: Entity) -> dg.AssetsDefinition:
    """All chosen partitions in one run; a partition that fails is told and left, the others go on."""

    @dg.multi_asset(
        name=f"history_{entity.name}",
        specs=[history_spec(entity)],
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=POOL,
    )
    def fill(context: dg.AssetExecutionContext, engine: Engine) -> Iterator[dg.MaterializeResult[None]]:
        with engine.stores(context.run.run_id) as stores:
            failures = fill_partitions(context, EntityContext.open(entity, stores), context.partition_keys)
            _observe(context, stores, entity)
        if failures:
            raise not_filled({f"{entity.name} {partition}": error for partition, error in failures.items()})
        yield from ()  # each partition has been told above, as it was done

    return fill


def fill_partitions(
    context: Context, entity_context: EntityContext, partitions: Iterable[str], *, whole: bool = False
) -> dict[str, Exception]:
    """Fill them, some side by side, and tell each as it is done; what went wrong, by partition.

    A run that Dagster tries again goes on where the first one was.
    """
    partitions = list(dict.fromkeys(partitions))
    run = context.run.root_run_id or context.run.run_id
    begin_history(entity_context, BackfillRequest(partitions, whole, run))
    failures: dict[str, Exception] = {}
    key, stop = history_key(entity_context.entity), threading.Event()
    pool = ThreadPoolExecutor(entity_context.stores.settings.backfill_workers, "history")
    try:
        doing = {pool.submit(_fill, context, entity_context, partition, stop): partition for partition in partitions}
        for done in as_completed(doing):
            partition = doing[done]
            try:
                metadata = done.result()
            except Exception as error:  # whatever a server or an adapter raises: the others go on
                failures[partition] = error
                context.log.error(f"{entity_context.entity.name}, partition {partition}: {first_line(error)}")
                continue
            context.log_event(dg.AssetMaterialization(key, partition=partition, metadata=metadata))
    finally:
        stop.set()  # a run that is terminated waits for one chunk of each, not for all that is left
        pool.shutdown(cancel_futures=True)
    return failures


def not_filled(failures: Mapping[str, Exception]) -> dg.Failure:
    """The error of a run some of whose partitions failed."""
    lines = [f"- {partition}: {first_line(error)}" for partition, error in failures.items()]
    return dg.Failure(
        "\n".join((f"Partitions that are not filled, run them again: {len(failures)}", *lines[:_NAMED])),
        metadata={"partitions": dg.MetadataValue.md("\n".join(lines))},
        allow_retries=False,
    )


def _observe(context: Context, stores: Stores, entity: Entity) -> None:
    """Tell what the sinks hold now; nothing is lost where a store does not answer."""
    try:
        for key, figures in observed(stores, entity).items():
            context.log_event(dg.AssetObservation(key, metadata=figures))
    except UnreachableError as error:
        context.log.warning(str(error))


def _fill(
    context: Context, entity_context: EntityContext, partition: str, stop: threading.Event
) -> dict[str, int | float]:
    """Fill a partition; a store that does not answer is waited for, then the partition goes on where it was."""
    began = time.monotonic()
    pause = _FIRST_PAUSE_SECONDS
    for _ in range(_TRIES - 1):
        try:
            return _metadata(fill_begun(entity_context, partition, stop=stop), time.monotonic() - began)
        except UnreachableError as error:
            context.log.warning(f"{entity_context.entity.name}, partition {partition}: {error}; again in {pause:.0f} s")
            stop.wait(pause)
            pause *= 2
    return _metadata(fill_begun(entity_context, partition, stop=stop), time.monotonic() - began)


def _metadata(filled: Filled, seconds: float) -> dict[str, int | float]:
    counts = {
        name.replace("_", " "): count for name, count in asdict(filled).items() if name not in {"partition", "rows"}
    }
    return {"dagster/partition_row_count": filled.rows, **counts, "seconds": round(seconds, 2)}
