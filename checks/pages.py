"""The Data Docs' folder: pages that load nothing from elsewhere, a page that lists them, and an end to old ones.

Great Expectations' pages fetch their style, scripts and logo from a dozen hosts at every look: without the internet
they are bare and their index is empty, with it others learn who looks at what. So these go, and a style comes in.
"""

from __future__ import annotations

import html
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

SITE, RESULTS, SUITES = "site", "results", "suites"
_FOREIGN = re.compile(
    r"<script\b.*?</script\s*>|<link\b[^>]*>|<picture\b.*?</picture>|<img\b[^>]*>|<footer\b.*?</footer>",
    re.DOTALL | re.IGNORECASE,
)
_STYLE = """<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 1.5rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 1rem }
td, th { border: 1px solid #ddd; padding: .3rem .7rem; text-align: left; vertical-align: top }
th { background: #f4f4f4 }
a { color: #0b5cad }
.breadcrumb { list-style: none; padding: 0 }
.breadcrumb li { display: inline }
.breadcrumb li + li::before { content: " / " }
.fa-check-circle::before { content: "✔"; color: #1a7f37 }
.fa-times::before { content: "✘"; color: #b3261e }
.fa-exclamation-triangle::before { content: "⚠"; color: #9a6700 }
.fas { font-style: normal } .text-danger { color: #b3261e }
.collapse:not(:target), .sticky, .lead, .cooltip .top { display: none }
</style>"""
_INDEX = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Data quality</title>{style}</head>
<body><h1>Data quality</h1>
<table><tr><th></th><th>suite</th><th>looked at</th><th>expectations</th><th>broken</th><th>run</th></tr>
{rows}
</table></body></html>
"""


def drop_old(folder: Path, keep: int) -> None:
    """Remove results and pages of each suite but the `keep` newest."""
    by_suite: dict[Path, list[Path]] = defaultdict(list)
    for found in _results(folder):
        by_suite[found.parents[2]].append(found)
    for results in by_suite.values():
        for old in results[keep:]:
            shutil.rmtree(old.parents[1])
            shutil.rmtree(_page(folder, old).parents[1], ignore_errors=True)


def finish(folder: Path, pages: Iterable[str]) -> None:
    """Make pages that were just written self-contained, and list all there are."""
    for page in pages:
        file = folder / SITE / page
        file.write_text(_self_contained(file.read_text()))
    shutil.rmtree(folder / SITE / "static", ignore_errors=True)
    rows = "\n".join(_row(folder, found) for found in _results(folder))
    (folder / SITE / "index.html").write_text(_INDEX.format(style=_STYLE, rows=rows))


def _self_contained(page: str) -> str:
    return _FOREIGN.sub("", page).replace("</head>", f"{_STYLE}</head>", 1)


def _results(folder: Path) -> Iterator[Path]:
    """Results, newest first: ENTITY/SIDE/RUN/TIME/BATCH.json."""
    yield from sorted((folder / RESULTS).glob("*/*/*/*/*.json"), key=lambda file: file.parent.name, reverse=True)


def _page(folder: Path, result: Path) -> Path:
    return folder / SITE / "validations" / result.relative_to(folder / RESULTS).with_suffix(".html")


def _row(folder: Path, result: Path) -> str:
    found = json.loads(result.read_text())
    counts, run = found["statistics"], found["meta"]["run_id"]
    link = quote(_page(folder, result).relative_to(folder / SITE).as_posix())
    mark = "check-circle" if found["success"] else "times"
    told = (f"{counts['evaluated_expectations']}", f"{counts['unsuccessful_expectations']}", run["run_name"])
    cells = "".join(f"<td>{html.escape(text)}</td>" for text in (run["run_time"][:19].replace("T", " "), *told))
    suite = html.escape(found["suite_name"])
    return f'<tr><td><i class="fas fa-{mark}"></i></td><td><a href="{link}">{suite}</a></td>{cells}</tr>'
