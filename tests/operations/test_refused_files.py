"""One file that a store answers wrongly for: its row is parked with the file's name, all others go on, and it heals."""

import re
import subprocess
from contextlib import closing, suppress

import boto3
import pytest
from botocore.config import Config

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import UnreachableError
from sync_pipeline.operate.repair import repair
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run import live
from sync_pipeline.run.sweep import sweep
from tests import clips
from tests.chaos.interposer import Answer
from tests.sinks import bucket_of
from tests.stores_at_fault import ByKey, behind
from tests.wrong_answers import AFTER_TRIES, AT_ONCE, altered, status, worded

GOOD, BAD = "p/good {}.jpg", "p/bad.jpg"
LETTER = "SELECT key::bigint, step, error, message FROM sync.due WHERE reason = 'rejected' ORDER BY 1"
WAITING = "SELECT reason, keys::bigint[], attempts FROM sync.due WHERE reason <> 'rejected'"


@pytest.fixture(scope="module")
def world(world):
    world.legacy(clips.MONOLITH)
    EntityContext.open(clips.clip(), world.stores)
    return world


@pytest.fixture
def clip(world):
    """Twelve clips, the fifth of which names the bad file."""
    for n in range(1, 13):
        world.client.put_object(Bucket=world.legacy_bucket, Key=GOOD.format(n), Body=b"good", ContentType="image/jpeg")
    world.client.put_object(Bucket=world.legacy_bucket, Key=BAD, Body=b"bad one", ContentType="image/jpeg")
    world.legacy(
        "INSERT INTO clips (id, title, file) SELECT n, 'title ' || n, 'p/good ' || n || '.jpg'"
        " FROM generate_series(1, 12) n"
    )
    world.legacy("UPDATE clips SET file = %s WHERE id = 5", [BAD])
    yield
    world.legacy("TRUNCATE clips")
    clips.emptied(world)


@pytest.fixture
def rule():
    return ByKey()


@pytest.fixture
def context(world, clip, rule):
    with behind(world.stores, legacy=rule) as stores:
        yield EntityContext.open(clips.clip(), stores)


def sync(context, **order):
    return sync_keys(context, context.origin.key.parse(map(str, range(1, 13))), Order(**order))


def work(world, context, times=1):
    for _ in range(times):
        world.target("UPDATE sync.due SET not_before = now() WHERE not_before < 'infinity'")
        live.work(context, lambda *_: None)


def ids(world):
    return [key for (key,) in world.target("SELECT id FROM catalog.clip ORDER BY 1")]


def healed(world, context, rule):
    """Once the store answers, the row comes by itself."""
    rule.faults.clear()
    assert world.target("SELECT 1 FROM sync.due WHERE not_before = 'infinity'") == []
    work(world, context, 3)
    assert world.target("SELECT reason, message FROM sync.due") == []
    assert ids(world) == list(range(1, 13))
    assert reconcile(context).status == "clean"


@pytest.mark.hazard(94)
@pytest.mark.parametrize("answer", AT_ONCE)
def test_what_the_store_refuses_for_one_key_parks_its_row_alone(world, context, rule, answer):
    rule.faults[BAD], named = AT_ONCE[answer]
    outcome = sync(context)
    assert (outcome.written, outcome.parked, outcome.files) == (11, 1, 11)
    ((key, step, error, message),) = world.target(LETTER)
    assert (key, step, error) == (5, "media", "MediaRefused")
    assert BAD in message
    assert named in message
    ((pause,),) = world.target("SELECT extract(epoch FROM not_before - now()) FROM sync.due")
    assert 30 < pause <= 60
    healed(world, context, rule)


@pytest.mark.hazard(94)
@pytest.mark.parametrize("answer", AFTER_TRIES)
def test_what_may_pass_is_tried_a_few_times_and_holds_up_no_other_row(world, context, rule, answer):
    rule.faults[BAD], named = AFTER_TRIES[answer]
    outcome = sync(context)
    assert (outcome.written, outcome.parked, outcome.waiting, outcome.files) == (11, 0, 1, 11)
    assert world.target(WAITING) == [("media", [5], 1)]
    asked = len(rule.seen)
    work(world, context, 3)
    ((key, step, error, message),) = world.target(LETTER)
    assert (key, step, error) == (5, "media", "MediaRefused")
    assert (named or BAD) in message
    assert not [key for method, key in rule.seen[asked:] if method == "GET" and key.startswith("p/good")]
    healed(world, context, rule)


