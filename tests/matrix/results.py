"""Results of cells, a line of JSON each, and the page that shows the last one of each cell."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.matrix.matrix import FAILS, Matrix, Outcome

BEGIN, END = "<!-- {} -->", "<!-- end of {} -->"


def record(path: Path, matrix: str, cell: str, outcome: Outcome, run: dict[str, Any]) -> None:
    """Append one result; `run` says when, at which commit and under which seed it was played."""
    path.parent.mkdir(exist_ok=True)
    line = {"matrix": matrix, "cell": cell, **run, **vars(outcome)}
    with path.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(line) + "\n")


def last_results(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The last result of each (matrix, cell)."""
    if not path.exists():
        return {}
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(line["matrix"], line["cell"]): line for line in found}


def is_done(result: dict[str, Any] | None, commit: str, seed: int) -> bool:
    """Whether a cell needs no other run: it was played at this commit and seed, and did not fail."""
    return bool(result) and (result["commit"], result["seed"]) == (commit, seed) and result["verdict"] != FAILS


def write_page(page: Path, matrices: Iterable[Matrix], results: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Renew the tables of the page, one between the markers of each matrix."""
    text = page.read_text(encoding="utf-8")
    for matrix in matrices:
        begin, end = BEGIN.format(matrix.name), END.format(matrix.name)
        mine = [results[matrix.name, cell.name] for cell in matrix.cells if (matrix.name, cell.name) in results]
        if begin in text and mine:
            head, _, rest = text.partition(begin)
            text = f"{head}{begin}\n{_table(mine)}{end}{rest.partition(end)[2]}"
    page.write_text(text, encoding="utf-8")


def _table(results: Sequence[dict[str, Any]]) -> str:
    figures = list(dict.fromkeys(name for result in results for name in result["figures"]))
    header = ["Cell", "Verdict", *figures, "Note", "Commit", "Date"]
    rows = [
        [
            result["cell"],
            result["verdict"],
            *(result["figures"].get(name, "") for name in figures),
            result["note"].replace("|", "\\|").replace("\n", " "),
            result["commit"],
            result["date"],
        ]
        for result in results
    ]
    verdicts = Counter(result["verdict"] for result in results)
    summary = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    lines = [header, ["---"] * len(header), *rows]
    return (
        "\n".join(["", f"{len(results)} cells: {summary}.", "", *("| " + " | ".join(row) + " |" for row in lines), ""])
        + "\n"
    )
