import pytest
from typer.testing import CliRunner

from demo import machine
from demo.cli import app


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNC_DEMO_HOME", str(tmp_path / "home"))
    return lambda *words: CliRunner().invoke(app, words)


@pytest.mark.parametrize("command", [("env",), ("status",), ("load", "--contents", "1", "--media", "0")])
def test_a_demo_that_is_not_up_is_told_in_a_sentence(run, command):
    done = run(*command)
    assert done.exit_code == 2
    assert "sync-pipeline demo up" in done.output


def test_a_missing_package_is_told_in_a_sentence(run, monkeypatch):
    monkeypatch.setattr(machine, "EXTRA", ("no_such_package",))
    done = run("up")
    assert done.exit_code == 2
    assert "no_such_package" in done.output


def test_a_full_disk_is_told_in_a_sentence(run, monkeypatch):
    monkeypatch.setattr(machine, "DISK_BYTES", 1 << 60)
    done = run("up")
    assert done.exit_code == 2
    assert "MB free" in done.output


def test_down_without_up_is_harmless(run):
    assert run("down").exit_code == 0
