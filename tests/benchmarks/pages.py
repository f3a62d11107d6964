"""How long Dagster's pages take to open: in Chromium where Playwright and it are there, else by what they ask."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
import urllib.request
from typing import Any

_TURNS = 5
_LONGEST_MS = 60_000
_QUIET_SECONDS = 0.5
# a page's path, and what stands on it once it shows what it is about
PAGES = {
    "runs": ("/runs", "text=Success"),
    "asset": ("/assets/catalog/video?view=overview", "text=Latest materialization"),
    "asset's events": ("/assets/catalog/video?view=events", "text=/Observed in run/"),
    "asset's checks": ("/assets/catalog/video?view=checks", "text=reconciliation"),
    "sensor's ticks": ("/locations/__repository__@sync_pipeline/sensors/keep_live", "text=runs requested"),
}
_RUNS = """query {runsOrError(limit: 26) {... on Runs {results {id runId status jobName startTime endTime updateTime
    tags {key value} stats {... on RunStatsSnapshot {startTime endTime stepsSucceeded}}}}}}"""
_ASSET = """query {assetOrError(assetKey: {path: ["catalog", "video"]}) {... on Asset {
    assetMaterializations(limit: 100) {timestamp runId metadataEntries {label}}
    assetObservations(limit: 100) {timestamp runId metadataEntries {label}}
    definition {assetChecksOrError {... on AssetChecks {checks {name
    executionForLatestMaterialization {status}}}}}}}}"""


def opened(url: str) -> dict[str, Any]:
    """`by` what it was measured, and the seconds of each page, the first time and then again."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium and importlib.util.find_spec("playwright"):
        return {"by": "Chromium", "seconds": _in_chromium(url, chromium)}
    return {"by": "GraphQL alone (no Playwright)", "seconds": _asked(url)}


def _in_chromium(url: str, chromium: str) -> dict[str, list[float]]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        seconds = {name: _in_turn(browser, url + path, shown) for name, (path, shown) in PAGES.items()}
        browser.close()
    return seconds


def _in_turn(browser: Any, url: str, shown: str) -> list[float]:
    """Seconds of each turn; the first is a visitor's first, with nothing in the cache."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    seconds = [_open(context.new_page(), url, shown) for _ in range(_TURNS)]
    context.close()
    return seconds


def _open(page: Any, url: str, shown: str) -> float:
    """Seconds until the page shows what it is about and the last of its queries is answered."""
    asked: set[Any] = set()
    answered = [0.0]

    def on_answer(request: Any) -> None:
        asked.discard(request)
        answered[0] = time.monotonic()

    page.on("request", lambda request: asked.add(request) if "/graphql" in request.url else None)
    page.on("requestfinished", on_answer)
    page.on("requestfailed", on_answer)
    began = time.monotonic()
    page.goto(url)
    page.locator(shown).first.wait_for(timeout=_LONGEST_MS)
    visible = time.monotonic()
    while asked or time.monotonic() - max(visible, answered[0]) < _QUIET_SECONDS:
        page.wait_for_timeout(20)
    page.close()
    return max(visible, answered[0]) - began


def _asked(url: str) -> dict[str, list[float]]:
    return {name: [_ask(url, query) for _ in range(_TURNS)] for name, query in (("runs", _RUNS), ("asset", _ASSET))}


def _ask(url: str, query: str) -> float:
    body = json.dumps({"query": query}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})
    began = time.monotonic()
    with urllib.request.urlopen(request, timeout=60) as answer:
        found = json.load(answer)
    if "errors" in found:
        raise RuntimeError(found["errors"][0]["message"])
    return time.monotonic() - began
