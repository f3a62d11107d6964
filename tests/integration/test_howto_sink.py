"""The how-to's own sink keeps the contract, in a package outside the repository."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.world import opened

HOWTO = (Path(__file__).resolve().parents[2] / "docs" / "howto" / "sink.md").read_text(encoding="utf-8")
OWNER = "postgresql://owner@localhost/monolith"
# each makes the sink break a promise, and the test that finds it
BROKEN = {
    "if key in held and held[key][0] > version:": ("if False:", "test_the_last_revision_wins"),
    "held[key] = version, body if is_written else None": (
        "held[key] = (version, body) if is_written else (0, None)",
        "test_a_late_write_does_not_bring_back_what_was_deleted",
    ),
    "            else:\n                held[key]": (
        "            elif is_written:\n                held[key]",
        "test_what_is_gone_is_deleted",
    ),
    "return Sent(superseded=list(later), overwritten=overwritten(context, operations, later))": (
        "return Sent(superseded=list(later))",
        "test_a_version_above_the_ledgers_is_written_over",
    ),
    "        return Sent(": (
        '        return Sent(rejected={0: ("Odd", "refused")}); Sent(',
        "test_what_is_written_is_read",
    ),
    "elif want != there:": ("elif False:", "test_compare_finds_each_kind_of_mismatch"),
    "for key in keys if key not in known]": ("for key in ()]", "test_an_object_of_no_row_is_found_and_removed"),
    "claims.claim(cursor, entity, self.place, lambda: not held)": ("pass", "test_two_entities_cannot_have_its_place"),
    "if body is not None}": ("if False}", "test_what_is_read_is_what_readers_see"),
}


@pytest.fixture(scope="module")
def world(fleet):
    with opened(fleet, "howto_sink", SYNC_RECHECK_SECONDS="0") as world:
        yield world


def blocks():
    return re.findall(r"^```python\n(.*?)^```", HOWTO, re.MULTILINE | re.DOTALL)


def run(world, folder, sink, *arguments):
    """The package `yours` in a folder, and pytest there."""
    (suite,) = (block for block in blocks() if "class TestMemorySink(SinkContract)" in block)
    package = folder / "yours"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "memory.py").write_text(sink, encoding="utf-8")
    (folder / "test_memory.py").write_text(suite.replace(OWNER, world.monolith.admin_url), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def sink_of_the_howto():
    (sink,) = (block for block in blocks() if "class MemorySink(OuterSink)" in block)
    return sink


def test_it_passes(world, tmp_path):
    done = run(world, tmp_path, sink_of_the_howto())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("words", BROKEN)
def test_one_that_breaks_a_promise_is_found(world, tmp_path, words):
    sink, (instead, test) = sink_of_the_howto(), BROKEN[words]
    assert words in sink
    done = run(world, tmp_path, sink.replace(words, instead), "-k", test)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"FAILED test_memory.py::TestMemorySink::{test}" in done.stdout
