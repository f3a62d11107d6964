"""Import budgets: help and reports start quickly because they import no library that they do not use.

A time would depend on the machine, so the tests list the modules that a command has imported when it ends.
"""

import subprocess
import sys

import pytest
import typer
from typer.main import get_command

from sync_pipeline.cli import app
from sync_pipeline.cli.lazy import deferred
from tests.entity_files import entity_file, use_package

# a module that only a complete import of each library brings
HEAVY = {
    "pandas": "pandas.core",
    "pyarrow": "pyarrow.lib",
    "sqlalchemy": "sqlalchemy.engine",
    "elasticsearch": "elasticsearch",
    "boto3": "boto3",
    "botocore.client": "botocore.client",
    "dagster": "dagster",
    "great_expectations": "great_expectations",
}
RUN = """
import atexit, sys
heavy = {heavy!r}
atexit.register(lambda: print("imported:", *sorted(n for n, m in heavy.items() if m in sys.modules), file=sys.stderr))
sys.argv = ["sync-pipeline", *{words!r}]
from sync_pipeline.cli import main
main()
"""
SETTINGS = {
    "SYNC_LEGACY_DB": "postgresql://reader@127.0.0.1:1/monolith",
    "SYNC_TARGET_DB": "postgresql://writer@127.0.0.1:1/catalog",
    "SYNC_SEARCH_URL": "http://127.0.0.1:1",
    "SYNC_LEGACY_S3_BUCKET": "old",
    "SYNC_TARGET_S3_BUCKET": "new",
}


def imported(*words):
    """(exit code, heavy libraries that the command has imported, what it printed)."""
    program = [sys.executable, "-c", RUN.format(heavy=HEAVY, words=words)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    *said, last = done.stderr.splitlines()
    assert last.startswith("imported:"), done.stderr
    return done.returncode, set(last.split()[1:]), done.stdout + "\n".join(said)


@pytest.mark.parametrize(
    "words",
    [["--help"], ["sync", "--help"], ["backfill", "--help"], ["status", "--help"], ["check", "--help"], []],
    ids=lambda words: " ".join(words) or "no arguments",
)
def test_help_imports_no_heavy_library(words):
    code, heavy, printed = imported(*words)
    assert code == (0 if words else 2)
    assert "Usage: sync-pipeline" in printed
    assert heavy == set()


@pytest.mark.parametrize("postponed", [True, False], ids=["annotations are postponed", "they are evaluated"])
def test_status_does_not_wait_for_libraries_of_adapters_and_stores(monkeypatch, tmp_path, postponed):
    head = "\nimport pandas as pd\n\n\ndef adapt(legacy: pd.DataFrame) -> pd.DataFrame:\n    return legacy\n"
    file = entity_file("tune", "SELECT 1 AS id", "()", {"id": "bigint"}, head=head, adapt="adapt")
    use_package(monkeypatch, tmp_path, tune=("from __future__ import annotations\n" if postponed else "") + file)
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    code, heavy, said = imported("status")
    assert (code, "SYNC_TARGET_DB" in said) == (2, True), said  # nothing answers there
    expected = {"pyarrow"} if postponed else {"pyarrow", "pandas"}
    assert heavy <= expected


def test_a_deferred_module_is_whole_when_it_is_used(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with deferred("colorsys"):
        import colorsys
    assert "rgb_to_hls" not in vars(colorsys)
    assert colorsys.rgb_to_hls(0, 0, 0) == (0.0, 0.0, 0.0)
    assert sys.modules["colorsys"] is not colorsys
    with deferred("colorsys"):
        import colorsys as again
    assert again is sys.modules["colorsys"]


def test_the_lines_of_the_help_are_those_of_the_commands():
    group = get_command(app)
    with group.lines.unopened():
        lines = {name: group.commands[name].help for name in group.members}
    loaded = {name: group.commands[name].help for name in group.members}
    assert lines == {name: " ".join(text.split("\n\n")[0].split()) for name, text in loaded.items()}
    assert isinstance(app, typer.Typer)
