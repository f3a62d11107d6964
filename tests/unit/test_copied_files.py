"""Files on their way: what they bear beside their bytes, in one piece and in parts."""

import datetime as dt
import io
from types import SimpleNamespace

import pytest
from boto3 import Session
from botocore.exceptions import ClientError

from sync_pipeline.errors import MediaMissingError, MediaRefusedError
from sync_pipeline.model.files import Source
from sync_pipeline.sinks.media import MediaBucket, copy
from sync_pipeline.sinks.media import compare as files
from sync_pipeline.sinks.media.faults import SideError
from sync_pipeline.sinks.media.headers import headers_of
from sync_pipeline.stores.media_answers import MediaAnswers

TAGS = [{"Key": "rights", "Value": "a&b"}, {"Key": "kind", "Value": "cover"}]
BORNE = {"ContentType": "image/png", "CacheControl": "no-store", "Metadata": {"author": "somebody"}}


class Legacy:
    """A bucket with one object of three bytes, which may promise more."""

    def __init__(self, length=3):
        self.length = length

    def get_object(self, **_):
        return {"Body": io.BytesIO(b"abc"), "ContentLength": self.length, "TagCount": len(TAGS), **BORNE}

    def get_object_tagging(self, **_):
        return {"TagSet": TAGS}


class New:
    """A bucket that notes what an object is put with."""

    def __init__(self):
        self.borne = {}

    def put_object(self, Body, **put):  # noqa: N803 - the client's word
        self.borne = put
        return {"ETag": "e"}

    def upload_fileobj(self, body, bucket, key, ExtraArgs, Config):  # noqa: N803
        self.borne = ExtraArgs
        body.read()

    def head_object(self, **_):
        return {"ContentLength": 3, "ETag": "e-1"}


@pytest.mark.hazard(29)
@pytest.mark.parametrize("multipart_bytes", [10, 1])
def test_a_copy_bears_tags_type_and_metadata(multipart_bytes):
    """A copy in parts takes none of them along by itself."""
    bucket, new = SimpleNamespace(name="bucket"), New()
    settings = SimpleNamespace(legacy_bucket=bucket, target_bucket=bucket, multipart_bytes=multipart_bytes)
    stores = SimpleNamespace(settings=settings, legacy_s3=Legacy(), target_s3=new, media_answers=MediaAnswers())
    copy.stream(stores, Source("a", "e"), "new/a")
    wanted = {**BORNE, "Tagging": "kind=cover&rights=a%26b"}
    assert {name: new.borne.get(name) for name in wanted} == wanted


class Tagged:
    """A bucket whose objects bear these tags."""

    def __init__(self, tags):
        self.tags = tags

    def head_object(self, **_):
        return {"ETag": "e", "TagCount": len(self.tags), **BORNE} if self.tags else {"ETag": "e", **BORNE}

    def get_object_tagging(self, **_):
        return {"TagSet": self.tags}


@pytest.mark.hazard(29)
@pytest.mark.parametrize(
    ("there", "said"),
    [(TAGS[::-1], None), ([], "tags"), (TAGS[:1], "tags"), ([TAGS[0], {"Key": "kind", "Value": "still"}], "tags")],
)
def test_other_tags_are_another_file(there, said):
    bucket = SimpleNamespace(name="bucket")
    settings = SimpleNamespace(legacy_bucket=bucket, target_bucket=bucket)
    stores = SimpleNamespace(settings=settings, legacy_s3=Tagged(TAGS), target_s3=Tagged(there))
    found = files._compare_copy(stores, "media", files._Copy("new/a", "a", "e", 3, "e", ""), (3, "e"))
    assert (found and found.detail) == (said and f"{said} of the source differ")


@pytest.fixture
def client():
    """One that checks what it is told, and reaches nobody."""
    made = Session("a", "b", region_name="us-east-1").client("s3", endpoint_url="http://127.0.0.1:9")
    yield made
    made.close()


def test_a_file_that_is_archived_is_at_fault_and_not_the_bucket(client):
    def archived(**_):
        raise ClientError({"Error": {"Code": "InvalidObjectState"}}, "GetObject")

    (outcome,) = copied(SimpleNamespace(get_object=archived), client)
    assert isinstance(outcome, MediaMissingError)
    assert "restore it" in str(outcome)


def test_metadata_that_no_client_puts_is_at_fault_and_not_the_bucket(client):
    """Some servers give as they are bytes that S3 itself would not have taken."""
    legacy = Legacy()
    found = legacy.get_object() | {"Metadata": {"author": "Zo\u00eb"}, "TagCount": 0}
    legacy.get_object = lambda **_: found
    (outcome,) = copied(legacy, client)
    assert isinstance(outcome, MediaRefusedError)
    assert "Non ascii characters" in str(outcome)


