"""What suites say, without a database and without Great Expectations."""

import dataclasses
import json

import pytest

from checks.data_docs import DataDocs
from checks.expect import (
    ERROR,
    WARNING,
    Between,
    Call,
    HasType,
    Holds,
    Known,
    Matches,
    NotNull,
    OneOf,
    RefersTo,
    Rows,
    Unique,
)
from checks.pages import drop_old, finish
from checks.report import Report, result
from checks.serving import server
from checks.suite import LEGACY, NEW, declared, sides
from sync_pipeline.entities.files import load_entities
from sync_pipeline.errors import DeclarationError, SettingError

ROWS = Rows("SELECT * FROM content", ("id",))


@pytest.fixture
def entity():
    return load_entities("assets.entities")["video"]


@pytest.mark.parametrize(
    ("expectation", "words"),
    [
        (NotNull("title"), "title is not null"),
        (NotNull("title", mostly=0.95), "title is not null, in at least 95 % of rows"),
        (NotNull("title", mostly=0.9995), "title is not null, in at least 99.95 % of rows"),
        (OneOf("status", ("draft", "published")), "status is one of draft, published"),
        (Between("price", at_least=0), "price is at least 0"),
        (Between("price", at_most=9.5), "price is at most 9.5"),
        (Between("rating", 0, 5), "rating is between 0 and 5"),
        (Matches("zip", r"^\d+$"), r"zip matches ^\d+$"),
        (Unique(("id",)), "id is unique"),
        (Unique(("content_id", "tag")), "content_id, tag are unique together"),
        (HasType("price", "numeric"), "price is of type numeric"),
        (RefersTo("author_id", "authors"), "author_id refers to a row of authors"),
        (Holds("a published row has a title", "status <> 'published' OR title <> ''"), "a published row has a title"),
        (Known("half of the prices are below 10", "ExpectColumnMedianToBeBetween"), "half of the prices are below 10"),
    ],
)
def test_words(expectation, words):
    assert expectation.words == words


def test_severity_is_an_error_unless_some_rows_are_allowed_or_it_is_said():
    assert NotNull("a").weight is ERROR
    assert NotNull("a", mostly=0.9).weight is WARNING
    assert NotNull("a", mostly=0.9, severity=ERROR).weight is ERROR
    assert NotNull("a", severity=WARNING).weight is WARNING


@pytest.mark.parametrize("mostly", [0, -1, 1.01, 95])
def test_a_share_is_a_share(mostly):
    with pytest.raises(DeclarationError, match="title is not null: mostly"):
        NotNull("title", mostly=mostly)


def test_calls_of_great_expectations():
    assert NotNull("a", mostly=0.5).call(ROWS) == Call("ExpectColumnValuesToNotBeNull", {"column": "a", "mostly": 0.5})
    assert Unique(("a",)).call(ROWS).name == "ExpectColumnValuesToBeUnique"
    assert 'GROUP BY "a", "b" HAVING count(*) > 1' in Unique(("a", "b")).call(ROWS).sql
    dangling = RefersTo("author_id", "crm.authors", "uid").call(ROWS).sql
    assert 'SELECT t."id", t."author_id" FROM t' in dangling
    assert '"crm"."authors" r WHERE r."uid" = t."author_id"' in dangling


def test_declared_columns_say_types_nulls_and_key(entity):
    columns = {"id": "bigint", "kind": "varchar(20) NOT NULL default 'x'", "at": "timestamp with time zone"}
    table = dataclasses.replace(entity.table, columns=columns)
    words = [one.words for one in declared(dataclasses.replace(entity, sinks=(table,), comments={}))]
    assert words == [
        "id is of type bigint",
        "kind is of type varchar(20)",
        "at is of type timestamp with time zone",
        "id is not null",
        "kind is not null",
        "id is unique",
    ]


def test_a_suite_is_found_by_the_name_of_its_entity(entity):
    new, legacy = sides(entity, "checks.suites")
    assert (new.side, new.table, legacy.side, legacy.table) == (NEW, "catalog.video", LEGACY, "content")
    assert NotNull("header", mostly=0.95) in new.expectations
    assert RefersTo("author_id", "authors") in legacy.expectations

    stranger = dataclasses.replace(entity, name="podcast")
    new, legacy = sides(stranger, "checks.suites")
    assert new.expectations == tuple(declared(stranger))
    assert legacy.expectations == (NotNull("id"), Unique(("id",)))


def test_a_suite_at_fault_is_named(entity):
    with pytest.raises(DeclarationError, match=r"SYNC_SUITES=nowhere\.at\.all"):
        sides(entity, "nowhere.at.all")
    with pytest.raises(DeclarationError, match=r"assets\.entities\.video: a suite's file ends with"):
        sides(entity, "assets.entities")


COUNTS = {"element_count": 200, "unexpected_count": 10, "partial_unexpected_index_list": [{"id": 7, "price": -1}]}


def test_what_is_broken_reads_as_words():
    found = result(Between("price", 0), {"success": False, "result": COUNTS, "exception_info": {}})
    assert not found.met
    assert found.observed == "not so for 10 of 200 rows (5 %)"
    assert found.samples == "id 7, price -1"


def test_what_could_not_be_looked_at_is_an_error_with_its_reason():
    info = {"a metric": {"raised_exception": True, "exception_message": "no column price\nsecond line"}}
    found = result(NotNull("price", mostly=0.5), {"success": True, "result": {}, "exception_info": info})
    assert not found.met
    assert found.observed == "not looked at: no column price"
    assert found.severity(1.0) is ERROR
    empty = result(NotNull("price"), {"success": False, "result": {}, "exception_info": {}})
    assert empty.fault


