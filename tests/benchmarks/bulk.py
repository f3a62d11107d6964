"""Elasticsearch alone: what it takes when bodies are ready and nothing else runs."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.batch.adapt import adapt
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity
from sync_pipeline.settings import Settings
from sync_pipeline.sinks.search import bulk
from sync_pipeline.stores.stores import Stores
from tests.sinks import index_of

_ROWS_AN_ENTITY = 50_000


def documents_a_second(entities: list[Entity], environment: dict[str, str]) -> float:
    """Send the first documents of every entity by as many threads as a backfill has."""
    with closing(Stores(Settings.from_env(environment))) as stores:
        bodies = [body for entity in entities for body in _bodies(EntityContext.open(entity, stores))]

        def send(body: tuple[str, bytes, int]) -> int:
            alias, operations, count = body
            answer = stores.search.bulk(operations=operations, index=alias, filter_path="errors")
            assert answer.body == {"errors": False}
            return count

        with ThreadPoolExecutor(stores.settings.backfill_workers) as pool:
            began = time.monotonic()
            return sum(pool.map(send, bodies)) / (time.monotonic() - began)


def _bodies(context: EntityContext) -> list[tuple[str, bytes, int]]:
    index, position, made = index_of(context.entity), None, []
    for _ in range(0, _ROWS_AN_ENTITY, context.stores.settings.chunk_rows):
        rows = context.origin.page(position, None, "true", context.stores.settings.chunk_rows)
        adapted, _ = adapt(context.entity, context.origin.key, rows.table)
        public = adapted.table.filter(pc.equal(adapted.table.column(index.where), True))
        versions = pa.repeat(pa.scalar(1, pa.int64()), public.num_rows)
        ids = context.origin.key.texts(public.select(list(context.entity.table.key)))
        made += [(index.alias, *body) for body in bulk._bodies(ids, versions, index.documents(public))]
        position = rows.last
        if position is None:
            break
    return made
