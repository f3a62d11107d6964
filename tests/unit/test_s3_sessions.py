"""Times in answers of an object store: read quickly, and as botocore reads them."""

from types import SimpleNamespace

import pytest
from botocore.awsrequest import AWSResponse
from botocore.utils import parse_timestamp

from sync_pipeline.stores import s3_sessions
from sync_pipeline.stores.s3_sessions import parse_instant, s3_session

TIMES = [
    "2026-11-29T15:30:00.000Z",
    "2026-11-29T15:30:00Z",
    "2026-11-29T15:30:00.123456Z",
    "2026-11-29T15:30:00+02:00",
    "2026-11-29T15:30:00",
    "20261129T153000Z",
    "Sun, 29 Nov 2026 15:30:00 GMT",
    "1764430200",
    1764430200.5,
]


@pytest.mark.parametrize("value", TIMES)
def test_a_time_is_what_botocore_makes_of_it(value):
    ours, theirs = parse_instant(value), parse_timestamp(value)
    assert (ours, ours.utcoffset()) == (theirs, theirs.utcoffset())


def test_what_is_no_time_is_an_error_as_ever():
    with pytest.raises(ValueError, match="Invalid timestamp"):
        parse_instant("2026-99-99Tat noonZ")


PAGE = b"""<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Contents><Key>a</Key>
<LastModified>2026-11-29T15:30:00.000Z</LastModified></Contents></ListBucketResult>"""


def test_clients_of_a_session_read_times_so(monkeypatch):
    read = []
    monkeypatch.setattr(s3_sessions, "parse_instant", lambda value: read.append(value) or parse_instant(value))
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "eu-west-1"}
    client = s3_session(**keys).client("s3", endpoint_url="http://127.0.0.1:1")
    answer = AWSResponse("", 200, {}, SimpleNamespace(stream=lambda *_, **__: iter([PAGE])))
    client.meta.events.register("before-send.s3.ListObjectsV2", lambda **_: answer)
    (found,) = client.list_objects_v2(Bucket="b")["Contents"]
    assert found["LastModified"] == parse_timestamp(*read)
    client.close()
