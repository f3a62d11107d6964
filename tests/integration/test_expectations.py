"""Expectations on real servers: green on clean rows, red for each fault, and pages that people can open."""

import re
import urllib.error
import urllib.request
from pathlib import Path

import dagster as dg
import pytest

from assets.definitions import definitions
from checks.data_docs import DataDocs
from checks.expect import Between, Holds, Known, OneOf, RefersTo, Rows, Unique
from checks.report import SAMPLES
from checks.serving import serving
from checks.suite import LEGACY as LEGACY_SIDE
from checks.suite import NEW as NEW_SIDE
from checks.suite import Side

# Great Expectations' own, at its import
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
NEW = dg.AssetCheckKey(dg.AssetKey(["catalog", "video"]), "expectations")
LEGACY = dg.AssetCheckKey(dg.AssetKey(["legacy", "content"]), "expectations_video")


@pytest.fixture(scope="module")
def world(fresh_world, tmp_path_factory):
    fresh_world.load(contents=400, files=10)
    fresh_world.backfill()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNC_DATA_DOCS", str(tmp_path_factory.mktemp("docs")))
        patch.setenv("SYNC_DATA_DOCS_KEEP", "2")
        yield fresh_world


@pytest.fixture(scope="module")
def instance():
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def run(instance, *, fails=False):
    """Evaluations of the whole job, by check."""
    done = definitions().resolve_job_def("expectations").execute_in_process(instance=instance, raise_on_error=False)
    assert done.success is not fails
    return {evaluation.asset_check_key: evaluation for evaluation in done.get_asset_check_evaluations()}


def table(evaluation):
    """The check's table, by expectation."""
    return {record.data["expectation"]: record.data for record in evaluation.metadata["results"].records}


