"""Results, a line of JSON each, and the table that is made of them."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sync_pipeline.model.faults import CRASH_POINTS, REBUILD_CRASH_POINTS
from tests.chaos.faults import FAULTS
from tests.chaos.rounds import Result

# a table's rebuild passes none that an index's does not
POINTS = (*CRASH_POINTS, *REBUILD_CRASH_POINTS)
BEGIN, END = "<!-- rounds -->", "<!-- end of rounds -->"


def keep(path: Path, result: Result) -> None:
    """Append one."""
    with path.open("a") as lines:
        lines.write(json.dumps(asdict(result)) + "\n")


def rounds_kept(path: Path) -> list[dict[str, Any]]:
    """The last result of each round."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return list({(result["plan"]["seed"], result["plan"]["number"]): result for result in found}.values())


def written(page: str, results: list[dict[str, Any]]) -> str:
    """The page with its tables anew."""
    head, _, rest = page.partition(BEGIN)
    return f"{head}{BEGIN}\n{tables(results)}{END}{rest.partition(END)[2]}"


def tables(results: list[dict[str, Any]]) -> str:
    """Rounds by seed, then how often each fault struck, then how often a process died at each boundary."""
    struck = Counter(name for result in results for name in result["struck"])
    died = Counter({point: sum(result["crash_points"].get(point, 0) for result in results) for point in POINTS})
    return "\n".join(
        [
            "",
            "| Seed | Rounds | Commits | Faults | Violations | Seconds a round |",
            "|---|---|---|---|---|---|",
            *(_seed(seed, results) for seed in sorted({result["plan"]["seed"] for result in results})),
            "",
            "| Fault | Times |",
            "|---|---|",
            *(f"| {name.replace('_', ' ')} | {struck[name]} |" for name in sorted(FAULTS)),
            "",
            "| Boundary | Processes that died there |",
            "|---|---|",
            *(f"| `{point}` | {died[point]} |" for point in POINTS),
            "",
        ]
    )


def _seed(seed: str, results: list[dict[str, Any]]) -> str:
    mine = [result for result in results if result["plan"]["seed"] == seed]
    numbers = sorted(result["plan"]["number"] for result in mine)
    commits, seconds = sum(result["commits"] for result in mine), sum(result["seconds"] for result in mine)
    faults = sum(len(result["struck"]) for result in mine)
    violations = sum(bool(result["violations"]) for result in mine)
    return (
        f"| {seed} | {len(mine)} ({numbers[0]} to {numbers[-1]}) | {commits} | {faults} | {violations} |"
        f" {seconds / len(mine):.0f} |"
    )
