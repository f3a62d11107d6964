"""Each of these modules has a world of its own, whose suspects are looked at again soon."""

import sys

import pytest

from sync_pipeline.cli import entry
from tests.world import opened


@pytest.fixture(scope="module")
def world(fleet, request):
    with opened(fleet, request.module.__name__.rpartition(".")[2], SYNC_RECHECK_SECONDS="0.2") as world:
        yield world


@pytest.fixture
def command(world, monkeypatch, capsys):
    """Run a command: its exit code, what it printed, and what it said of errors."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["sync-pipeline", *words])
        with pytest.raises(SystemExit) as ended:
            entry.main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run
