"""What a MediaBucket may say of columns that it fills from files."""

from dataclasses import replace

import pyarrow as pa
import pytest

from sync_pipeline.db.columns import DIGEST, ELSEWISE
from sync_pipeline.errors import DeclarationError
from sync_pipeline.sinks.media import MediaBucket
from tests import clips
from tests.sinks import bucket_of, index_of

TWO = ("cover", "files")


def test_columns_are_named_by_the_files_they_are_of():
    one = MediaBucket(columns=("file",), prefix="p", size="bytes", sha256={"file": "hash"})
    assert one.facts == [("file", "size", "bytes"), ("file", "sha256", "hash")]
    two = MediaBucket(columns=TWO, prefix="p", size={"cover": "cover_bytes"})
    assert two.facts == [("cover", "size", "cover_bytes")]
    assert MediaBucket(columns=TWO, prefix="p").facts == []


@pytest.mark.parametrize(
    ("columns", "said", "message"),
    [
        (TWO, {"size": "bytes"}, "say which, size={'cover': 'bytes'}"),
        (TWO, {"sha256": "hash"}, "say which, sha256={'cover': 'hash'}"),
        (("file",), {"size": {"other": "bytes"}}, "names 'other'"),
    ],
)
def test_what_cannot_be_filled_is_refused(columns, said, message):
    with pytest.raises(DeclarationError) as refused:
        MediaBucket(columns=columns, prefix="p", **said)
    assert message in str(refused.value)


def test_a_column_that_no_sink_declares_is_refused():
    whole = clips.clip()
    with pytest.raises(DeclarationError, match=r"fills 'bytes', which no sink declares"):
        replace(whole, sinks=(whole.table, index_of(whole), replace(bucket_of(whole), size="bytes")))


def test_a_column_that_adapt_returns_too_is_refused():
    from sync_pipeline.batch.adapt import adapt
    from sync_pipeline.db.keys import Key

    whole = clips.clip()
    entity = replace(whole, sinks=(whole.table, index_of(whole), replace(bucket_of(whole), size="slug")))
    legacy = pa.table({**dict.fromkeys(clips.COLUMNS, pa.array([], pa.string())), "id": pa.array([], pa.int64())})
    legacy = legacy.append_column(DIGEST, pa.array([], pa.int64())).append_column(ELSEWISE, pa.array([], pa.string()))
    key = Key(("id",), ("bigint",))
    with pytest.raises(DeclarationError, match=r"adapt returns 'slug', which MediaBucket\(size=…\) fills"):
        adapt(entity, key, legacy)
