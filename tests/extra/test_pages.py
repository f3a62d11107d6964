"""A day in Dagster's UI, by clicks, while editors are at work: each test goes on where the last one ended."""

import re

import pytest
from playwright.sync_api import expect

from sync_pipeline.entities.files import load_entities
from tests.extra.pages import RUN_SECONDS
from tests.extra.workplace import BY_HAND

pytestmark = pytest.mark.extra

# the months until today, and those before and without a date
PARTITIONS = len(load_entities("assets.entities")["video"].partitions.names())
YEAR, MONTH = "2021", "2021-03"
RUN = re.compile("^[0-9a-f]{8}$")
SOON = RUN_SECONDS * 1_000


def test_the_sensors_are_switched_on_and_tick(pages):
    pages.automation("watch_standing")
    pages.switch(on=True)
    pages.automation("keep_live")
    pages.switch(on=True)
    expect(pages.row("Latest tick")).to_contain_text("requested", timeout=SOON)
    pages.menu("Runs")
    expect(pages.run("sync", "keep_live")).to_contain_text("Started", timeout=SOON)


def test_a_schedule_is_switched_on_and_its_tick_starts_a_run(pages):
    pages.automation("frequent_sweep")
    pages.sees("Every minute")
    pages.switch(on=True)
    expect(pages.row("Latest tick")).to_contain_text("1 run requested", timeout=SOON)
    pages.switch(on=False)
    pages.menu("Runs")
    expect(pages.run("sweep", "frequent_sweep")).to_contain_text("Success", timeout=SOON)


def test_a_year_is_filled_from_the_page_of_its_history(pages, work):
    pages.materialize("history/audio_history", months=f"{YEAR}-")
    pages.partitions("history/audio_history", materialized=12)
    pages.partition("history/audio_history", MONTH)
    expect(pages.row("dagster/partition_row_count")).to_contain_text(re.compile("[1-9]"))
    assert work.missing("audio", YEAR) == 0


def test_a_partition_that_failed_is_run_again_alone(pages, work):
    with work.closed("catalog.video", MONTH):
        pages.materialize("history/video_history", choice="All")
        pages.partitions("history/video_history", materialized=PARTITIONS - 1, failed=1)
        pages.partition("history/video_history", MONTH)
        pages.sees("failed, and did not materialize this asset")
        pages.shot("partitions")
        pages.page.get_by_role("link", name=RUN).click()
        pages.sees(f"the books of {MONTH} are closed")
    pages.materialize("history/video_history", choice="Failed", launch="Launch 1 run")
    pages.partitions("history/video_history", materialized=PARTITIONS)
    pages.partition("history/video_history", MONTH)
    pages.page.get_by_role("link", name=RUN).click()
    pages.sees(f"partition: {MONTH}")
    pages.sees(re.compile("^Success$"))
    assert work.missing("video", YEAR) == 0


def test_the_graph_shows_where_all_comes_from_and_goes_to(pages):
    pages.menu("Lineage")
    for group in ("legacy", "text", "video", "audio"):
        expect(pages.page.get_by_role("button", name=re.compile(rf"\b{group}\b"))).to_be_visible()
    pages.asset("catalog/video", "Lineage")
    pages.page.get_by_role("button", name="All", exact=True).click()
    for name in ("authors", "content", "content_tags", "media_files", "bucket", "S3", "Elasticsearch", "Postgres"):
        pages.sees(re.compile(f"^{name}$"))
    for not_seen in ("Loading...", "Unsynced"):
        expect(pages.page.get_by_text(not_seen)).to_have_count(0)
    pages.shot("lineage")


def test_a_tables_page_says_what_it_holds_and_what_is_checked(pages):
    pages.asset("catalog/video", "Overview")
    pages.sees("A film of the monolith")
    expect(pages.row("duration_seconds")).to_contain_text("bigint")
    for figure in ("Row count", "Storage"):
        pages.sees(figure)
    for neighbour in ("legacy / content", "media / video", "search / video"):
        expect(pages.page.get_by_role("link", name=neighbour).first).to_be_visible()
    pages.shot("asset")
    pages.tab("Checks")
    for check in ("reconciliation", "expectations", "freshness", "due", "dead_letters"):
        pages.sees(check)


def test_a_check_names_what_differs_and_keeps_its_trend(pages, work):
    pages.materialize("history/audio_history", choice="Missing")
    pages.materialize("history/text_history", choice="All")
    pages.partitions("history/audio_history", materialized=PARTITIONS)
    pages.partitions("history/text_history", materialized=PARTITIONS)
    work.editors.go_home()
    pages.launch("reconcile")
    pages.check("catalog/video", "reconciliation")
    pages.sees("no mismatch")

    planted = work.plant()
    pages.launch("reconcile")
    pages.check("catalog/video", "reconciliation")
    pages.sees("1 missing, 1 corrupt")
    expect(pages.row("corrupt", str(planted.row), "header")).to_contain_text(BY_HAND)
    expect(pages.row("corrupt", str(planted.row), "price")).to_contain_text("-1")
    expect(pages.row("missing", str(planted.lost_row))).to_be_visible()
    expect(pages.row("live delta")).to_be_visible()
    pages.shot("check", height=1_400)
    pages.tab("Execution history")
    expect(pages.row("1 missing, 1 corrupt")).to_contain_text("Failed")
    expect(pages.row("no mismatch")).to_contain_text("Passed")

    pages.check("search/video_documents", "reconciliation")
    expect(pages.row("corrupt", str(planted.document), "header")).to_contain_text(BY_HAND)
    expect(pages.row("missing", str(planted.lost_document))).to_be_visible()
    pages.check("media/video_files", "reconciliation")
    pages.sees("1 missing")


def test_a_broken_expectation_leads_to_its_data_docs(pages, work):
    pages.launch("expectations")
    pages.check("catalog/video", "expectations")
    pages.sees("1 of 32 expectations are broken: price is at least 0")
    link = pages.page.get_by_role("link", name="/validations/video/")
    with pages.page.expect_popup() as opened:
        link.click()
    docs = pages.on(opened.value)
    docs.sees("video.new")
    docs.sees("Failed")
    expect(docs.row("price is at least 0")).to_contain_text("-1")
    docs.shot("data-docs")
