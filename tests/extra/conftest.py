"""A workplace with Dagster's pages, and a browser that looks at them."""

import os
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.extra import chromium, workplace
from tests.extra.pages import HEIGHT, WIDTH, Pages

SCREENSHOTS = "SYNC_SCREENSHOTS"
# pages answer late where runs keep a small machine busy
_PATIENCE_MILLISECONDS = 60_000


@pytest.fixture(scope="module")
def work(fresh_world, tmp_path_factory):
    with workplace.opened(fresh_world, tmp_path_factory.mktemp("data_docs")) as place:
        yield place


@pytest.fixture(scope="session")
def browser():
    program = chromium.find()
    assert program, chromium.LACKING
    expect.set_options(timeout=_PATIENCE_MILLISECONDS)
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=program, args=["--no-sandbox"]) as opened,
    ):
        yield opened


@pytest.fixture
def pages(work, browser):
    shots = os.environ.get(SCREENSHOTS)
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    page.set_default_timeout(_PATIENCE_MILLISECONDS)
    yield Pages(page, work.url, Path(shots) if shots else None)
    page.close()
