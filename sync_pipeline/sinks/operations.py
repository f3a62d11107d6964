"""What an outer sink is sent, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Operations:
    """Objects to write or delete, one a key; all columns are of one length.

    For example: key 7 is written as revision 12 had it, and key 8, whose row is gone since revision 13, is deleted.
    """

    keys: pa.Table  # the columns of the entity's key
    ids: pa.Array  # string: the keys as texts
    versions: pa.Array  # int64: the revision that wrote each
    contents: pa.Table  # the sink's columns of adapted rows; NULL where an object is deleted
    written: pa.Array  # bool: true to write, false to delete

    def __len__(self) -> int:
        return len(self.ids)

    def filter(self, mask: pa.Array) -> Operations:
        """Return those where a mask is true."""
        return self.take(pc.indices_nonzero(mask))

    def take(self, positions: pa.Array | Sequence[int]) -> Operations:
        """Return those at some positions, in that order."""
        at = positions if isinstance(positions, pa.Array) else pa.array(positions, pa.int64())
        return Operations(*(part.take(at) for part in self._parts))

    def request_id(self, entity: str, label: str) -> str:
        """Return the id by which a store's own logs name a request with them, such as `sync/clip/12-13`."""
        found = pc.min_max(self.versions)
        low, high = found["min"].as_py(), found["max"].as_py()
        named = f"{entity}/{label}" if label else entity
        return f"sync/{named}/{low}" if low == high else f"sync/{named}/{low}-{high}"

    @property
    def _parts(self) -> tuple[pa.Table | pa.Array, ...]:
        return self.keys, self.ids, self.versions, self.contents, self.written


def join(batches: Sequence[Operations]) -> Iterator[tuple[Operations, list[int]]]:
    """Join neighbours where the types of their columns allow it; of a key in several, the last operation stays.

    Yields joined operations with the positions of the batches that are in them.
    """
    for positions in _alike(batches):
        run = [batches[n] for n in positions]
        if len(run) == 1:
            yield run[0], positions
            continue
        keys = pa.concat_tables([batch.keys for batch in run])
        ids, versions, written = (
            pa.chunked_array([getattr(batch, part) for batch in run]).combine_chunks()
            for part in ("ids", "versions", "written")
        )
        contents = pa.concat_tables([batch.contents for batch in run], promote_options="default")
        yield Operations(keys, ids, versions, contents, written).take(_last_of_each(ids)), positions


def _alike(batches: Sequence[Operations]) -> Iterator[list[int]]:
    """Neighbours whose columns are of the same types; a column that holds nothing is of any."""
    run: list[int] = []
    types: dict[str, pa.DataType] = {}
    for n, batch in enumerate(batches):
        own = {field.name: field.type for field in batch.contents.schema if not pa.types.is_null(field.type)}
        if run and any(types.get(name, kind) != kind for name, kind in own.items()):
            yield run
            run, types = [], {}
        run.append(n)
        types |= own
    yield run


def _last_of_each(ids: pa.Array) -> pa.Array:
    """Where each id stands last, in order."""
    rows = pa.table({"id": ids, "row": pa.array(range(len(ids)))})
    last = rows.group_by("id").aggregate([("row", "max")]).column("row_max").combine_chunks()
    return last.take(pc.sort_indices(last))


@dataclass(frozen=True)
class Sent:
    """What became of operations that were not simply taken, by their positions.

    For example: `rejected={2: ("BadTitle", "title is empty")}` makes the third one a dead letter.
    """

    retriable: Sequence[int] = ()  # not taken now; sent again later
    rejected: Mapping[int, tuple[str, str]] = field(default_factory=dict)  # (name of the error, message), for good
    superseded: Sequence[int] = ()  # the sink holds a later version
    overwritten: Sequence[str] = ()  # ids that another program has written or deleted since: read and written again
    missed: Sequence[int] = ()  # taken, but not by the shadow that a rebuild fills
    reasons: Sequence[str] = ()  # why some are retriable
