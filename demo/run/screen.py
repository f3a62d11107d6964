"""One screen that says how the move went."""

from __future__ import annotations

import math
from collections import Counter

from rich.console import Group
from rich.table import Table
from rich.text import Text

from demo.run.story import Played

KINDS = ("missing", "stale", "extra", "corrupt", "pending", "unknown")
_SINKS = {"catalog": "rows", "search": "documents", "media": "files"}


def faults(played: Played, lag_limit: float) -> list[str]:
    """What must not be, in words; nothing when the move went well. `lag_limit`: seconds, for the 95th percentile."""
    found = [
        f"{row['asset'][-1]}: {row[kind]} {kind} in {'/'.join(row['asset'])}"
        for row in played.checks
        for kind in KINDS
        if row[kind]
    ]
    if not played.checks or not all(row["success"] for row in played.checks):
        found.append("a reconciliation check did not pass")
    if played.due:
        found.append(f"{played.due} keys are still owed")
    p95 = played.lag.share(0.95)
    if math.isnan(p95) or p95 >= lag_limit:
        found.append(f"lag p95 is {p95:.2f} s, not under {lag_limit:g} s")
    return found


def screen(played: Played, wrong: list[str]) -> Group:
    """Figures, mismatches by kind, and the verdict."""
    verdict = Text("CLEAN: the new side holds what the monolith holds.", style="bold green")
    if wrong:
        verdict = Text("NOT CLEAN: " + "; ".join(wrong), style="bold red")
    return Group(_figures(played), _mismatches(played), verdict)


def _figures(played: Played) -> Table:
    lag = played.lag
    shares = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in lag.figures().items())
    table = Table(title="The move", show_header=False, title_justify="left")
    table.add_row("on the new side", f"{played.moved['rows']:,} rows, {played.moved['documents']:,} documents")
    table.add_row("", f"{played.moved['files']:,} files, {played.moved['bytes'] / 1e6:,.1f} MB")
    rate = played.history_rows / played.history_seconds
    table.add_row(
        "history", f"{played.history_rows:,} rows in {played.history_seconds:.0f} s, {rate:,.0f} rows/s with files"
    )
    edits = played.edits
    table.add_row("editors", f"{edits.committed:,} transactions in {edits.seconds:.0f} s, {edits.rate:.1f}/s")
    table.add_row("lag, commit to visible", f"{shares} over {lag.edits:,} edits")
    table.add_row("", f"{lag.undelivered} undelivered (counted as infinite); {lag.hard_deletes} hard deletes left out")
    table.add_row("caught up", f"{played.catch_up_seconds:.1f} s after the editors, a sweep included")
    table.add_row("due", str(played.due))
    table.add_row("in all", f"{played.seconds:.0f} s after the set-up")
    return table


def _mismatches(played: Played) -> Table:
    compared = sum(row["compared"] for row in played.checks if row["asset"][0] == "catalog")
    title = f"Reconciliation: {compared:,} legacy rows against rows, documents and files"
    table = Table("", *KINDS, title=title, title_justify="left")
    totals: dict[str, Counter[str]] = {}
    for row in played.checks:
        total = totals.setdefault(_SINKS.get(row["asset"][0], row["asset"][0]), Counter())
        total.update({kind: row[kind] for kind in KINDS})
    for name, total in totals.items():
        table.add_row(name, *(str(total[kind]) for kind in KINDS))
    return table
