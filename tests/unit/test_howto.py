"""The how-to's own code: what it tells to write is an entity, a suite and a test that pass as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from assets.columns import origins_of
from assets.definitions import definitions
from checks.suite import sides
from sync_pipeline.entities.files import load_entities

REPOSITORY = Path(__file__).resolve().parents[2]
HOWTO = (REPOSITORY / "docs" / "howto" / "entity.md").read_text(encoding="utf-8")


def block(begins: str) -> str:
    """The block of Python with these words in it."""
    (found,) = (
        text for text in re.findall(r"^```python\n(.*?)^```", HOWTO, re.MULTILINE | re.DOTALL) if begins in text
    )
    return found


@pytest.fixture
def newcomer(tmp_path, monkeypatch):
    """Packages with the files that the how-to tells to write."""
    for package, begins in (("tried_entities", "A gallery of the monolith"), ("tried_suites", "expected of a gallery")):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / "gallery.py").write_text(block(begins), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SYNC_ENTITIES", "tried_entities")
    monkeypatch.setenv("SYNC_SUITES", "tried_suites")
    yield
    for name in [name for name in sys.modules if name.startswith("tried_")]:
        del sys.modules[name]


def test_entity_and_suite_are_shown(newcomer):
    graph = definitions().resolve_asset_graph()
    for path in (
        ["history", "gallery_history"],
        ["media", "gallery_files"],
        ["catalog", "gallery"],
        ["search", "gallery_documents"],
    ):
        assert graph.get(dg.AssetKey(path)).group_name == "gallery"
    assert {dg.AssetKey(["legacy", "galleries"]), dg.AssetKey(["legacy", "gallery_pictures"])} <= set(
        graph.external_asset_keys
    )
    entity = load_entities("tried_entities")["gallery"]
    words = [expected.words for side in sides(entity, "tried_suites") for expected in side.expectations]
    assert "pictures lie under gallery/" in words
    columns = graph.get(dg.AssetKey(["catalog", "gallery"])).metadata["dagster/column_schema"].columns
    assert {column.name: column.description for column in columns}["header"] == "Made from `galleries.title`."
    assert origins_of(entity).keys() == entity.table.columns.keys()


def test_the_test_of_the_adapter_passes(newcomer, tmp_path):
    code = block("EntityContract").replace("assets.entities.gallery", "tried_entities.gallery")
    (tmp_path / "test_gallery.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    assert "10 passed" in done.stdout


def test_every_command_of_ours_is_one():
    from typer.main import get_command

    from sync_pipeline.cli import app

    named = re.findall(r"^(?: {4}|)sync-pipeline (demo )?([a-z]+)", HOWTO, re.MULTILINE)
    ours = get_command(app).commands
    assert named
    for demo, command in named:
        assert command in (ours["demo"].commands if demo else ours)
