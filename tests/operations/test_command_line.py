"""The command line on real servers: what it says, to whom, and its exit codes."""

import io
import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace

import psycopg2
import pytest

from sync_pipeline.entities import files as entity_files
from sync_pipeline.entities.files import EntityFiles, load_entities
from sync_pipeline.entity import LegacyQuery
from sync_pipeline.ledger.ledger import migrate
from sync_pipeline.model.findings import FindingKind
from sync_pipeline.operate import status as reports
from sync_pipeline.operate.status import status_of
from sync_pipeline.queue.due import PRIORITY
from sync_pipeline.run.follower import Follower
from tests.world import wait_for

CONTENTS, FILES, POISON = 900, 12, 3
# what a shell starts in the background ignores Ctrl-C, and so would all that the tests start
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from sync_pipeline.cli import main
main()
"""


@pytest.fixture(scope="module")
def loaded(world):
    world.load(CONTENTS, FILES, POISON)
    return world


@pytest.fixture
def command(loaded, command):
    return command


@pytest.fixture(scope="module")
def started(loaded):
    """Start a command as a program of its own; none is left running."""
    running_now = []

    def start(*words, **options):
        program = [sys.executable, "-c", INTERRUPTIBLE, *words]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        made = subprocess.Popen(program, env={**os.environ, "SYNC_CHUNK_ROWS": "50"}, **options)
        running_now.append(made)
        return made

    yield start
    for made in running_now:
        made.kill()
        made.communicate()


HOLD = """
    CREATE FUNCTION sync.hold() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_advisory_xact_lock_shared(69); RETURN new; END $$;
    CREATE TRIGGER hold BEFORE UPDATE ON sync.backfill FOR EACH ROW WHEN (new.partition = ANY('{held}'))
        EXECUTE FUNCTION sync.hold();
