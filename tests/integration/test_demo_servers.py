"""The demo's own servers: up, twice up, killed, edited, observed, down."""

import os
import shutil
import threading
import time
from pathlib import Path

import psutil
import psycopg2
import pytest

from demo.databases import connected, create_monolith, create_target, drop_database
from demo.edit import Editors
from demo.environment import variables
from demo.fleet import LEGACY_BUCKET, down, up
from demo.home import JARS_SETTING, Home
from demo.lag import Observer
from demo.load import load
from sync_pipeline.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[2]
CONTENTS, FILES = 300, 12


def running_in(folder):
    return [found for found in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(found.info["cmdline"] or [])]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(JARS_SETTING, os.environ.get(JARS_SETTING) or str(REPOSITORY / ".demo" / "jars"))
        home = Home(tmp_path_factory.mktemp("demo"))
        yield home
        down(home)
        assert running_in(home.root) == []


@pytest.fixture(scope="module")
def fleet(home):
    return up(home)


@pytest.fixture(scope="module")
def addresses(fleet):
    return fleet.addresses()


@pytest.fixture(scope="module")
def filled(fleet, addresses):
    client = fleet.objects.client()
    load(addresses.monolith.admin_url, client, LEGACY_BUCKET, contents=CONTENTS, files=FILES, poison=2)
    yield fleet
    client.close()


def rows(url, query):
    with connected(url) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()


def wait_until(condition, seconds=10):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit


def test_a_second_up_leaves_everything_alone(home, fleet):
    before = [server.pid() for server in fleet.servers]
    assert [server.pid() for server in up(home).servers] == before


