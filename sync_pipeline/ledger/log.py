"""The log: one row a batch, written with its rows, and one for what is exceptional of a single object.

A batch's row holds, in a compressed Arrow batch, what became of each of its keys, and which revision had looked at the
key before. So an object's story is a chain, read backwards from the ledger, and nothing is indexed by key.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg2
import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.db.sql import Cursor, named
from sync_pipeline.ledger.ledger import KEEP

# key as text; action of the plan; digest, NULL where the row is gone or was refused; what sinks hold; revision before
BODY = pa.schema(
    [
        ("key", pa.string()),
        ("action", pa.int8()),
        ("digest", pa.int64()),
        ("held", pa.int16()),
        ("before", pa.int64()),
    ]
)
# by the form that a batch's row names: bodies of releases before there was a registry of sinks have fewer bits
_FORM = 2
_BODIES = {1: BODY.set(3, pa.field("held", pa.int8())), _FORM: BODY}
_COLUMNS = (
    "entity, revision, basis, cause, worker, position, written, deleted, parked, documents, files, form, rows, size,"
    " body"
)
# the kind of an event that is none of people's: from then on the ledger takes its `digest` for applied
TAKEN_FOR_APPLIED = "digest"
_CODEC = pa.Codec("zstd", compression_level=1)


@dataclass(frozen=True)
class Entry:
    """A batch's row in the log, but for its numbers."""

    entity: str
    revision: int
    basis: int
    cause: str
    worker: str
    position: str
    written: int
    deleted: int
    parked: int
    documents: int
    files: int

    def write(self, cursor: Cursor, body: pa.Table) -> None:
        """Send it along with whatever comes next; `body` is of BODY."""
        packed, size = pack(body)
        values = (*vars(self).values(), _FORM, body.num_rows, size, psycopg2.Binary(packed))
        cursor.defer(f"INSERT INTO sync.batch ({_COLUMNS}) VALUES %s", (values,))


def pack(table: pa.Table) -> tuple[bytes, int]:
    """A table as bytes, and their size before compression; the schema is not in them."""
    (batch,) = table.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], table.schema)]
    plain = batch.serialize()
    return _CODEC.compress(plain, asbytes=True), plain.size


def unpack(body: bytes | memoryview, size: int, schema: pa.Schema) -> pa.Table:
    """The table again."""
    plain = _CODEC.decompress(pa.py_buffer(body), decompressed_size=size)
    return pa.Table.from_batches([pa.ipc.read_record_batch(plain, schema)])


def body_of(body: bytes | memoryview, size: int, form: int) -> pa.Table:
    """What became of each key of a batch (BODY), from the columns of its row in the log."""
    found = unpack(body, size, _BODIES[form]).cast(BODY)
    if form == _FORM:
        return found
    # of a row that was not written they tell what sinks want, and not what is new there
    held = pc.if_else(pc.equal(found.column("action"), KEEP), pa.scalar(0, pa.int16()), found.column("held"))
    return found.set_column(found.column_names.index("held"), "held", held)


def record_events(
    cursor: Cursor, entity: str, kind: str, about: Iterable[tuple[str, str | None, str | None]], revision: int
) -> None:
    """Write down what is exceptional of objects: (key, step, what is to be said of it)."""
    rows = [(entity, key, kind, step, message, revision) for key, step, message in about]
    if rows:
        listed = ", ".join(["%s"] * len(rows))
        cursor.defer(f"INSERT INTO sync.event (entity, key, kind, step, said, revision) VALUES {listed}", rows)


def chain(cursor: Cursor, entity: str, key: str, revision: int) -> Iterator[dict[str, Any]]:
    """What batches did with a key, from the one of `revision` backwards, as far as the log reaches.

    Columns of the log and, as `action`, `digest`, `held`, `before`, what became of the key.
    """
    while revision:
        found = named(
            cursor,
            f"SELECT id, at, {_COLUMNS} FROM sync.batch WHERE (entity, revision) = (%(entity)s, %(revision)s)"
            " ORDER BY id DESC LIMIT 1",
            {"entity": entity, "revision": revision},
        )
        if not found:
            return
        row = found[0]
        body = body_of(row.pop("body"), row.pop("size"), row.pop("form"))
        (became,) = body.filter(pc.equal(body.column("key"), key)).to_pylist()
        yield {**row, **became}
        revision = became["before"]


def time_of(cursor: Cursor, entity: str, revision: int) -> dt.datetime | None:
    """When a batch was written; None where the log does not reach so far."""
    cursor.execute("SELECT min(at) FROM sync.batch WHERE (entity, revision) = (%s, %s)", (entity, revision))
    at: dt.datetime | None = cursor.fetchone()[0]
    return at
