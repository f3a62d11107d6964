"""Who we say we are, store by store: a cluster behind TLS and a key, S3 servers with a key each, PostgreSQL's TLS."""

import base64
import dataclasses
from contextlib import closing

import psycopg2
import pytest

from demo.buckets import create_bucket
from demo.machine import free_port
from demo.servers.object_store import ObjectStore
from sync_pipeline.errors import SettingError, UnreachableError
from sync_pipeline.model.files import Copied
from sync_pipeline.preflight.preflight import preflight
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.settings import Settings
from sync_pipeline.sinks.media import MediaBucket
from sync_pipeline.stores.stores import Stores
from tests.gate import gated
from tests.sinks import index_of
from tests.world import opened

FILES = MediaBucket(columns=("files",), prefix="files")
KEY = "YXBpOmtleQ=="
USER, PASSWORD, ENCODED = "sync", "s/3:c@r%t", "s%2F3%3Ac%40r%25t"


@pytest.fixture(scope="module")
def world(fleet):
    with opened(fleet, "access", SYNC_RECHECK_SECONDS="0") as world:
        world.load(60, 0)
        yield world


@pytest.fixture
def own(world, monkeypatch):
    """A function that opens stores by the environment and what it is given."""
    made = []

    def by(**settings):
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        made.append(Stores(Settings.from_env()))
        return made[-1]

    yield by
    for stores in made:
        stores.close()


@pytest.fixture(params=["key", "user"])
def gate(request, world, tmp_path):
    """A gate, and what lets us in."""
    basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    word = {"key": f"ApiKey {KEY}", "user": f"Basic {basic}"}[request.param]
    with gated(world.search_url, word, tmp_path) as gate:
        by = {
            "key": {"SYNC_SEARCH_URL": f"https://{gate.address}", "SYNC_SEARCH_API_KEY": KEY},
            "user": {"SYNC_SEARCH_URL": f"https://{USER}:{ENCODED}@{gate.address}"},
        }[request.param]
        yield gate, by | {"SYNC_SEARCH_CA_FILE": str(gate.certificate)}


def test_everything_goes_through_the_gate(world, gate, own):
    gate, by = gate
    stores = own(**by)
    assert [n for n in preflight(stores, []) if n.about == "search" and n.level != "ok"] == []
    world.stores, others = stores, world.stores
    try:
        assert reconcile(world.all_in("text")).status == "clean"
    finally:
        world.stores = others
    assert gate.refused == 0
    assert {"POST", "HEAD", "GET"} <= gate.passed


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"SYNC_SEARCH_CA_FILE": ""}, "certificate verify failed"),
        ({"SYNC_SEARCH_API_KEY": "d3Jvbmc="}, "AuthenticationException(401"),
        ({"SYNC_SEARCH_API_KEY": ""}, "AuthenticationException(401"),
    ],
)
def test_who_is_not_let_in_is_told_and_tries_again_later(world, own, tmp_path, settings, words):
    with gated(world.search_url, f"ApiKey {KEY}", tmp_path) as gate:
        right = {"SYNC_SEARCH_URL": f"https://{gate.address}", "SYNC_SEARCH_API_KEY": KEY}
        stores = own(**right | {"SYNC_SEARCH_CA_FILE": str(gate.certificate)} | settings)
        with pytest.raises(UnreachableError) as told:
            index_of(world.context("text").entity).open(stores, "text")
        (notice,) = [n for n in preflight(stores, []) if n.about == "search"]
    for said in (str(told.value), notice.what):
        assert said.startswith("SYNC_SEARCH_")
        assert words in said
        assert KEY not in said


@pytest.fixture(scope="module")
def elsewhere(fleet, world, tmp_path_factory):
    """Another S3 server, with keys of its own and the new side's bucket."""
    server = ObjectStore(tmp_path_factory.mktemp("elsewhere"), "elsewhere", free_port(), fleet.jars)
    server.start()
    try:
        server.wait_healthy()
        with closing(server.client()) as client:
            create_bucket(client, world.target_bucket)
            yield server, client
    finally:
        server.stop()