@pytest.mark.hazard(94)
@pytest.mark.parametrize("name", ["../x.jpg", "/x.jpg", "..", "p/../y.jpg", "p/trailing/", "p//z.jpg", "a" * 1024])
def test_a_name_that_the_store_refuses_parks_its_row_alone(world, context, name):
    """Whatever the demo's own store says of it; a store that takes the name says that there is no such file."""
    with suppress(Exception):
        world.client.put_object(Bucket=world.legacy_bucket, Key="p/trailing/", Body=b"")
    world.legacy("UPDATE clips SET file = %s WHERE id = 5", [name])
    sync(context)
    work(world, context, 3)
    ((key, step, error, message),) = world.target(LETTER)
    assert (key, step) == (5, "media")
    assert error in {"MediaRefused", "MediaMissing"}
    assert name[:60] in message
    assert len(ids(world)) == 11


@pytest.mark.hazard(94)
@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("code", [403, 500])
def test_what_it_says_for_every_key_is_the_store_s(world, context, rule, method, code):
    for n in range(1, 13):
        rule.faults[GOOD.format(n)] = status(code, "HEAD", "GET")
    rule.faults[BAD] = status(code, method, "HEAD")
    with pytest.raises(UnreachableError, match="SYNC_LEGACY_S3"):
        sync(context)
    assert world.target(LETTER) == []


def test_a_bucket_that_is_not_there_is_no_missing_file(world, clip):
    with behind(world.stores) as stores:
        object.__setattr__(stores.settings.legacy_bucket, "name", "no-such-bucket")
        other = EntityContext.open(clips.clip(), stores)
        try:
            with pytest.raises(UnreachableError, match="there is no bucket no-such-bucket"):
                sync(other)
        finally:
            object.__setattr__(stores.settings.legacy_bucket, "name", world.legacy_bucket)
    assert world.target(LETTER) == []


@pytest.mark.hazard(94)
def test_without_its_guard_one_file_holds_up_all(world, context, rule, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "94")
    rule.faults[BAD] = status(403, "HEAD")
    with pytest.raises(UnreachableError):
        sync(context)
    assert ids(world) == []


@pytest.mark.parametrize("weak", ["every answer", "HEAD alone"])
def test_a_weak_etag_is_no_change(world, context, rule, weak):
    def weakened(request, forward):
        found = forward(request)
        if request.method == "GET" and weak == "every answer" and dict(request.headers).get("If-Match"):
            return Answer(412)  # RFC 9110: a weak one never matches
        if request.method == "GET" and weak == "HEAD alone":
            return found
        headers = [(name, f"W/{value}" if name.lower() == "etag" else value) for name, value in found.headers]
        return Answer(found.status, found.body, tuple(headers), length=found.length)

    rule.faults[BAD] = weakened
    assert (sync(context).written, world.target(LETTER)) == (12, [])
    assert reconcile(context).status == "clean"


def presigned(world):
    bucket = world.stores.settings.legacy_bucket
    keys = {"aws_access_key_id": bucket.access_key, "aws_secret_access_key": bucket.secret_key}
    keys = {name: value for name, value in keys.items() if value}
    config = Config(signature_version="s3v4", s3={"addressing_style": "path"})
    client = boto3.client("s3", endpoint_url=bucket.endpoint, region_name="us-east-1", config=config, **keys)
    with closing(client):
        return client.generate_presigned_url("put_object", Params={"Bucket": bucket.name, "Key": BAD})


def upload(world, *headers):
    """As browsers do it: any bytes in a header."""
    command = ["curl", "-sSf", "-X", "PUT", "--data-binary", "1"]
    if not any(header.lower().startswith("content-type") for header in headers):
        headers = ("Content-Type: image/jpeg", *headers)  # curl's own is that of a form
    for header in headers:
        command += ["-H", header]
    subprocess.run([*command, presigned(world)], check=True, capture_output=True)


def copy_of_bad(world):
    ((name,),) = world.target("SELECT file FROM catalog.clip WHERE id = 5")
    return world.client.head_object(Bucket=world.target_bucket, Key=name)


@pytest.mark.parametrize("name", ["Übersicht.pdf", "Köln – 日本.pdf", "plain.pdf"])
def test_a_file_name_in_content_disposition_is_carried(world, context, name):
    upload(world, "Content-Type: application/pdf", f'Content-Disposition: attachment; filename="{name}"')
    assert (sync(context).written, world.target(LETTER)) == (12, [])
    assert reconcile(context).status == "clean"


