"""Elasticsearch alone: what it takes when bodies are ready and nothing else runs."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.adapt import adapt
from sync_pipeline.entity import Entity
from sync_pipeline.lane import Lane
from sync_pipeline.settings import Settings
from sync_pipeline.sinks import search_index
from sync_pipeline.stores import Stores

_ROWS_AN_ENTITY = 50_000


def documents_a_second(entities: list[Entity], environment: dict[str, str]) -> float:
    """Send the first documents of every entity by as many threads as a backfill has."""
    with closing(Stores(Settings.from_env(environment))) as stores:
        bodies = [body for entity in entities for body in _bodies(Lane.open(entity, stores))]

        def send(body: tuple[str, bytes, int]) -> int:
            alias, operations, count = body
            answer = stores.search.bulk(operations=operations, index=alias, filter_path="errors")
            assert answer.body == {"errors": False}
            return count

        with ThreadPoolExecutor(stores.settings.backfill_workers) as pool:
            began = time.monotonic()
            return sum(pool.map(send, bodies)) / (time.monotonic() - began)


def _bodies(lane: Lane) -> list[tuple[str, bytes, int]]:
    index, position, made = lane.entity.index, None, []
    for _ in range(0, _ROWS_AN_ENTITY, lane.stores.settings.chunk_rows):
        rows = lane.origin.page(position, None, "true", lane.stores.settings.chunk_rows)
        adapted, _ = adapt(lane.entity, lane.origin.key, rows.table)
        public = adapted.table.filter(pc.equal(adapted.table.column(index.where), True))
        versions = pa.repeat(pa.scalar(1, pa.int64()), public.num_rows)
        ids = lane.origin.key.texts(public.select(list(lane.entity.table.key)))
        made += [(index.alias, *body) for body in search_index._bodies(ids, versions, index.documents(public))]
        position = rows.last
        if position is None:
            break
    return made
