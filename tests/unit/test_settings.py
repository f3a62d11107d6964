"""Settings: what is read, and that `.env.example` tells all of it, truly."""

import re
from pathlib import Path

import pytest

from sync_pipeline.errors import SettingError
from sync_pipeline.settings import NUMBERS, Settings

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = (REPOSITORY / ".env.example").read_text(encoding="utf-8")
LINE = re.compile(r"^(#?)([A-Z][A-Z0-9_]+)=(.*)$", re.MULTILINE)
TOLD = {name: (not hidden, value) for hidden, name, value in LINE.findall(EXAMPLE)}
# what tests alone may set, and the demo's own
ELSEWHERE = re.compile(r"SYNC_(TEST|DEMO)_")


def _read_by_the_code() -> set[str]:
    files = [file for part in ("sync_pipeline", "assets", "checks") for file in (REPOSITORY / part).rglob("*.py")]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    # a bucket's two settings are made of its side's name
    text += "".join(
        f' "{side}_S3_{part}"' for side in ("SYNC_LEGACY", "SYNC_TARGET") for part in ("ENDPOINT", "BUCKET")
    )
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


def test_every_fault_is_named_at_once():
    with pytest.raises(SettingError) as told:
        Settings.from_env({"SYNC_LEGACY_DB": "mysql://x", "SYNC_CHUNK_ROWS": "many", "SYNC_MEDIA_WORKERS": "0"})
    for name in ("SYNC_LEGACY_DB", "SYNC_TARGET_DB", "SYNC_SEARCH_URL", "SYNC_LEGACY_S3_BUCKET", "SYNC_CHUNK_ROWS"):
        assert name in str(told.value)
    assert "SYNC_MEDIA_WORKERS is 0: too small" in str(told.value)
