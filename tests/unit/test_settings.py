"""Settings: what is read, and that `.env.example` tells all of it, truly."""

import re
from pathlib import Path

import certifi
import pytest

from sync_pipeline.errors import SettingError
from sync_pipeline.settings import NUMBERS, Bucket, Settings

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = (REPOSITORY / ".env.example").read_text(encoding="utf-8")
LINE = re.compile(r"^(#?)([A-Z][A-Z0-9_]+)=(.*)$", re.MULTILINE)
TOLD = {name: (not hidden, value) for hidden, name, value in LINE.findall(EXAMPLE)}
# what tests alone may set, and the demo's own
ELSEWHERE = re.compile(r"SYNC_(TEST|DEMO)_")


def _read_by_the_code() -> set[str]:
    files = [file for part in ("sync_pipeline", "assets", "checks") for file in (REPOSITORY / part).rglob("*.py")]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    # a bucket's settings are made of its side's name
    parts = set(re.findall(r"{prefix}_([A-Z0-9_]+)", text))
    text += "".join(f' "{side}_S3_{part}"' for side in ("SYNC_LEGACY", "SYNC_TARGET") for part in parts)
    found = set(re.findall(r'"(SYNC_[A-Z0-9_]+)"', text)) - {"SYNC_LEGACY_S3", "SYNC_TARGET_S3"}
    return {name for name in found if not ELSEWHERE.match(name)}


def test_the_example_tells_every_setting_that_is_read_and_no_other():
    assert {name for name in TOLD if name.startswith("SYNC_")} == _read_by_the_code()
    dagster = set(re.findall(r"env: (DAGSTER_[A-Z_]+)", (REPOSITORY / "dagster.yaml").read_text(encoding="utf-8")))
    assert {name for name in TOLD if name.startswith("DAGSTER_PG_")} == dagster


def test_the_example_is_a_whole_environment():
    env = {name: value for name, (stands, value) in TOLD.items() if stands}
    assert Settings.from_env(env).search_url == env["SYNC_SEARCH_URL"]


@pytest.mark.parametrize("name", NUMBERS)
def test_the_example_names_the_default(name):
    stands, value = TOLD[name]
    assert not stands
    assert float(value) == getattr(Settings, NUMBERS[name])


def told(**changed):
    """What is said of the example's environment with these changes; the settings, if nothing is."""
    env = {name: value for name, (stands, value) in TOLD.items() if stands}
    try:
        return Settings.from_env(env | changed)
    except SettingError as error:
        return str(error).splitlines()[:-1]


def test_each_bucket_may_have_a_key_a_region_and_a_profile_of_its_own():
    found = told(
        SYNC_LEGACY_S3_ACCESS_KEY_ID="old",
        SYNC_LEGACY_S3_SECRET_ACCESS_KEY="s3cret",
        SYNC_LEGACY_S3_REGION="eu-central-1",
        SYNC_TARGET_S3_PROFILE="new-side",
    )
    assert found.legacy_bucket == Bucket(None, "monolith-media", "eu-central-1", None, "old", "s3cret")
    assert found.target_bucket == Bucket(None, "catalog-media", profile="new-side")


KEY, SECRET = "SYNC_TARGET_S3_ACCESS_KEY_ID", "SYNC_TARGET_S3_SECRET_ACCESS_KEY"
FAULTS = [
    ({KEY: "a"}, [f"{SECRET} is not set: a key has two parts"]),
    ({SECRET: "a"}, [f"{KEY} is not set: a key has two parts"]),
    (
        {KEY: "a", SECRET: "b", "SYNC_TARGET_S3_PROFILE": "c"},
        [f"SYNC_TARGET_S3_PROFILE and {KEY} are both set: say one of them"],
    ),
    (
        {KEY: "a", SECRET: "b", "SYNC_TARGET_S3_BUCKET": "monolith-media"},
        ["SYNC_TARGET_S3_BUCKET is the legacy bucket itself: name another one"],
    ),
    (
        {
            "SYNC_LEGACY_S3_ENDPOINT": "http://store:9000",
            "SYNC_TARGET_S3_ENDPOINT": "http://Store:9000/",
            "SYNC_TARGET_S3_BUCKET": "monolith-media",
        },
        ["SYNC_TARGET_S3_BUCKET is the legacy bucket itself: name another one"],
    ),
    *(
        (
            {"SYNC_LISTING_SHARE": share},
            [f"SYNC_LISTING_SHARE is {shown}: it must be above 0 and at most 1 (1: each sweep lists the bucket)"],
        )
        for share, shown in (("0", "0.0"), ("1.5", "1.5"))
    ),
    ({"SYNC_BRAKE_FRACTION": "nan"}, ["SYNC_BRAKE_FRACTION must be a number, not 'nan'"]),
    *(
        ({"SYNC_SEARCH_URL": url}, ["SYNC_SEARCH_URL must read https://HOST:PORT or http://HOST:PORT"])
        for url in ("search:9200", "http://me:hush@search", "https://", "https://me:hush@search:many")
    ),
    (
        {"SYNC_SEARCH_URL": "https://me:hush@search:9200", "SYNC_SEARCH_API_KEY": "hush"},
        ["SYNC_SEARCH_API_KEY is set, and SYNC_SEARCH_URL names a user: say one of them"],
    ),
    (
        {"SYNC_SEARCH_API_KEY": "hush\nx: y"},
        ["SYNC_SEARCH_API_KEY must be the key as the cluster encodes it, on one line"],
    ),
    (
        {"SYNC_SEARCH_URL": "http://search:9200", "SYNC_SEARCH_CA_FILE": certifi.where()},
        ["SYNC_SEARCH_CA_FILE is set, but SYNC_SEARCH_URL is not https"],
    ),
]


@pytest.mark.parametrize(("changed", "faults"), FAULTS)
def test_a_fault_names_its_setting_and_no_secret(changed, faults):
    found = told(**changed)
    assert found == faults
    assert "hush" not in str(found)


def test_certificates_are_looked_at(tmp_path):
    none = tmp_path / "none.pem"
    for _ in range(2):
        (fault,) = told(SYNC_SEARCH_CA_FILE=str(none))
        assert fault.startswith(f"SYNC_SEARCH_CA_FILE={none} holds no certificates in PEM: ")
        none.write_text("no certificate")
    assert told(SYNC_SEARCH_CA_FILE=certifi.where()).search_ca_file == certifi.where()


def test_what_is_shown_of_settings_holds_no_secret():
    hush = "postgresql://me:hush@host/db"
    found = told(
        SYNC_LEGACY_DB=hush,
        SYNC_TARGET_DB=hush,
        SYNC_LEGACY_REPLICA_DB=hush,
        SYNC_SEARCH_API_KEY="hush",
        **{KEY: "key", SECRET: "hush"},
    )
    assert found.search_api_key == found.target_bucket.secret_key == "hush"
    assert "hush" not in repr(found)
    assert "hush" not in repr(told(SYNC_SEARCH_URL="https://me:hush@search:9200"))


def test_every_fault_is_named_at_once():
    with pytest.raises(SettingError) as told:
        Settings.from_env({"SYNC_LEGACY_DB": "mysql://x", "SYNC_CHUNK_ROWS": "many", "SYNC_MEDIA_WORKERS": "0"})
    for name in ("SYNC_LEGACY_DB", "SYNC_TARGET_DB", "SYNC_SEARCH_URL", "SYNC_LEGACY_S3_BUCKET", "SYNC_CHUNK_ROWS"):
        assert name in str(told.value)
    assert "SYNC_MEDIA_WORKERS is 0: too small" in str(told.value)
