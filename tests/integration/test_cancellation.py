"""A read that is cut short: the process goes on while the server is told, however long that takes."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
# the way to the server is a thread of the same process: if the others stand still meanwhile, nothing ever arrives
READ = """
import sys
import psycopg2
from sync_pipeline.db.sql import copy_text_capped
from tests.chaos.proxy import Link, Loop

loop = Loop()
link = Link(loop, int(sys.argv[2]))
connection = psycopg2.connect(sys.argv[1].replace(f":{sys.argv[2]}/", f":{link.port}/"))
with connection, connection.cursor() as cursor:
    text, is_cut = copy_text_capped(cursor, "SELECT repeat('x', 1000) FROM generate_series(1, 200000)", "", 10_000)
    assert is_cut and 10_000 <= text.size < 12_000, (is_cut, text.size)
link.refuse()
loop.close()
"""


@pytest.mark.hazard(118)
def test_other_threads_go_on_while_a_read_is_cut_short(fleet):
    server = fleet.legacy
    command = [sys.executable, "-c", READ, server.url("postgres"), str(server.port)]
    done = subprocess.run(command, cwd=REPOSITORY, timeout=60, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
