"""The first commands of a new deployment: installation, history, pipes, settings and broken files."""

import os
import subprocess
import sys

import psycopg2
import pytest

from tests.entity_files import entity_file, use_package

TUNES = """
    DROP TABLE IF EXISTS tunes;
    CREATE TABLE tunes (id bigint PRIMARY KEY, title text, updated_at timestamptz NOT NULL DEFAULT now());
    CREATE INDEX ON tunes (updated_at);
    INSERT INTO tunes SELECT n, 'tune ' || n FROM generate_series(1, 8) n;
    GRANT SELECT ON tunes TO sync_reader;
"""
QUERY, COLUMNS = "SELECT id, title FROM tunes", {"id": "bigint", "title": "text"}
STAMPED = "(Table('tunes', key=('id',), stamp='updated_at'),)"


def tune(name="tune", **options):
    return entity_file(name, QUERY, options.pop("tables", STAMPED), COLUMNS, **options)


@pytest.fixture
def tunes(world, monkeypatch):
    world.legacy(TUNES)
    monkeypatch.setenv("SYNC_LEGACY_OWNER_DB", world.monolith.admin_url)
    return world


@pytest.mark.parametrize("ranges", [1, 2, 4])
def test_history_is_filled_right_after_the_log_is_installed(tunes, command, monkeypatch, tmp_path, ranges):
    name = f"logged_{ranges}"
    file = tune(name, tables="(Table('tunes', key=('id',)),)", partitions=f"KeyRanges({ranges})", capture="Wal()")
    use_package(monkeypatch, tmp_path, logged=file)
    assert command("wal", "install", name, "--apply")[0] == 0
    try:
        assert command("check", name)[0] == 0
        code, _, said = command("backfill", name)
        assert (code, said) == (0, "")
        assert tunes.target(f"SELECT count(*) FROM catalog.{name}") == [(8,)]
    finally:
        assert command("wal", "uninstall", name, "--apply")[0] == 0


@pytest.fixture
def program():
    """Run a command as a program of its own: what a shell sees of it."""

    def run(*words, then=None, **options):
        command = [sys.executable, "-c", "from sync_pipeline.cli import main; main()", *words]
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        started = subprocess.Popen(command, env={**os.environ}, text=True, **settings)
        if then:
            then(started)
        _, said = started.communicate(timeout=120)
        return started.returncode, said

    return run


def close_at_once(started):
    started.stdout.close()
    started.stdout = None