def fetched(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def test_clean_rows_are_green_and_their_page_can_be_opened(world, instance, monkeypatch):
    with serving(DataDocs.from_env(), port=0) as address:
        monkeypatch.setenv("SYNC_DATA_DOCS_URL", address)
        found = run(instance)
        assert len(found) == 6
        assert {key: evaluation.description for key, evaluation in found.items() if not evaluation.passed} == {}
        for evaluation in found.values():
            page = fetched(evaluation.metadata["Data Docs"].value)
            assert all(record["expectation"] in page for record in table(evaluation).values())
            assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
        assert "video.new" in fetched(f"{address}/index.html")
        with pytest.raises(urllib.error.HTTPError):
            fetched(f"{address}/validations/")
    video = found[NEW]
    assert video.metadata["rows"].value == world.target("SELECT count(*) FROM catalog.video")[0][0]
    assert table(video)["price is at least 0"]["ok"] == "yes"
    assert "id " in table(video)["header is not null, in at least 95 % of rows"]["samples"]


def test_pages_hold_no_password(world):
    published = [file for file in Path(DataDocs.from_env().home).rglob("*") if file.suffix in {".html", ".json"}]
    assert published
    password = world.monolith.reader_url.split(":")[2].split("@")[0]
    assert [file for file in published if password in file.read_text()] == []


def test_a_check_runs_alone(world, instance):
    job = definitions().resolve_job_def("expectations").get_subset(asset_check_selection={LEGACY})
    done = job.execute_in_process(instance=instance)
    assert [evaluation.asset_check_key for evaluation in done.get_asset_check_evaluations()] == [LEGACY]


def test_few_rows_come_here_and_nothing_is_made_there(world, tmp_path, monkeypatch):
    """However many rows there are and however many are unexpected: memory is bounded by this."""
    from checks import validation

    brought, sessions, execute = {}, set(), validation.BoundedCursor.execute

    def recorded(cursor, query, values=None):
        execute(cursor, query, values)
        brought[str(query)] = cursor.rowcount
        sessions.add(cursor.connection.info.dsn_parameters["options"])

    monkeypatch.setattr(validation.BoundedCursor, "execute", recorded)
    rows = Rows(
        "SELECT n AS id, n % 7 AS kind FROM generate_series(1, 5000) n WHERE ' :a' <> ':b {c} %'::text", ("id",)
    )
    never = (
        Holds("nothing holds", "false"),
        Unique(("kind",)),
        Unique(("kind", "kind")),
        OneOf("kind", (8,)),
        Between("id", at_most=0),
        RefersTo("id", "pg_catalog.pg_class", "relpages"),
        Holds("special signs are only text", "'{:a} %' = ':a' OR t.kind::text LIKE '%:x{9}'"),
        Known("the mean is low", "ExpectColumnMeanToBeBetween", {"column": "id", "max_value": 1}),
    )
    for side in (NEW_SIDE, LEGACY_SIDE):
        report = validation.Validator(world.stores.settings, tmp_path, "run").validate(
            Side("numbers", side, "numbers", rows, never)
        )
        assert [result.expectation.words for result in report.results if result.met or result.fault] == []
    assert max(brought.values()) <= SAMPLES
    assert [query for query in brought if "CREATE" in query or "INSERT" in query] == []
    assert all("default_transaction_read_only=on" in options for options in sessions)
    assert {"row_security=off" in options for options in sessions} == {True, False}  # only the monolith hides rows


def test_what_is_said_in_the_same_words_is_looked_at_apart(world, tmp_path):
    from checks import validation

    rows = Rows("SELECT n AS id FROM generate_series(1, 10) n", ("id",))
    said = "ids are as they should be"
    share = Holds("nine of ten are small", "t.id < 10", mostly=0.9)
    asked = (Holds(said, "t.id > 10"), Holds(said, "t.id > 0"), share)
    report = validation.Validator(world.stores.settings, tmp_path, "run").validate(
        Side("numbers", NEW_SIDE, "numbers", rows, asked)
    )
    assert [result.met for result in report.results] == [False, True, True]


def pages(root, suite):
    """Oldest first: a page lies in a folder named by its time."""
    return sorted(Path(root).glob(f"site/validations/{suite}/**/*.html"), key=lambda page: page.parent.name)


def test_a_side_that_does_not_answer_is_red_and_hides_nothing(world, instance, monkeypatch):
    monkeypatch.setenv("SYNC_LEGACY_DB", "postgresql://nobody:secret@127.0.0.1:1/nothing")
    found = run(instance, fails=True)
    assert len(found) == 6
    assert not found[LEGACY].passed
    assert found[LEGACY].severity is dg.AssetCheckSeverity.ERROR
    assert "content could not be looked at: connection to server" in found[LEGACY].description
    assert found[NEW].passed


@pytest.mark.parametrize("home", ["file/docs", "s3://no-such-bucket/quality", "full"])
def test_rows_are_looked_at_though_data_docs_cannot_be_published(world, instance, monkeypatch, tmp_path, home):
    from checks import validation

    if home == "full":
        monkeypatch.setattr(
            validation.Validator, "validate", _of_a_full_volume(validation.Validator.validate, tmp_path)
        )
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SYNC_DATA_DOCS", home if "://" in home else str(tmp_path / home))
    monkeypatch.setenv("SYNC_DATA_DOCS_S3_ENDPOINT", world.stores.settings.target_bucket.endpoint)
    broken = world.target(
        "UPDATE catalog.text SET header = NULL WHERE id = (SELECT min(id) FROM catalog.text) RETURNING id"
    )
    assert broken
    done = definitions().resolve_job_def("expectations").execute_in_process(instance=instance, raise_on_error=False)
    found = {evaluation.asset_check_key: evaluation for evaluation in done.get_asset_check_evaluations()}
    assert not done.success
    assert len(found) == 6
    assert all("rows" in evaluation.metadata for evaluation in found.values())
    failures = [event.step_failure_data.error for event in done.all_node_events if event.is_step_failure]
    assert any("could not be published" in str(error) for error in failures)


def _of_a_full_volume(validate, folder):
    def full(self, side):
        if self._folder.is_relative_to(folder):
            raise OSError(28, "No space left on device")
        return validate(self, side)

    return full


def test_old_pages_go(world, instance):
    before = pages(DataDocs.from_env().home, "video/new")
    run(instance)
    after = pages(DataDocs.from_env().home, "video/new")
    assert len(before) == len(after) == 2
    assert before[-1] == after[0]
    assert len([*Path(DataDocs.from_env().home).glob("results/video/new/**/*.json")]) == 2


def test_a_bucket_holds_the_pages_too(world, instance, monkeypatch):
    settings = world.stores.settings.target_bucket
    monkeypatch.setenv("SYNC_DATA_DOCS", f"s3://{settings.name}/quality")
    monkeypatch.setenv("SYNC_DATA_DOCS_S3_ENDPOINT", settings.endpoint)
    monkeypatch.setenv("SYNC_DATA_DOCS_KEEP", "1")
    for _ in range(2):
        found = run(instance)
    url = found[NEW].metadata["Data Docs"].value
    key = url.removeprefix(f"{settings.endpoint}/{settings.name}/")
    page = world.client.get_object(Bucket=settings.name, Key=key)
    assert page["ContentType"] == "text/html"
    assert "price is at least 0" in page["Body"].read().decode()
    listed = world.client.list_objects_v2(Bucket=settings.name, Prefix="quality/site/validations/video/new/")
    assert [found["Key"] for found in listed["Contents"]] == [key]


def test_an_entity_without_a_suite_gets_one_from_its_declaration(world, instance, monkeypatch):
    monkeypatch.setenv("SYNC_SUITES", "checks")
    found = run(instance)
    assert [key for key, evaluation in found.items() if not evaluation.passed] == []
    assert {"id is of type bigint", "version is not null", "id is unique"} <= set(table(found[NEW]))
    assert set(table(found[LEGACY])) == {"id is not null", "id is unique"}
    assert found[LEGACY].metadata["rows"].value == found[NEW].metadata["rows"].value


FAULTS = {
    "null": ("version is not null", "error", 1),
    "double": ("id is unique", "error", 2),
    "out of range": ("price is at least 0", "error", 1),
    "condition": ("cover is one file at most", "error", 1),
    "type": ("created_at is of type timestamptz", "error", 1),
    "rate": ("author is not null, in at least 90 % of rows", "warning", None),
    "rate of too many": ("header is not null, in at least 95 % of rows", "error", None),
    "column gone": ("rating is between 0 and 5", "error", 0),
}
LEGACY_FAULTS = {
    "value": ("status is one of draft, published, archived", "error", 1),
    "kind that no entity takes": ("kind is one of text, video, audio", "error", 1),
    "reference": ("author_id refers to a row of authors", "error", 1),
    "text that is no number": ("a duration is a whole number", "error", 1),
    "file without a key": ("every file of it has a key in the bucket", "error", 1),
    "future": ("updated_at is not in the future", "error", 1),
}


@pytest.fixture(scope="module")
def planted(world, instance):
    """What is found once every fault is there, each in a row of its own."""
    video = [key for (key,) in world.target("SELECT id FROM catalog.video ORDER BY id")]
    share = world.target("SELECT count(author)::float / count(*) FROM catalog.video")[0][0]
    world.target("CREATE TABLE catalog.before AS TABLE catalog.video")
    world.target("ALTER TABLE catalog.video DROP CONSTRAINT video_pkey, ALTER version DROP NOT NULL")
    world.target("ALTER TABLE catalog.video ALTER created_at TYPE timestamp, DROP COLUMN rating")
    world.target("UPDATE catalog.video SET version = NULL WHERE id = %s", (video[0],))
    world.target("INSERT INTO catalog.video SELECT * FROM catalog.video WHERE id = %s", (video[1],))
    world.target("UPDATE catalog.video SET price = -1 WHERE id = %s", (video[2],))
    world.target("UPDATE catalog.video SET cover = ARRAY['video/1', 'video/2'] WHERE id = %s", (video[3],))
    world.target("UPDATE catalog.video SET header = NULL WHERE id > %s", (video[len(video) // 2],))
    nameless = int(len(video) * (share - 0.85))
    world.target(
        "UPDATE catalog.video SET author = NULL WHERE id IN (SELECT id FROM catalog.video"
        " WHERE author IS NOT NULL ORDER BY id LIMIT %s)",
        (nameless,),
    )

    legacy = "SELECT id FROM content WHERE kind = 'video' AND deleted_at IS NULL ORDER BY id"
    content = [key for (key,) in world.legacy(legacy)]
    world.legacy("ALTER TABLE content DROP CONSTRAINT content_status_check, DROP CONSTRAINT content_kind_check")
    world.legacy("ALTER TABLE content DROP CONSTRAINT content_author_id_fkey")
    world.legacy("UPDATE content SET status = 'lost' WHERE id = %s", (content[0],))
    world.legacy("UPDATE content SET kind = 'podcast' WHERE id = %s", (content[1],))
    world.legacy("UPDATE content SET author_id = 999999 WHERE id = %s", (content[2],))
    world.legacy('UPDATE content SET attrs = \'{"duration": "long: {1}"}\' WHERE id = %s', (content[3],))
    world.legacy("INSERT INTO media_files (content_id, kind, bucket_key) VALUES (%s, 'source', '')", (content[4],))
    world.legacy("UPDATE content SET updated_at = now() + interval '1 day' WHERE id = %s", (content[5],))
    keys = dict(zip(FAULTS, video, strict=False)) | dict(zip(LEGACY_FAULTS, content, strict=False))
    yield run(instance), {**keys, "condition": video[3], "out of range": video[2]}
    world.target("DROP TABLE catalog.video")
    world.target("ALTER TABLE catalog.before RENAME TO video")
    world.target("ALTER TABLE catalog.video ADD PRIMARY KEY (id)")
    world.target("ALTER TABLE catalog.video OWNER TO sync_writer")


@pytest.mark.hazard(39)
@pytest.mark.parametrize(("check", "fault"), [*((NEW, f) for f in FAULTS), *((LEGACY, f) for f in LEGACY_FAULTS)])
def test_each_fault_is_red(planted, check, fault):
    found, keys = planted
    words, severity, count = (FAULTS | LEGACY_FAULTS)[fault]
    record = table(found[check])[words]
    assert record["ok"] == severity
    assert count is None or record["unexpected"] == count
    if count and fault != "type":
        assert f"id {keys[fault]}" in record["samples"]


def test_the_rest_stays_green_and_severity_is_the_worst(planted):
    found, _ = planted
    wrong = {words for words, _, _ in FAULTS.values()} | {"rating is of type double precision"}
    assert {words for words, record in table(found[NEW]).items() if record["ok"] != "yes"} == wrong
    assert {words for words, record in table(found[LEGACY]).items() if record["ok"] != "yes"} == {
        words for words, _, _ in LEGACY_FAULTS.values()
    }
    assert found[NEW].severity is dg.AssetCheckSeverity.ERROR
    observed = table(found[NEW])["created_at is of type timestamptz"]["observed"]
    assert observed == "found timestamp without time zone"
    assert table(found[NEW])["rating is between 0 and 5"]["observed"].startswith("not looked at")