def test_a_warning_about_too_many_rows_is_an_error():
    found = result(NotNull("price", mostly=0.99), {"success": False, "result": COUNTS})
    assert found.severity(error_share=0.05) is WARNING
    assert found.severity(error_share=0.04) is ERROR
    good = result(NotNull("id"), {"success": True, "result": {"element_count": 200, "unexpected_count": 0}})
    assert Report((good, found), "page").severity(0.05) is WARNING
    assert Report((good,), "page").severity(0.05) is None
    assert Report((good, found), "page").rows == 200


def test_a_column_is_of_another_type_whatever_its_rows():
    seen = {"element_count": 200, "unexpected_count": 1, "partial_unexpected_index_list": [{"found": "integer"}]}
    found = result(HasType("price", "numeric", severity=WARNING), {"success": False, "result": seen})
    assert (found.observed, found.samples) == ("found integer", "")
    assert found.severity(error_share=0.5) is ERROR
    assert (
        result(HasType("price", "numeric"), {"success": True, "result": {"unexpected_count": 0}}).observed == "so it is"
    )


def test_long_values_are_cut():
    row = {"id": 1, "body": "x" * 5_000}
    found = result(
        NotNull("body"), {"success": False, "result": COUNTS | {"partial_unexpected_index_list": [row] * 10}}
    )
    assert len(found.samples) == 400


@pytest.mark.parametrize(
    ("env", "home", "url"),
    [
        ({}, ".demo/data_docs", "http://127.0.0.1:3070"),
        ({"DAGSTER_HOME": "/srv/dagster"}, "/srv/dagster/data_docs", "http://127.0.0.1:3070"),
        (
            {"SYNC_DATA_DOCS": "/srv/docs", "SYNC_DATA_DOCS_URL": "https://docs.example/"},
            "/srv/docs",
            "https://docs.example",
        ),
        ({"SYNC_DATA_DOCS": "s3://quality/a"}, "s3://quality/a", "https://quality.s3.amazonaws.com/a/site"),
        (
            {"SYNC_DATA_DOCS": "s3://quality", "SYNC_DATA_DOCS_S3_ENDPOINT": "http://minio:9000"},
            "s3://quality",
            "http://minio:9000/quality/site",
        ),
    ],
)
def test_where_data_docs_are(env, home, url):
    docs = DataDocs.from_env(env)
    assert (docs.home, docs.url) == (home, url)
    assert docs.address("validations/a b.html") == f"{url}/validations/a%20b.html"


@pytest.mark.parametrize(
    "env", [{"SYNC_DATA_DOCS": "gs://bucket"}, {"SYNC_DATA_DOCS": "s3:///x"}, {"SYNC_DATA_DOCS_KEEP": "0"}]
)
def test_a_wrong_setting_is_named(env):
    with pytest.raises(SettingError, match=next(iter(env))):
        DataDocs.from_env(env)


def page_of(folder, suite, run, at, success=True):
    """A result and its page, as Great Expectations lays them out."""
    place = f"{suite}/{run}/{at}/rows"
    body = {
        "success": success,
        "suite_name": suite.replace("/", "."),
        "statistics": {"evaluated_expectations": 9, "unsuccessful_expectations": 0 if success else 2},
        "meta": {"run_id": {"run_name": f"<{run}>", "run_time": "2026-01-02T03:04:05.6+00:00"}},
    }
    head = '<link href="https://cdn.example/a.css"><script src="https://cdn.example/b.js"></script>'
    html = f'<html><head>{head}</head><img src="https://beacon.example/logo?id=1">rows</html>'
    for file, text in ((f"results/{place}.json", json.dumps(body)), (f"site/validations/{place}.html", html)):
        (folder / file).parent.mkdir(parents=True)
        (folder / file).write_text(text)
    return f"validations/{place}.html"


def test_pages_load_nothing_from_elsewhere_and_are_listed(tmp_path):
    page = page_of(tmp_path, "video/new", "one", "20260101T000000.000000Z", success=False)
    finish(tmp_path, [page])
    text = (tmp_path / "site" / page).read_text()
    assert "https://" not in text
    assert "rows" in text
    index = (tmp_path / "site" / "index.html").read_text()
    assert f'<a href="{page}">video.new</a>' in index
    assert "<td>2026-01-02 03:04:05</td><td>9</td><td>2</td><td>&lt;one&gt;</td>" in index


def test_the_newest_of_each_suite_stay(tmp_path):
    times = [f"2026010{day}T000000.000000Z" for day in (3, 1, 2)]
    for suite in ("video/new", "text/new"):
        for number, at in enumerate(times):
            page_of(tmp_path, suite, f"run-{number}", at)
    drop_old(tmp_path, keep=2)
    for root, suffix in (("results", "json"), ("site/validations", "html")):
        left = sorted((tmp_path / root).glob(f"*/*/*/*/*.{suffix}"))
        assert [file.parent.name for file in left] == [times[0], times[2]] * 2
    assert not (tmp_path / "results/video/new/run-1").exists()


def test_a_bucket_is_not_served_from_here():
    with pytest.raises(SettingError, match=r"http://minio:9000/quality/site/index\.html"):
        server(DataDocs.from_env({"SYNC_DATA_DOCS": "s3://quality", "SYNC_DATA_DOCS_S3_ENDPOINT": "http://minio:9000"}))


def test_a_port_that_is_taken_is_told(tmp_path):
    docs = DataDocs.from_env({"SYNC_DATA_DOCS": str(tmp_path)})
    with server(docs, port=0) as first, pytest.raises(SettingError, match="--port chooses another"):
        server(docs, port=first.server_port)
