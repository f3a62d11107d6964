"""What an adapter returns is held against the rows that it was given."""

import pyarrow as pa
import pytest

from sync_pipeline.batch.adapt import adapt
from sync_pipeline.db.columns import DIGEST, ELSEWISE
from sync_pipeline.db.keys import Key
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.sweep_only import SweepOnly
from sync_pipeline.sources.table import Table

KEYS = {
    "bigint": (pa.int64(), [1, 2]),
    "text": (pa.string(), ["a", "b"]),
    "uuid": (pa.string(), ["00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"]),
    "timestamp with time zone": (pa.string(), ["2026-01-01 00:00:00+00", "2026-01-02 00:00:00+00"]),
    "numeric": (pa.string(), ["1.5", "2"]),
}


def entity(kind, adapter):
    return Entity(
        name="thing",
        owner="team:tests",
        origin=LegacyQuery("SELECT id FROM thing", key=("id",)),
        tables=(Table("thing", key=("id",)),),
        adapt=adapter,
        sinks=(RelationalTable("catalog.thing", key=("id",), columns={"id": kind}),),
        partitions=KeyRanges(1),
        capture=SweepOnly(),
    )


def rows(kind):
    arrow, values = KEYS[kind]
    digests, elsewise = pa.array([1, 2], pa.int64()), pa.nulls(2, pa.string())
    return pa.table({"id": pa.array(values, arrow), DIGEST: digests, ELSEWISE: elsewise})


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_rows_whose_key_is_kept_are_taken_and_so_are_none(kind, count):
    adapted, rejects = adapt(entity(kind, lambda legacy: legacy), Key(("id",), (kind,)), rows(kind).slice(0, count))
    assert (adapted.table.num_rows, rejects) == (count, [])


@pytest.mark.parametrize("kind", ["bigint", "text"])
def test_a_key_that_no_row_has_is_rejected_row_by_row(kind):
    adapted, rejects = adapt(entity(kind, lambda legacy: {"id": legacy["id"] * 2}), Key(("id",), (kind,)), rows(kind))
    assert adapted.table.num_rows == 0
    assert [(reject.step, reject.message) for reject in rejects] == [("adapt", "adapt changed the key column 'id'")] * 2