"""


def test_a_backfill_cut_off_by_a_person_goes_on_where_it_was(loaded, started):
    done = "SELECT count(*) FROM sync.backfill WHERE done AND rows > 0"
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 69 AND NOT granted"
    workers = loaded.stores.settings.backfill_workers
    held = load_entities("assets.entities")["text"].partitions.names()[60 : 60 + workers]
    migrate(loaded.stores)
    with closing(psycopg2.connect(loaded.target_url)) as other, other.cursor() as cursor:
        # each worker comes to a partition whose progress it cannot record, and waits there for us
        cursor.execute(HOLD.format(held="{" + ",".join(held) + "}"))
        other.commit()
        cursor.execute("SELECT pg_advisory_xact_lock(69)")
        cut = started("backfill", "text")
        wait_for(lambda: loaded.target(waiting)[0][0] == workers)
        cut.send_signal(signal.SIGINT)
        other.rollback()
        cursor.execute("DROP FUNCTION sync.hold CASCADE")
        other.commit()
    _, said = cut.communicate(timeout=30)
    assert cut.returncode == 130, said
    assert said.startswith("Interrupted.")
    assert "Traceback" not in said
    kept = loaded.target(done)[0][0]
    assert 3 <= kept < 90
    for entity in ("text", "video", "audio"):
        rest = started("backfill", entity, "--format", "json")
        out, said = rest.communicate(timeout=60)
        assert (rest.returncode, said) == (0, "")
    assert sum(part["rows"] for part in json.loads(out)["audio"]) > 0


def test_a_command_that_follows_ends_in_order_when_asked(loaded, started):
    follower = started("sync", "--all", "--follow", "--format", "json")
    wait_for(lambda: loaded.target("SELECT count(*) FROM sync.cursor WHERE owner IS NOT NULL")[0][0] == 3)
    follower.send_signal(signal.SIGTERM)
    out, said = follower.communicate(timeout=30)
    assert (follower.returncode, said) == (0, "")
    assert set(json.loads(out)) == {"text", "video", "audio"}
    assert loaded.target("SELECT count(*) FROM sync.cursor WHERE owner IS NOT NULL") == [(0,)]


def test_interrupted_before_it_caught_up_is_told_apart(loaded, started):
    with psycopg2.connect(loaded.monolith.admin_url) as late, late.cursor() as cursor:
        cursor.execute("UPDATE authors SET bio = bio WHERE id = 1")
        waiting = started("sync", "text", "--until-caught-up")
        wait_for(lambda: loaded.target("SELECT owner FROM sync.cursor WHERE entity = 'text'") != [(None,)])
        waiting.send_signal(signal.SIGINT)
        _, said = waiting.communicate(timeout=30)
    late.close()
    assert waiting.returncode == 130
    assert said.startswith("Interrupted.")


def test_caught_up_is_0_and_parked_rows_are_told(command):
    code, out, said = command("sync", "--all", "--until-caught-up")
    assert (code, said) == (0, "")
    assert "Rows of text are parked: sync-pipeline dead-letters list text" in out


def test_an_entity_that_cannot_be_opened_holds_up_no_other(loaded, command, monkeypatch):
    entities = load_entities("assets.entities")
    broken = replace(entities["audio"], origin=LegacyQuery("SELECT id, no_such_column FROM content", key=("id",)))
    monkeypatch.setattr(
        entity_files, "read_entity_files", lambda _: EntityFiles({"audio": broken, "text": entities["text"]}, {}, {})
    )
    key = loaded.legacy(
        "UPDATE content SET title = 'after all', updated_at = now() WHERE id ="
        " (SELECT min(id) FROM content WHERE kind = 'text' AND deleted_at IS NULL) RETURNING id"
    )[0][0]
    code, out, said = command("sync", "--all")
    assert (code, out) == (2, "")
    assert said == 'Stopped: entity audio: the legacy query fails: column "no_such_column" does not exist\n'
    assert loaded.target("SELECT header FROM catalog.text WHERE id = %s", (key,)) == [("after all",)]
    assert command("sync", "audio")[2] == said


def test_a_reconciliation_reads_as_promised(command, loaded):
    parked = dict(loaded.target("SELECT entity, count(*) FROM sync.due WHERE reason = 'rejected' GROUP BY 1"))
    assert parked
    code, out, said = command("reconcile", "--all", "--format", "json")
    assert (code, said) == (0, "")
    report = json.loads(out)
    assert report["verdict"] == "clean"
    assert list(report["entities"]) == ["audio", "text", "video"]
    for name, found in report["entities"].items():
        assert found["compared"] > 0
        assert {sample["kind"] for sample in found["samples"]} <= {"pending"}
        assert found["relational"] == {**dict.fromkeys(FindingKind, 0), "pending": parked.get(name, 0)}
        for sink in ("search", "media"):
            assert found[sink] == dict.fromkeys(FindingKind, 0)
    code, out, said = command("reconcile", "--all")
    assert (code, said) == (0, "")
    assert "Verdict: clean" in out
    assert "{" not in out


def test_drift_is_1_and_repair_mends_it(loaded, command):
    key = loaded.target("DELETE FROM catalog.text WHERE id = (SELECT min(id) FROM catalog.text) RETURNING id")[0][0]
    code, out, _ = command("reconcile", "text")
    assert code == 1
    assert "Verdict: drift" in out
    line = next(line.split() for line in out.splitlines() if f" {key} " in line)
    assert line[:4] == ["text", "relational", "missing", str(key)]
    code, out, _ = command("repair", "text", "--format", "json")
    assert code == 0
    assert json.loads(out)["text"]["written"] == 1
    assert command("reconcile", "text")[0] == 0


@pytest.mark.hazard(36)
def test_what_cannot_be_looked_at_is_2(command, monkeypatch):
    monkeypatch.setenv("SYNC_TARGET_S3_BUCKET", "nowhere")
    code, out, _ = command("reconcile", "text", "--format", "json")
    assert code == 2
    assert json.loads(out)["verdict"] == "unknown"
    code, out, _ = command("repair", "text")
    assert code == 2
    assert "could not be looked at" in out


def test_an_error_nobody_foresaw_is_2_too(command, monkeypatch):
    def break_down(*_):
        raise ZeroDivisionError("of no use")

    monkeypatch.setattr(reports, "status_of", break_down)
    code, out, said = command("status")
    assert (code, out, said) == (2, "", "ZeroDivisionError: of no use (--debug shows where)\n")
    monkeypatch.setenv("SYNC_DEBUG", "1")
    code, _, said = command("status")
    assert code == 2
    assert "break_down" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sync", "text", "--all"], "not both"),
        (["sync"], "name an entity, or say --all"),
        (["sync", "texts"], "no entity texts; there are audio, text, video"),
        (["backfill", "texts"], "no entity texts; there are audio, text, video"),
        (["backfill", "text", "--partition", "2020-13"], "has no partition '2020-13'; nearest are 2020-12"),
        (["backfill", "text", "--partition", "x"], "there are undated to 20"),
        (["sync", "text", "--key", "x7"], "a key of entity text is id bigint"),
        (["repair", "text", "--key", "x7"], "a key of entity text is id bigint"),
        (["sync", "--all", "--key", "7"], "--key goes with one entity"),
        (["sync", "text", "--key", "7", "--follow"], "exclude each other"),
        (["due", "list", "--reason", "laziness"], f"there are {', '.join(PRIORITY)}"),
        (["reconcile", "text", "--format", "xml"], "xml"),
    ],
)
def test_what_was_said_wrong_is_told(command, words, says):
    code, out, said = command(*words)
    assert (code, out) == (2, "")
    assert says in " ".join(said.replace("│", " ").split())


def test_a_missing_setting_is_named(command, monkeypatch):
    monkeypatch.delenv("SYNC_SEARCH_URL")
    code, _, said = command("status")
    assert code == 2
    assert "SYNC_SEARCH_URL is not set" in said


def test_a_preflight_reads_as_a_list_of_what_to_do(loaded, command):
    assert command("check")[0] == 0
    loaded.legacy("DROP INDEX content_updated_at")
    try:
        code, out, _ = command("check", "text")
        report = json.loads(command("check", "text", "--format", "json")[1])
    finally:
        loaded.legacy("CREATE INDEX content_updated_at ON content (updated_at, id)")
    assert code == 2
    assert "\n    CREATE INDEX CONCURRENTLY ON content (updated_at);" in out
    assert report["verdict"] == "error"
    assert set(report["findings"][0]) == {"level", "about", "what", "remedy"}


def test_what_is_owed_is_grouped_counted_and_limited(loaded, command):
    assert command("due", "list")[1] == "Nothing is owed.\n"  # rows that were refused are not
    owe = "INSERT INTO sync.due (entity, reason, keys, revision, priority, not_before) VALUES (%s, %s, %s, 0, 9, now())"
    loaded.target(owe, ("text", "sweep", ["1", "2"]))
    loaded.target(owe, ("text", "sweep", ["3"]))
    code, out, _ = command("due", "list", "--limit", "1", "--format", "json")
    report = json.loads(out)
    assert code == 0
    assert [found["total"] for found in report.values()] == [0, 2, 0]
    owed = report["text"]
    assert len(owed["records"]) == 1
    assert [(cause["reason"], cause["keys"]) for cause in owed["causes"]] == [("sweep", 3)]
    _, out, _ = command("due", "list", "--limit", "1")
    assert "of 2 records" in out
    assert json.loads(command("due", "list", "text", "--key", "2", "--format", "json")[1])["text"]["total"] == 1
    assert command("due", "list", "--reason", "media")[1] == "Nothing is owed.\n"
    assert json.loads(command("due", "replay", "text", "--format", "json")[1]) == {"text": 2}
    assert command("due", "list")[1] == "Nothing is owed.\n"


@pytest.mark.hazard(3)
@pytest.mark.hazard(76)
def test_who_holds_the_window_is_told(loaded, command, monkeypatch):
    with psycopg2.connect(loaded.monolith.admin_url) as late, late.cursor() as cursor:
        cursor.execute("UPDATE authors SET bio = 'forgotten' WHERE id = 1")
        named = f"pid {late.info.backend_pid} {late.info.user} (idle in transaction) UPDATE"
        context = loaded.context("text")
        holder = "SELECT window_holder FROM sync.cursor WHERE entity = 'text'"
        with loaded.following([context]):
            wait_for(lambda: named in (loaded.target(holder)[0][0] or ""))
            assert standing(command("status", "--all")[1])["text"]["followed"] == "yes"
        assert "has been open" not in command("status")[1]
        monkeypatch.setenv("SYNC_WINDOW_ALERT_SECONDS", "0")
        code, out, _ = command("status")
        report = json.loads(command("status", "text", "--format", "json")[1])["text"]
    late.close()
    assert code == 0
    assert standing(command("status")[1])["text"]["followed"] == "no"
    assert "a transaction of the monolith has been open for" in out
    assert named in out
    assert "bio" not in out
    assert report["window_seconds"] > 0
    assert report["backfill"]["done"] == report["backfill"]["declared"]


def standing(out):
    """The table of `status`, by entity and column."""
    heads, _, *rows = (re.split(r" {2,}", line.strip()) for line in out.splitlines() if line.strip())
    return {row[0]: dict(zip(heads, row, strict=True)) for row in rows if len(row) == len(heads)}


@pytest.mark.hazard(48)
def test_a_history_of_an_older_version_counts_as_not_filled(loaded):
    text = load_entities("assets.entities")["text"]
    now, later = (status_of(loaded.stores, entity)["backfill"] for entity in (text, replace(text, version=2)))
    assert now["done"] == now["declared"]
    assert later == {"declared": now["declared"], "done": 0, "unfinished": 0, "rows": 0, "missing": []}


def test_what_stops_an_entity_is_told_in_a_line(loaded):
    text = load_entities("assets.entities")["text"]
    said = io.StringIO()
    telling = logging.StreamHandler(said)
    log = logging.getLogger("sync_pipeline.run.follower")
    log.addHandler(telling)
    loaded.legacy("ALTER TABLE content RENAME rating TO stars")
    follower, stop = Follower([text], loaded.stores), threading.Event()
    following = threading.Thread(target=follower.run, args=(stop,))
    following.start()
    try:
        wait_for(lambda: follower.failures)
        assert not status_of(loaded.stores, text)["followed"]
    finally:
        stop.set()
        following.join()
        loaded.legacy("ALTER TABLE content RENAME stars TO rating")
        log.removeHandler(telling)
    assert str(follower.failures["text"]).endswith("the legacy query fails: column c.rating does not exist")
    assert set(said.getvalue().splitlines()) == {"entity stopped"}


def test_progress_shows_on_a_terminal_and_nowhere_else(started):
    reading, writing = pty.openpty()
    shown = started("reconcile", "text", stderr=writing)
    os.close(writing)
    drawn = b""
    try:
        while part := os.read(reading, 4096):
            drawn += part
    except OSError:
        pass  # the terminal's other end is closed
    os.close(reading)
    out, _ = shown.communicate(timeout=30)
    assert shown.returncode == 0
    assert "text: rows" in drawn.decode()
    assert "text: rows" not in out
    piped = started("reconcile", "text")
    assert piped.communicate(timeout=30)[1] == ""


def test_a_rebuilt_index_is_told_and_the_former_one_deleted_on_request(loaded, command):
    code, out, said = command("rebuild", "index", "audio")
    assert (code, said) == (0, "")
    assert "audio-000001 is kept: sync-pipeline rebuild clear audio deletes it." in out
    loaded.target(
        "INSERT INTO sync.rebuild (entity, name, former, declared, state)"
        " VALUES ('audio', 'audio-000003', 'audio-000002', '{}', 'making')"
    )
    assert "audio: audio-000003 is filled beside audio-000002 since " in command("status", "audio")[1]
    assert "its file has changed since the rebuild of audio-000003" in command("rebuild", "index", "audio")[2]
    assert command("rebuild", "abandon", "audio")[:2] == (0, "audio-000003 is given up.\n")
    assert command("rebuild", "abandon", "audio")[1] == "No rebuild of audio is under way.\n"
    assert command("rebuild", "clear", "audio")[1] == "audio-000001: deleted.\n"
    assert command("rebuild", "clear", "audio", "--format", "json")[1] == '{"audio": []}\n'
    assert command("rebuild", "index", "--format", "json")[0] == 2


def test_a_rebuilt_table_is_told_and_what_is_in_its_way(loaded, command):
    code, _, said = command("rebuild", "table", "audio")
    assert (code, said) == (
        2,
        "Setting: catalog.audio_next is not there: make it by a migration of yours, or say --like\n",
    )
    code, out, said = command("rebuild", "table", "audio", "--like", "--format", "json")
    made = json.loads(out)["audio"]
    assert (code, said, made["findings"]) == (0, "", [])
    assert (made["kind"], made["name"], made["former"]) == ("table", "catalog.audio", "catalog.audio_former")
    assert command("rebuild", "table", "audio", "--like")[0] == 2
    assert command("rebuild", "clear", "audio")[1] == "catalog.audio_former: deleted.\n"
    assert command("rebuild", "abandon", "audio")[1] == "No rebuild of audio is under way.\n"
