"""Dagster's pages as a person uses them: by what is written on them, and by clicks."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

WIDTH, HEIGHT = 1500, 950
# a run takes seconds to start and to end, and many more on a busy machine
RUN_SECONDS = 180


@dataclass(frozen=True)
class Pages:
    """One browser page on one webserver; `shots` is the folder for screenshots, if any are wanted."""

    page: Page
    url: str
    shots: Path | None

    def open(self, path: str) -> None:
        """Go there as a bookmark does; what is awaited next says that it has loaded."""
        self.page.goto(self.url + path)

    def menu(self, name: str) -> None:
        """Start at the first page and follow an entry of the navigation."""
        self.open("/overview")
        self.page.get_by_role("navigation").get_by_role("link", name=name).click()

    def on(self, page: Page) -> "Pages":
        """The same for another page, which a link has opened."""
        return replace(self, page=page)

    def tab(self, name: str) -> None:
        """Turn to a tab."""
        self.page.get_by_role("tab", name=name, exact=True).click()

    def sees(self, text: str | re.Pattern[str], seconds: float = 60) -> Locator:
        """Wait until a text stands on the page."""
        found = self.page.get_by_text(text).filter(visible=True).first
        expect(found).to_be_visible(timeout=seconds * 1_000)
        return found

    def row(self, *cells: str) -> Locator:
        """The first row of a table that holds all these texts."""
        rows = self.page.get_by_role("row").filter(visible=True)
        for cell in cells:
            rows = rows.filter(has_text=cell)
        return rows.first

    def run(self, *links: str) -> Locator:
        """The oldest run of the list that leads to all of these: what it ran, and what launched it."""
        lines = self.page.locator("div").filter(has=self.page.get_by_role("link", name="View", exact=True))
        for link in links:
            lines = lines.filter(has=self.page.get_by_role("link", name=link, exact=True))
        return lines.last

    def asset(self, key: str, tab: str) -> None:
        """Turn to a tab of an asset that the catalog lists."""
        self.menu("Catalog")
        self.page.get_by_role("link", name=key.replace("/", " / ")).first.click()
        self.tab(tab)

    def automation(self, name: str) -> None:
        """Turn to a sensor or a schedule that is listed under Automation."""
        self.menu("Automation")
        self.page.get_by_role("link", name=name).click()
        expect(self.row("Latest tick")).to_be_visible()

    def switch(self, on: bool) -> None:
        """Switch the sensor or schedule of this page, which is in the other state."""
        state = self.row("Running").get_by_role("checkbox")
        expect(state).to_be_checked(checked=not on)
        self.row("Running").locator("label").click()  # the box itself is drawn outside of the page
        expect(state).to_be_checked(checked=on)

    def materialize(self, key: str, *, months: str = "", choice: str = "", launch: str = "Launch backfill") -> None:
        """Launch partitions by the dialog of an asset's page: those that match, or by a button such as Failed."""
        self.asset(key, "Partitions")
        self.page.get_by_role("button", name="Materialize…").click()
        dialog = self.page.get_by_role("dialog").filter(has_text="Launch runs to materialize")
        if choice:
            dialog.get_by_role("button", name=choice, exact=True).click()
        else:
            dialog.get_by_text("Select a partition").click()
            narrow = self.page.get_by_placeholder("Filter partitions")
            narrow.fill(months)
            self.page.get_by_role("menuitem", name="Select all").click()
            narrow.press("Escape")
        dialog.get_by_role("button", name=launch, exact=True).click()
        expect(dialog).to_be_hidden()

    def partitions(self, key: str, *, materialized: int, failed: int = 0) -> None:
        """See on the asset's page how many partitions are in, and how many failed."""
        self.asset(key, "Partitions")
        self.sees(f"Materialized ({materialized})", RUN_SECONDS)
        self.sees(f"Failed ({failed})", RUN_SECONDS)

    def partition(self, key: str, name: str) -> None:
        """Choose a month from the list of its year on the asset's page."""
        self.asset(key, "Partitions")
        self.page.get_by_placeholder("Filter by name…").fill(name.partition("-")[0])
        self.page.get_by_text(name, exact=True).filter(visible=True).first.click()
        self.page.wait_for_url(f"**partition={name}**")

    def launch(self, job: str) -> None:
        """Launch a job with its form as it is, and see the run succeed."""
        self.menu("Jobs")
        self.page.get_by_role("link", name=re.compile(rf"\b{job}\b")).first.click()
        self.tab("Launchpad")
        self.page.get_by_role("button", name=re.compile("^(.* )?Launch run$", re.IGNORECASE)).click()
        self.page.wait_for_url("**/runs/*")
        expect(self.page.get_by_text("RUN_SUCCESS")).to_be_visible(timeout=RUN_SECONDS * 1_000)

    def check(self, key: str, name: str) -> None:
        """Turn to a check on an asset's page."""
        self.asset(key, "Checks")
        self.page.get_by_text(name, exact=True).filter(visible=True).first.click()
        expect(self.page.get_by_role("tab", name="Execution history")).to_be_visible()

    def shot(self, name: str, height: int = HEIGHT) -> None:
        """A screenshot for the docs."""
        if self.shots:
            self.page.set_viewport_size({"width": WIDTH, "height": height})
            self.page.mouse.move(0, height - 1)
            self.page.screenshot(path=self.shots / f"{name}.png", animations="disabled")
            self.page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
