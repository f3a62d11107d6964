"""PgBouncer itself between the engine and both databases: sessions are pooled, or the pooler is refused by name."""

import dataclasses
import shutil
import socket
import subprocess
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import pytest

from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.files import load_entities
from sync_pipeline.errors import SettingError
from sync_pipeline.preflight.preflight import preflight
from sync_pipeline.stores.poolers import _known
from sync_pipeline.stores.stores import Stores
from tests.world import wait_for

LACKING = "PgBouncer is needed: apt-get install pgbouncer"
CONFIGURATION = """
[databases]
{databases}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
logfile = {folder}/log
pidfile = {folder}/pid
{more}
"""


@contextmanager
def bounced(world, folder, mode, more="", size=40):
    """Stores whose databases are reached by way of a PgBouncer."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
    assert program, LACKING
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    urls = {"legacy_db": world.stores.settings.legacy_db, "target_db": world.stores.settings.target_db}
    lines = []
    for name, url in urls.items():
        parts = urlsplit(url)
        lines.append(
            f"{name} = host={parts.hostname} port={parts.port} dbname={parts.path[1:]} user={parts.username}"
            f" password={parts.password}"
        )
    folder.chmod(0o777)
    text = CONFIGURATION.format(databases="\n".join(lines), port=port, mode=mode, folder=folder, more=more, size=size)
    (folder / "pgbouncer.ini").write_text(text, encoding="utf-8")
    started = subprocess.Popen([program, "-u", "nobody", str(folder / "pgbouncer.ini")], stderr=subprocess.DEVNULL)
    _known.clear()
    try:
        wait_for(lambda: _answers(port))
        through = {name: f"postgresql://any@127.0.0.1:{port}/{name}" for name in urls}
        with closing(Stores(dataclasses.replace(world.stores.settings, **through))) as stores:
            yield stores
    finally:
        started.terminate()
        started.wait()
        _known.clear()


def _answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("pgbouncer")
    for parent in (made, made.parent, made.parent.parent):
        parent.chmod(0o755)
    return made


@pytest.mark.parametrize("more", ["", "ignore_startup_parameters = options"], ids=["refuses options", "drops options"])
@pytest.mark.parametrize("size", [40, 1])
def test_pooled_sessions_serve(fresh_world, folder, more, size):
    with bounced(fresh_world, folder, "session", more, size) as stores:
        with stores.legacy() as cursor:
            for name, value in (("bytea_output", "hex"), ("datestyle", "ISO, YMD"), ("row_security", "off")):
                cursor.execute(f"SHOW {name}")
                assert cursor.fetchone()[0] == value
        if size == 1:
            return
        fresh_world.load(20, 0)
        entity = load_entities("assets.entities")["text"]
        assert [found.what for found in preflight(stores, [entity]) if found.level == "error"] == []
        assert EntityContext.open(entity, stores).origin.count("true") > 0


@pytest.mark.parametrize("mode", ["transaction", "statement"])
@pytest.mark.parametrize("more", ["", "ignore_startup_parameters = options", "server_round_robin = 1"])
@pytest.mark.parametrize("side", ["legacy", "target"])
def test_pooled_transactions_are_refused_by_name(fresh_world, folder, mode, more, side):
    with bounced(fresh_world, folder, mode, more) as stores:
        named = rf"SYNC_{side.upper()}_DB: .*pools transactions \(PgBouncer: pool_mode = transaction\)"
        for _ in range(2):
            with pytest.raises(SettingError, match=named), getattr(stores, side)() as cursor:
                cursor.execute("SELECT 1")


def test_a_log_that_is_asked_for_by_way_of_a_pooler_is_refused_by_name(fresh_world, folder):
    from psycopg2.extras import LogicalReplicationConnection

    with bounced(fresh_world, folder, "session") as stores, pytest.raises(SettingError, match="database itself"):
        stores.legacy_session(LogicalReplicationConnection)