# what a file is uploaded with, and what its copy bears
CARRIED = {
    "expires": (("Expires: Thu, 01 Jan 2037 00:00:00 GMT",), "expires", "Thu, 01 Jan 2037 00:00:00 GMT"),
    "a cache": (("Cache-Control: max-age=31536000, public",), "cache-control", "max-age=31536000, public"),
    "two  spaces": (('Content-Disposition: attachment;  filename="two  spaces.txt"',), "content-disposition", None),
    "languages": (("Content-Language: de, en",), "content-language", "de, en"),
    "no type": (("Content-Type:",), "content-type", None),
    "an odd type": (("Content-Type: not a type;;",), "content-type", "not a type;;"),
    "an encoding": (("Content-Encoding: gzip,aws-chunked",), "content-encoding", "gzip"),
    "encoded metadata": (("x-amz-meta-title: =?UTF-8?B?w5xiZXI=?=",), "x-amz-meta-title", "=?UTF-8?B?w5xiZXI=?="),
    "metadata's name": (("X-Amz-Meta-CamelCase: v",), "x-amz-meta-camelcase", "v"),
    "metadata's spaces": (("x-amz-meta-a:   b  c  ",), "x-amz-meta-a", None),
}


@pytest.mark.hazard(134)
@pytest.mark.parametrize("header", CARRIED)
def test_headers_go_with_a_file_and_are_compared(world, context, header):
    headers, name, value = CARRIED[header]
    upload(world, *headers)
    assert (sync(context).written, world.target(LETTER)) == (12, [])
    there = copy_of_bad(world)["ResponseMetadata"]["HTTPHeaders"]
    assert value is None or there[name] == value
    assert reconcile(context).status == "clean"
    assert sync(context, force=True).files == 0
    assert reconcile(context).status == "clean"


@pytest.mark.hazard(134)
@pytest.mark.parametrize("header", ["expires", "a cache", "an odd type"])
def test_without_its_guard_a_header_is_lost_and_the_verdict_clean(world, context, monkeypatch, header):
    headers, name, value = CARRIED[header]
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "134")
    upload(world, *headers)
    assert (sync(context).written, world.target(LETTER)) == (12, [])
    assert copy_of_bad(world)["ResponseMetadata"]["HTTPHeaders"].get(name) != value
    assert reconcile(context).status == "clean"
    monkeypatch.delenv("SYNC_TEST_GUARDS_OFF")
    assert reconcile(context).status == "drift"


@pytest.mark.hazard(134)
def test_an_expires_that_the_copy_lacks_is_drift_and_mended(world, context):
    upload(world, "Expires: Thu, 01 Jan 2037 00:00:00 GMT")
    sync(context)
    ((name,),) = world.target("SELECT file FROM catalog.clip WHERE id = 5")
    world.client.put_object(Bucket=world.target_bucket, Key=name, Body=b"1")
    assert ["Expires" in finding.detail for finding in reconcile(context).findings] == [True]
    repair(context, reconcile(context).findings)
    assert reconcile(context).status == "clean"


@pytest.mark.parametrize(
    "headers",
    [
        {"expires": "0"},
        {"expires": "soon"},
        {"x-amz-meta-CamelCase": "v"},
        {"x-amz-meta-a": "  b "},
        {"content-type": ""},
        {"content-type": None},
    ],
    ids=str,
)
def test_how_a_store_spells_a_header_is_no_difference(world, context, rule, headers):
    """Another store gives it in its own way, and the new bucket in small letters."""
    rule.faults[BAD] = altered(headers)
    assert (sync(context).written, world.target(LETTER)) == (12, [])
    assert reconcile(context).status == "clean"


ODD_NAMES = ["k1//double.jpg", "k1/../dots.jpg", "k1/./dot.jpg", "k1/a?v=3.jpg", "k1/per%cent+ü.jpg", "k1/pre%20.jpg"]


@pytest.mark.hazard(133)
@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_file_that_is_listed_under_another_name_is_not_copied_again(world, context, name):
    """HEAD and GET answer by the name that the row has; the listing of the demo's store has another spelling."""
    for key in ("k1/beside.jpg", name):
        world.client.put_object(Bucket=world.legacy_bucket, Key=key, Body=b"odd")
    world.legacy("UPDATE clips SET file = %s WHERE id = 5", [name])
    assert sync(context).written == 12
    assert [sweep(context).files, sweep(context).files] == [0, 0]
    assert world.target("SELECT 1 FROM sync.due") == []
    assert reconcile(context).status == "clean"


