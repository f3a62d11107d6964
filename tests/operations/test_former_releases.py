"""A ledger that is migrated while programs of the former release still run."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import closing, contextmanager

import psycopg2
import pytest

from sync_pipeline.errors import FormerReleaseError
from sync_pipeline.ledger import ledger, release
from tests.entity_files import entity_file, use_package
from tests.hands import at_work
from tests.world import wait_for

SONGS = """
    DROP TABLE IF EXISTS songs;
    CREATE TABLE songs (id bigint PRIMARY KEY, title text, updated_at timestamptz NOT NULL DEFAULT now());
    CREATE INDEX ON songs (updated_at);
    INSERT INTO songs SELECT n, 'song ' || n FROM generate_series(1, 40) n;
    GRANT SELECT ON songs TO sync_reader;
"""
COLUMNS = {"id": "bigint", "title": "text"}
THIS_RELEASE = release.release()
# a program that does not know the ledger's last migration
FORMER = """
import sync_pipeline.ledger.release as release
known = release.migrations()[:-1]
release.migrations = lambda: known
from sync_pipeline.cli import main
main()
"""
PRESENT = "from sync_pipeline.cli import main; main()"


@pytest.fixture
def song(world, command, monkeypatch, tmp_path):
    """A table that is followed; a ledger that admits all releases before and after."""
    world.legacy(SONGS)
    tables = "(Table('songs', key=('id',), stamp='updated_at'),)"
    use_package(monkeypatch, tmp_path, song=entity_file("song", "SELECT id, title FROM songs", tables, COLUMNS))
    assert command("backfill", "song")[0] == 0
    world.target("UPDATE sync.ledger_identity SET oldest_writer = 0")
    yield world
    world.target("UPDATE sync.ledger_identity SET oldest_writer = 0")


@contextmanager
def following(program, log):
    """A follower of its own process, whose errors go to `log`."""
    command = [sys.executable, "-c", program, "sync", "song", "--follow"]
    with log.open("w") as errors:
        process = subprocess.Popen(command, env={**os.environ}, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def edit(cursor, dice):
    cursor.execute(
        "INSERT INTO songs (id, title) VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET title = excluded.title,"
        " updated_at = clock_timestamp()",
        (dice.randrange(80), f"edited {dice.random()}"),
    )


def owner(world):
    return world.target("SELECT owner FROM sync.cursor WHERE entity = 'song'")[0][0]


def songs(world):
    return world.legacy("SELECT id, title FROM songs ORDER BY id")


def carried(world):
    return world.target("SELECT id, title FROM catalog.song ORDER BY id")


def require_present(world):
    """The second step of a migration; gives the last revision that was drawn before it."""
    world.target("SELECT sync.require_writer(%s)", (THIS_RELEASE,))
    return world.target("SELECT last_value FROM sync.revision")[0][0]


@pytest.mark.hazard(145)
def test_a_follower_of_the_former_release_is_replaced_while_the_ledger_is_migrated(song, tmp_path):
    logs = [tmp_path / name for name in ("former", "present")]
    with at_work(song.monolith.admin_url, edit):
        with following(FORMER, logs[0]) as former:
            wait_for(lambda: owner(song) and any(title.startswith("edited") for _, title in carried(song)), 60)
            first = owner(song)
            assert str(former.pid) in first
            with following(PRESENT, logs[1]) as present:
                wait_for(lambda: song.target("SELECT count(*) FROM sync.heartbeat")[0][0] >= 2, 60)
                assert owner(song) == first  # they run side by side until the second step
                last = require_present(song)
                wait_for(lambda: owner(song) not in (None, first), 60)
                assert former.poll() is None
                assert present.poll() is None
                # nothing that the former release began afterwards is in the ledger
                workers = song.target("SELECT DISTINCT worker FROM sync.batch WHERE revision > %s", (last,))
                assert first not in [worker for (worker,) in workers]
                wait_for(lambda: "the ledger refuses this program" in logs[0].read_text())
        assert former.returncode != 0
    with following(PRESENT, logs[1]):
        wait_for(lambda: carried(song) == songs(song), 60)
    said = logs[0].read_text()
    assert "a newer release has migrated the ledger" in said.lower()
    assert "Traceback" not in said, said


def test_a_migration_waits_for_batches_that_have_begun(song):
    with closing(psycopg2.connect(song.target_url, application_name="sync-pipeline/x")) as batch:
        cursor = batch.cursor()
        cursor.execute("SET sync.writer = '1'; UPDATE sync.cursor SET epoch = epoch WHERE entity = 'song'")
        migration = threading.Thread(target=require_present, args=(song,))
        migration.start()
        wait_for(
            lambda: song.target("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 2 AND NOT granted")
        )
        assert song.target("SELECT oldest_writer FROM sync.ledger_identity") == [(0,)]
        batch.commit()
        migration.join(30)
        assert song.target("SELECT oldest_writer FROM sync.ledger_identity") == [(THIS_RELEASE,)]
        with pytest.raises(psycopg2.Error) as refused:
            cursor.execute("UPDATE sync.cursor SET epoch = epoch WHERE entity = 'song'")
        assert refused.value.pgcode == release.FORMER_RELEASE


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE sync.cursor SET epoch = epoch",
        "UPDATE sync.due SET attempts = attempts",
        "DELETE FROM sync.batch",
        "UPDATE sync.backfill SET rows = rows",
        "DELETE FROM sync.sweep",
        "DELETE FROM sync.recovery",
        "DELETE FROM sync.rebuild",
    ],
)
def test_a_release_from_before_this_rule_is_refused_too(song, statement):
    require_present(song)
    with closing(psycopg2.connect(song.target_url, application_name="sync-pipeline/x")) as worker:
        with pytest.raises(psycopg2.Error) as refused:
            worker.cursor().execute(statement)
        assert refused.value.pgcode == release.FORMER_RELEASE
    with closing(psycopg2.connect(song.target_url, application_name="psql")) as person:
        person.cursor().execute(statement)  # it is rolled back


@pytest.fixture
def former(monkeypatch):
    """This process as one of the former release."""
    known = release.migrations()[:-1]
    for module in (release, ledger):
        monkeypatch.setattr(module, "migrations", lambda: known)


@pytest.mark.hazard(145)
@pytest.mark.parametrize("words", [["sync", "song"], ["backfill", "song"], ["repair", "song"]], ids=" ".join)
def test_commands_of_the_former_release_say_why_they_write_nothing(song, command, former, words):
    require_present(song)
    before = song.target("SELECT count(*), max(revision) FROM sync.batch")
    code, _, said = command(*words)
    assert code == 2
    assert "upgrade sync-pipeline here" in said
    assert song.target("SELECT count(*), max(revision) FROM sync.batch") == before


def test_a_ledger_that_is_newer_and_admits_the_former_release_is_written(song, command, former):
    song.legacy("UPDATE songs SET title = 'newer', updated_at = clock_timestamp() WHERE id = 1")
    assert command("sync", "song")[0] == 0
    assert carried(song) == songs(song)


@pytest.mark.hazard(145)
def test_without_its_guard_the_former_release_goes_on_writing(song, command, former, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "145")
    require_present(song)
    song.legacy("UPDATE songs SET title = 'damaged', updated_at = clock_timestamp() WHERE id = 2")
    assert command("sync", "song")[0] == 0
    assert (2, "damaged") in carried(song)


def test_the_session_of_each_release_says_which_it_is(song):
    with song.stores.target() as cursor:
        cursor.execute("SELECT current_setting('sync.writer')")
        assert cursor.fetchone() == (str(THIS_RELEASE),)


def test_the_error_is_raised_where_the_ledger_refuses_a_write(song, former):
    require_present(song)
    with pytest.raises(FormerReleaseError, match="upgrade sync-pipeline"), song.stores.target() as cursor:
        cursor.execute("SET LOCAL sync.writer = '1'; UPDATE sync.cursor SET epoch = epoch")