@pytest.fixture
def two(world, elsewhere, own, monkeypatch, tmp_path):
    """A function that opens stores over both servers; the machine has no credentials of its own."""
    server, _ = elsewhere
    keys = {"LEGACY": world.fleet.objects.keys, "TARGET": server.keys}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    access, secret = server.keys
    text = f"[new-side]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"
    (tmp_path / "credentials").write_text(text)

    def by(*sides, **settings):
        chosen = {"SYNC_TARGET_S3_ENDPOINT": server.url}
        for side in sides:
            chosen[f"SYNC_{side}_S3_ACCESS_KEY_ID"], chosen[f"SYNC_{side}_S3_SECRET_ACCESS_KEY"] = keys[side]
        return own(**chosen, **settings)

    return by


@pytest.mark.parametrize("profile", [False, True])
def test_a_file_goes_from_one_server_to_another(world, two, elsewhere, profile):
    stores = two("LEGACY", SYNC_TARGET_S3_PROFILE="new-side") if profile else two("LEGACY", "TARGET")
    world.client.put_object(Bucket=world.legacy_bucket, Key="a.jpg", Body=b"a picture", ContentType="image/jpeg")
    (copied,) = FILES.copy(stores, FILES.sources(stores, ["a.jpg"]).values())
    assert isinstance(copied, Copied)
    found = elsewhere[1].get_object(Bucket=world.target_bucket, Key=copied.target_key)
    assert (found["Body"].read(), found["ContentType"]) == (b"a picture", "image/jpeg")
    elsewhere[1].delete_object(Bucket=world.target_bucket, Key=copied.target_key)


def test_a_key_of_the_other_server_is_refused_by_name(two, world):
    access, secret = world.fleet.objects.keys
    stores = two("LEGACY", SYNC_TARGET_S3_ACCESS_KEY_ID=access, SYNC_TARGET_S3_SECRET_ACCESS_KEY=secret)
    found = {n.about: n for n in preflight(stores, []) if n.about in {"legacy bucket", "target bucket"}}
    assert found["legacy bucket"].level == "ok"
    assert "refuses s3:ListBucket" in found["target bucket"].what
    assert "SYNC_TARGET_S3_ACCESS_KEY_ID" in found["target bucket"].remedy
    assert secret not in str(found)


def test_without_settings_of_its_own_a_bucket_takes_what_boto3_finds(two, world, monkeypatch):
    access, secret = world.fleet.objects.keys
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    stores = two("TARGET")
    found = {(n.about, n.level) for n in preflight(stores, []) if n.about in {"legacy bucket", "target bucket"}}
    assert found == {("legacy bucket", "ok"), ("target bucket", "ok")}


def test_a_region_of_its_own_and_a_profile_that_is_none(two):
    stores = two("LEGACY", SYNC_LEGACY_S3_REGION="eu-central-1", SYNC_TARGET_S3_PROFILE="nobody")
    assert stores.legacy_s3.meta.region_name == "eu-central-1"
    with pytest.raises(SettingError, match=r"^SYNC_TARGET_S3_PROFILE.*nobody"):
        _ = stores.target_s3
    notices = [n.what for n in preflight(stores, []) if n.about == "target bucket"]
    assert len(notices) == 1
    assert notices[0].startswith("SYNC_TARGET_S3_PROFILE")


@pytest.mark.parametrize("side", ["legacy", "target"])
def test_tls_of_postgresql_goes_by_the_url(world, side):
    """The demo's servers have none: they must not be talked to without it."""
    url = getattr(world.stores.settings, f"{side}_db")
    settings = dataclasses.replace(world.stores.settings, **{f"{side}_db": f"{url}?sslmode=require"})
    with closing(Stores(settings)) as stores:
        with pytest.raises(UnreachableError, match="server does not support SSL"), getattr(stores, side)():
            pass
        if side == "legacy":
            with pytest.raises(psycopg2.OperationalError, match="server does not support SSL"):
                stores.legacy_session()