def relisted(change):
    """The listing with another text."""

    def fault(request, forward):
        found = forward(request)
        is_listing = "list-type=2" in request.path
        body = change(found.body) if is_listing else found.body
        headers = tuple((name, value) for name, value in found.headers if name.lower() != "content-length")
        return Answer(found.status, body, headers if is_listing else found.headers, length=None)

    return fault


LISTINGS = {
    "etags of another kind": lambda body: re.sub(rb"<ETag>.*?</ETag>", b"<ETag>&quot;crc-17&quot;</ETag>", body),
    "etags without quotes": lambda body: body.replace(b"&quot;", b"").replace(b"&#34;", b""),
    "weak etags": lambda body: body.replace(b"<ETag>", b"<ETag>W/"),
    "no etags": lambda body: re.sub(rb"<ETag>.*?</ETag>", b"", body),
    "a name in other letters": lambda body: body.replace(b"p/bad.jpg", b"p/BAD.jpg"),
}


@pytest.mark.hazard(133)
@pytest.mark.parametrize("listing", LISTINGS)
def test_what_a_listing_says_otherwise_than_head_is_no_change(world, context, rule, listing):
    assert sync(context).written == 12
    rule.faults[""] = relisted(LISTINGS[listing])
    assert sweep(context).files == 0
    rule.faults.clear()
    world.client.put_object(Bucket=world.legacy_bucket, Key=BAD, Body=b"other bytes")
    rule.faults[""] = relisted(LISTINGS[listing])
    assert sweep(context).files == 1


@pytest.mark.hazard(133)
def test_without_its_guard_such_a_file_is_queued_by_each_sweep(world, context, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "133")
    world.client.put_object(Bucket=world.legacy_bucket, Key=ODD_NAMES[0], Body=b"odd")
    world.legacy("UPDATE clips SET file = %s WHERE id = 5", [ODD_NAMES[0]])
    sync(context)
    assert sweep(context).files == 1


def test_how_a_request_was_framed_is_no_encoding_of_the_file(world, context, rule):
    rule.faults[BAD] = altered({"content-encoding": "gzip,aws-chunked"})
    assert sync(context).written == 12
    assert reconcile(context).status == "clean"


@pytest.mark.hazard(94)
def test_copies_are_recorded_when_the_store_goes_in_the_midst(world, context, rule):
    """They are not made again at the next try."""
    object.__setattr__(context.stores.settings, "media_workers", 1)
    read = []

    def goes_after_five(request, forward):
        if request.method == "GET":
            read.append(request.path)
        return Answer(500) if len(read) > 5 else forward(request)

    rule.faults = dict.fromkeys([BAD, *(GOOD.format(n) for n in range(1, 13))], goes_after_five)
    with pytest.raises(UnreachableError):
        sync(context)
    assert world.target("SELECT count(*) FROM sync.media") == [(5,)]
    rule.faults.clear()
    rule.seen.clear()
    context.stores.media_answers.probed.clear()
    assert sync(context).files == 7
    assert len([key for method, key in rule.seen if method == "GET" and key.startswith("p/")]) == 7


def test_what_a_new_bucket_refuses_for_one_file_parks_its_row_alone(world, clip):
    rule = ByKey()
    with behind(world.stores, target=rule) as stores:
        context = EntityContext.open(clips.clip(), stores)
        bad = bucket_of(context.entity).sources(stores, [BAD])[BAD]
        rule.faults[bucket_of(context.entity).target_key(bad)] = worded(403, "AccessDenied", "PUT")
        assert (sync(context).written, [row[:3] for row in world.target(LETTER)]) == (
            11,
            [(5, "media", "MediaRefused")],
        )
        healed(world, context, rule)


def test_a_file_that_nobody_foresaw_parks_its_row_with_the_traceback(world, context, monkeypatch):
    from sync_pipeline.sinks.media import copy

    real = copy.headers_of

    def headers_of(found):
        if found["ContentLength"] == len(b"bad one"):
            raise ZeroDivisionError("odd")
        return real(found)

    monkeypatch.setattr(copy, "headers_of", headers_of)
    assert sync(context).written == 11
    ((key, step, error, message),) = world.target(LETTER)
    assert (key, step, error) == (5, "media", "MediaUnforeseen")
    assert "ZeroDivisionError: odd" in message
    assert "test_refused_files.py" in message