def test_two_ups_at_a_time_take_turns(home, fleet):
    fleet.objects.kill()
    fleets = []
    threads = [threading.Thread(target=lambda: fleets.append(up(home))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({fleet.objects.pid() for fleet in fleets}) == 1


def test_a_home_removed_under_its_servers_leaves_none_running(home):
    other = Home(home.root / "other")
    servers = up(other).servers
    shutil.rmtree(other.root)
    down(other)
    assert not any(server.alive() for server in servers)


def test_the_environment_is_what_the_engine_reads(addresses):
    settings = Settings.from_env(variables(addresses))
    assert settings.legacy_bucket.name == LEGACY_BUCKET


def test_the_reader_reads_and_nothing_else(filled, addresses):
    url = addresses.monolith.reader_url
    assert rows(url, "SELECT count(*) FROM content") == [(CONTENTS,)]
    for forbidden in ("DELETE FROM content", "CREATE TABLE mine (id int)", "CREATE TEMPORARY TABLE mine (id int)"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            rows(url, forbidden)


def test_every_row_of_media_names_a_file(filled, addresses):
    client = filled.objects.client()
    listed = {entry["Key"]: entry["Size"] for entry in client.list_objects_v2(Bucket=LEGACY_BUCKET)["Contents"]}
    client.close()
    named = dict(rows(addresses.monolith.admin_url, "SELECT bucket_key, size FROM media_files"))
    assert len(named) == FILES
    assert named.items() <= listed.items()


def test_a_killed_server_comes_back_with_its_rows(home, filled, addresses):
    filled.legacy.kill()
    filled.search.kill()
    assert not filled.legacy.alive()
    again = up(home)
    assert again.search.healthy()
    assert again.addresses() == addresses
    assert rows(addresses.monolith.admin_url, "SELECT count(*) FROM content") == [(CONTENTS,)]


def test_a_half_made_folder_is_made_again(home, fleet):
    fleet.target.kill()
    pgdata = fleet.target.pgdata
    pgdata.rename(pgdata.with_name("pgdata.new"))
    assert rows(up(home).addresses().catalog_url, "SELECT 1") == [(1,)]


def test_many_databases_share_a_server(fleet):
    for name in ("first", "second"):
        monolith = create_monolith(fleet.legacy, name)
        rows(monolith.admin_url, "INSERT INTO authors (name) VALUES ('one') RETURNING id")
        assert rows(monolith.reader_url, "SELECT count(*) FROM authors") == [(1,)]
        drop_database(fleet.legacy, name)
    assert rows(create_target(fleet.target, "elsewhere"), "SELECT current_user") == [("sync_writer",)]
    drop_database(fleet.target, "elsewhere")


class Copier:
    """The plainest sync there is: every content, again and again."""

    def __init__(self, legacy_url, target_url):
        self.urls = legacy_url, target_url
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        rows_of = "id bigint PRIMARY KEY, version integer"
        with connected(self.urls[1]) as target, target.cursor() as cursor:
            cursor.execute("CREATE SCHEMA catalog")
            for kind in ("text", "video", "audio"):
                cursor.execute(f"CREATE TABLE catalog.{kind} ({rows_of})")
        self.thread.start()

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    def run(self):
        with connected(self.urls[0]) as legacy, connected(self.urls[1], autocommit=False) as target:
            while not self.stop.wait(0.05):
                for kind in ("text", "video", "audio"):
                    self.copy(legacy.cursor(), target.cursor(), kind)
                target.commit()

    def copy(self, source, sink, kind):
        source.execute("SELECT id, version FROM content WHERE kind = %s AND deleted_at IS NULL", [kind])
        ids, versions = zip(*source.fetchall(), strict=True)
        sink.execute(f"DELETE FROM catalog.{kind} WHERE id <> ALL(%s)", [list(ids)])
        sink.execute(
            f"INSERT INTO catalog.{kind} AS old SELECT * FROM unnest(%s, %s) ON CONFLICT (id)"
            " DO UPDATE SET version = excluded.version WHERE old.version <> excluded.version",
            [list(ids), list(versions)],
        )


def test_editors_hold_their_rate_and_every_edit_is_seen_to_arrive(filled, addresses):
    monolith, client = addresses.monolith.admin_url, filled.objects.client()
    catalog = filled.addresses().catalog_url
    often = {"late_seconds": (0.5, 2.0), "late_every": 1}
    editors = Editors(monolith, client, LEGACY_BUCKET, rate=50, seconds=5, poison=1, **often)
    with Copier(monolith, catalog), Observer(monolith, catalog) as observer:
        tally = editors.run()
        report = observer.finish()
    client.close()
    assert tally.committed == pytest.approx(250, abs=5)
    assert tally.kinds["poison"] == report.poison == 1
    assert tally.late >= 1
    assert tally.rolled_back >= 1
    logged = rows(monolith, "SELECT count(*) FROM demo.edit_log")[0][0]
    assert report.edits + report.hard_deletes + report.overtaken + report.poison == logged
    assert report.undelivered == 0
    assert 0 < report.share(0.5) < 1


def test_every_logged_edit_raised_its_version(addresses):
    repeated = "SELECT content_id, version FROM demo.edit_log GROUP BY 1, 2 HAVING count(*) > 1"
    assert rows(addresses.monolith.admin_url, repeated) == []
    behind = "SELECT 1 FROM demo.edit_log e JOIN content c ON c.id = e.content_id WHERE c.version < e.version"
    assert rows(addresses.monolith.admin_url, behind) == []
    assert rows(addresses.monolith.admin_url, "SELECT 1 FROM content WHERE title LIKE 'taken back%'") == []


def test_halted_editors_commit_what_is_open(filled, addresses):
    client = filled.objects.client()
    editors = Editors(addresses.monolith.admin_url, client, LEGACY_BUCKET, rate=20, seconds=600, seed=2)
    timer = threading.Timer(0.5, editors.halt)
    timer.start()
    tally = editors.run()
    client.close()
    assert 0 < tally.seconds < 10
    open_editors = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'demo-editor'"
    wait_until(lambda: rows(addresses.monolith.admin_url, open_editors) == [])
