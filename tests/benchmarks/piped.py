"""The yardstick: binary COPY piped to COPY, with the transform in SQL, into tables like the engine's own."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import psycopg2

from sync_pipeline.entity import Entity

_TRANSFORM = (Path(__file__).parent / "transform.sql").read_text()
_CHUNK_BYTES = 1 << 16


def copy_all(entities: list[Entity], legacy_url: str, target_url: str) -> int:
    """Copy every entity's rows; the number of rows."""
    source, target = psycopg2.connect(legacy_url), psycopg2.connect(target_url)
    try:
        return sum(_copy(entity, source, target) for entity in entities)
    finally:
        source.close()
        target.close()


def _copy(entity: Entity, source, target) -> int:
    columns = ", ".join(entity.table.columns)
    with target.cursor() as into:
        entity.table.ensure(into)
        target.commit()
        reading, writing = os.pipe()
        pump = threading.Thread(target=_pump, args=(source, entity.name, writing))
        pump.start()
        with os.fdopen(reading, "rb", _CHUNK_BYTES) as stream:
            into.copy_expert(f"COPY {entity.table.name} ({columns}) FROM STDIN (FORMAT binary)", stream, _CHUNK_BYTES)
        pump.join()
        target.commit()
        return into.rowcount


def _pump(source, kind: str, writing: int) -> None:
    query = _TRANSFORM.replace("{kind}", f"'{kind}'")
    with os.fdopen(writing, "wb", _CHUNK_BYTES) as stream, source.cursor() as cursor:
        cursor.execute("SET work_mem = '64MB'")
        cursor.copy_expert(f"COPY ({query}) TO STDOUT (FORMAT binary)", stream, _CHUNK_BYTES)
