"""The whole move, small: what `make demo` plays, from nothing to a verdict, through Dagster and under editors."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

from demo.home import HOME_SETTING, JARS_SETTING

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_move_ends_clean_and_leaves_nothing_running(tmp_path):
    jars = os.environ.get(JARS_SETTING) or str(REPOSITORY / ".demo" / "jars")
    program = [str(Path(sys.executable).with_name("sync-pipeline")), "demo", "run"]
    size = ["--contents", "1500", "--media", "40", "--rate", "50", "--seconds", "5", "--lag-limit", "60"]
    environment = {**os.environ, HOME_SETTING: str(tmp_path), JARS_SETTING: jars}
    done = subprocess.run([*program, *size], env=environment, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "CLEAN: the new side holds what the monolith holds." in done.stdout
    assert "0 undelivered" in done.stdout
    assert "credentials" not in done.stdout + done.stderr  # as the engine in this process finds its own
    left = [found.info for found in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(found.info["cmdline"])]
    assert left == []