def copied(legacy, new):
    bucket = SimpleNamespace(name="bucket")
    settings = SimpleNamespace(legacy_bucket=bucket, target_bucket=bucket, multipart_bytes=10, media_workers=1)
    stores = SimpleNamespace(settings=settings, legacy_s3=legacy, target_s3=new, media_answers=MediaAnswers())
    return MediaBucket(columns=("cover",), prefix="text").copy(stores, [Source("a.png", "e")])


@pytest.mark.hazard(33)
def test_names_that_differ_in_how_an_accent_is_composed_have_copies_of_their_own():
    composed, decomposed = (Source(key, '"the same bytes"') for key in ("caf\u00e9.jpg", "cafe\u0301.jpg"))
    sink = MediaBucket(columns=("cover",), prefix="text")
    assert sink.target_key(composed) != sink.target_key(decomposed)


@pytest.mark.parametrize("length", [1, 8 << 20, 80 << 30, 5 << 40])
def test_ten_thousand_parts_are_enough_for_any_object(length):
    part = copy.part_bytes(length, 8 << 20)
    assert length / part <= 10_000
    assert 8 << 20 <= part <= 5 << 30


def test_the_length_that_is_promised_decides_on_the_parts():
    """The uploader sees a stream and no size: left to itself, it ends after the ten thousandth part."""
    new, parts = New(), []
    new.upload_fileobj = lambda body, bucket, key, ExtraArgs, Config: parts.append(Config.multipart_chunksize)  # noqa: N803
    bucket = SimpleNamespace(name="bucket")
    settings = SimpleNamespace(legacy_bucket=bucket, target_bucket=bucket, multipart_bytes=8 << 20)
    stores = SimpleNamespace(settings=settings, legacy_s3=Legacy(80 << 30), target_s3=new, media_answers=MediaAnswers())
    with pytest.raises(SideError):  # it has three bytes
        copy.stream(stores, Source("a", "e"), "new/a")
    assert 8 << 20 < parts[0] == copy.part_bytes(80 << 30, 8 << 20)


def test_a_bucket_under_an_object_lock_gets_parts_with_checksums():
    """It refuses the first part; the next try of the file, and all other files, send them."""
    new = New()
    put, asked = new.upload_fileobj, []

    def upload_fileobj(body, bucket, key, ExtraArgs, Config):  # noqa: N803
        asked.append(ExtraArgs.get("ChecksumAlgorithm"))
        if not asked[-1]:
            message = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Part requests with Object Lock"
            raise ClientError({"Error": {"Code": "InvalidRequest", "Message": message}}, "UploadPart")
        put(body, bucket, key, ExtraArgs, Config)

    new.upload_fileobj = upload_fileobj
    bucket = SimpleNamespace(name="bucket")
    settings = SimpleNamespace(legacy_bucket=bucket, target_bucket=bucket, multipart_bytes=1)
    stores = SimpleNamespace(settings=settings, legacy_s3=Legacy(), target_s3=new, media_answers=MediaAnswers())
    with pytest.raises(SideError):
        copy.stream(stores, Source("a", "e"), "new/a")
    copy.stream(stores, Source("a", "e"), "new/a")
    assert asked == [None, "CRC32"]


@pytest.mark.parametrize(
    ("there", "carried"),
    [
        (
            {"ContentDisposition": 'attachment; filename="a b.pdf"'},
            {"ContentDisposition": 'attachment; filename="a b.pdf"'},
        ),
        (
            {"ContentDisposition": 'attachment; filename="Übersicht.pdf"'.encode().decode("latin-1")},
            {"ContentDisposition": "attachment; filename=\"_bersicht.pdf\"; filename*=UTF-8''%C3%9Cbersicht.pdf"},
        ),
        (
            {"ContentDisposition": "inline; filename=日.pdf; x=1"},
            {"ContentDisposition": "inline; filename=\"_.pdf\"; filename*=UTF-8''%E6%97%A5.pdf; x=1"},
        ),
        ({"ContentEncoding": "aws-chunked"}, {}),
        ({"ContentEncoding": "gzip, aws-chunked"}, {"ContentEncoding": "gzip"}),
        ({"ContentType": ""}, {}),
        ({"ContentType": "text/plain"}, {"ContentType": "text/plain"}),
        ({"Expires": dt.datetime(2037, 1, 1, tzinfo=dt.UTC)}, {"Expires": "Thu, 01 Jan 2037 00:00:00 GMT"}),
        ({"ExpiresString": "0"}, {"Expires": "Thu, 01 Jan 1970 00:00:00 GMT"}),
        ({"StorageClass": "STANDARD_IA", "WebsiteRedirectLocation": "/other"}, {}),
    ],
)
def test_headers_are_carried_as_any_store_takes_them(there, carried):
    assert headers_of(there) == {"ContentType": "binary/octet-stream"} | carried