@pytest.fixture(params=["", "1"], ids=["buffered", "unbuffered"])
def buffering(request, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", request.param)


@pytest.mark.usefixtures("buffering")
@pytest.mark.parametrize("words", [["reconcile"], ["reconcile", "--format", "json"], ["check"], ["status"], ["sync"]])
def test_a_reader_that_leaves_early_changes_no_exit_code(tunes, command, program, monkeypatch, tmp_path, words):
    use_package(monkeypatch, tmp_path, piped=tune("piped"))
    assert command("backfill", "piped")[0] == 0
    name, *options = words
    assert program(name, "piped", *options, then=close_at_once) == (0, "")
    if name == "reconcile":
        tunes.target("DELETE FROM catalog.piped WHERE id = 1")
        assert program(name, "piped", *options, then=close_at_once)[0] == 1
        assert command("repair", "piped")[0] == 0


@pytest.mark.usefixtures("buffering")
def test_a_reader_of_errors_that_leaves_early_changes_no_exit_code(program):
    def close_errors(started):
        started.stderr.close()
        started.stderr = None

    assert program("status", "no_such_entity", then=close_errors)[0] == 2


@pytest.mark.usefixtures("buffering")
def test_a_report_that_cannot_be_written_is_an_error(tunes, program, monkeypatch, tmp_path):
    use_package(monkeypatch, tmp_path, piped=tune("piped"))
    with open("/dev/full", "w", encoding="utf-8") as full:
        code, said = program("status", "piped", stdout=full)
    assert code == 2
    assert "No space left on device" in said


@pytest.mark.hazard(136)
def test_two_that_fill_one_partition_count_its_rows_once(tunes, program, command, monkeypatch, tmp_path):
    gates = tmp_path / "gates"
    gates.mkdir()
    # the first page of each process waits until both of them have read theirs
    head = f"""
import os, pathlib, time

def adapt(legacy):
    gates = pathlib.Path({str(gates)!r})
    if len(legacy):
        (gates / str(os.getpid())).touch()
    while len(legacy) and len(list(gates.iterdir())) < 2:
        time.sleep(0.01)
    return {{name: legacy[name] for name in legacy.columns}}
"""
    monkeypatch.setenv("SYNC_CHUNK_ROWS", "3")
    use_package(monkeypatch, tmp_path, twice=tune("twice", head=head, adapt="adapt"))
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    words = [sys.executable, "-c", "from sync_pipeline.cli import main; main()", "backfill", "twice"]
    both = [subprocess.Popen(words, **options) for _ in range(2)]
    said = [each.communicate(timeout=120) for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    assert tunes.target("SELECT rows, written, done FROM sync.backfill WHERE entity = 'twice'") == [(8, 8, True)]
    assert command("reconcile", "twice")[0] == 0


@pytest.mark.parametrize("separator", ["?", "?sslmode=prefer&connect_timeout=3&"])
def test_options_of_a_url_reach_the_server(tunes, command, monkeypatch, tmp_path, separator):
    tunes.legacy(
        "CREATE SCHEMA IF NOT EXISTS url_options; GRANT USAGE ON SCHEMA url_options TO sync_reader;"
        "DROP TABLE IF EXISTS url_options.airs; CREATE TABLE url_options.airs (id bigint PRIMARY KEY, title text,"
        " updated_at timestamptz NOT NULL DEFAULT now()); CREATE INDEX ON url_options.airs (updated_at);"
        "INSERT INTO url_options.airs SELECT n, 'air ' || n FROM generate_series(1, 3) n;"
        "GRANT SELECT ON url_options.airs TO sync_reader"
    )
    url = tunes.monolith.reader_url
    monkeypatch.setenv("SYNC_LEGACY_DB", f"{url}{separator}options=-csearch_path%3Durl_options")
    tables = "(Table('airs', key=('id',), stamp='updated_at'),)"
    use_package(monkeypatch, tmp_path, air=entity_file("air", "SELECT id, title FROM airs", tables, COLUMNS))
    code, out, said = command("check", "air")
    assert (code, said) == (0, ""), out
    assert command("backfill", "air")[0] == 0
    assert command("reconcile", "air")[0] == 0


def test_the_first_host_that_answers_serves(tunes, command, monkeypatch, tmp_path):
    use_package(monkeypatch, tmp_path, hosts=tune("hosts"))
    parts = psycopg2.extensions.parse_dsn(tunes.monolith.reader_url)
    several = f"127.0.0.1:1,{parts['host']}:{parts['port']}"
    who = f"{parts['user']}:{parts['password']}" if "password" in parts else parts["user"]
    url = f"postgresql://{who}@{several}/{parts['dbname']}?target_session_attrs=primary"
    monkeypatch.setenv("SYNC_LEGACY_DB", url)
    assert command("check", "hosts")[0] == 0
    monkeypatch.setenv("SYNC_LEGACY_DB", url.replace("primary", "standby"))
    code, out, _ = command("check", "hosts")
    assert code == 2
    assert "SYNC_LEGACY_DB" in out


def test_a_service_names_the_database(tunes, command, monkeypatch, tmp_path):
    use_package(monkeypatch, tmp_path, served=tune("served"))
    parts = psycopg2.extensions.parse_dsn(tunes.monolith.reader_url)
    file = tmp_path / "services"
    file.write_text("[legacy]\n" + "".join(f"{name}={value}\n" for name, value in parts.items()), encoding="utf-8")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    monkeypatch.setenv("SYNC_LEGACY_DB", "postgresql:///?service=legacy")
    assert command("check", "served")[0] == 0


@pytest.mark.hazard(138)
def test_a_broken_file_stops_its_own_entity_alone(tunes, command, monkeypatch, tmp_path):
    use_package(monkeypatch, tmp_path, sound=tune("sound"), reel="import transcodelib\n" + tune("reel"))
    named = "reel: ModuleNotFoundError: No module named 'transcodelib' (reel.py, line 1)"
    for words in (["backfill", "--all"], ["sync", "--all"], ["status"], ["reconcile", "--all"]):
        code, out, said = command(*words)
        assert code == 2, words
        assert named in said, words
        assert "sound" in out, words
    assert tunes.target("SELECT count(*) FROM catalog.sound") == [(8,)]
    code, out, said = command("reconcile", "sound")
    assert (code, named in said) == (0, True)
    code, _, said = command("sync", "reel")
    assert code == 2
    assert named in said.splitlines()[-1]
    code, out, _ = command("check")
    assert (code, named in " ".join(out.split())) == (2, True)
    assert command("check", "sound")[0] == 0


def test_what_a_broken_file_may_own_is_not_called_left_behind(tunes, command, monkeypatch, tmp_path):
    file = tune("kept", tables="(Table('tunes', key=('id',)),)", capture="Wal()")
    name = use_package(monkeypatch, tmp_path, kept=file, sound=tune("sound"))
    assert command("wal", "install", "kept", "--apply")[0] == 0
    try:
        assert command("backfill", "--all")[0] == 0
        (tmp_path / name / "kept.py").write_text("import transcodelib\n", encoding="utf-8")
        monkeypatch.delitem(sys.modules, f"{name}.kept")
        for words in (["check"], ["status"]):
            _, out, said = command(*words)
            assert "belongs to no entity" not in out + said
            assert "pg_drop_replication_slot" not in out + said
        assert command("outbox", "uninstall", "--gone", "--apply")[0] == 2
        (tmp_path / name / "kept.py").write_text(file, encoding="utf-8")
    finally:
        assert command("wal", "uninstall", "kept", "--apply")[0] == 0


@pytest.mark.hazard(139)
def test_a_key_that_the_query_gives_twice_is_parked(tunes, command, monkeypatch, tmp_path):
    tunes.legacy(
        "DROP TABLE IF EXISTS profiles; CREATE TABLE profiles (tune_id bigint, bio text);"
        "INSERT INTO profiles VALUES (3, 'first'), (3, 'second'), (4, 'only'); GRANT SELECT ON profiles TO sync_reader"
    )
    query = "SELECT t.id, t.title, p.bio FROM tunes t LEFT JOIN profiles p ON p.tune_id = t.id"
    columns = {**COLUMNS, "bio": "text"}
    use_package(monkeypatch, tmp_path, doubled=entity_file("doubled", query, STAMPED, columns))
    code, out, _ = command("check", "doubled")
    assert code == 2
    assert "the query gives a key (id) more than once, for example 3" in " ".join(out.split())
    assert command("backfill", "doubled")[0] == 0
    assert tunes.target("SELECT id, bio FROM catalog.doubled WHERE id IN (3, 4)") == [(4, "only")]
    assert tunes.target("SELECT key, step, error FROM sync.due WHERE entity = 'doubled'") == [
        ("3", "read", "RepeatedKey")
    ]
    _, out, _ = command("dead-letters", "list", "doubled")
    assert "the query gives this key more than once (id)" in " ".join(out.split())
    for _ in range(2):  # it settles
        assert command("reconcile", "doubled")[0] == 0
    tunes.legacy("DELETE FROM profiles WHERE bio = 'second'")
    assert command("dead-letters", "replay", "doubled", "--key", "3")[0] == 0
    assert tunes.target("SELECT bio FROM catalog.doubled WHERE id = 3") == [("first",)]
    assert command("check", "doubled")[0] == 0
