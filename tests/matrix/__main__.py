"""`python -m tests.matrix [NAME ...]`: play matrices, go on where the last run stopped, exit 1 when a cell fails."""

import argparse
import datetime as dt
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from demo.fleet import Fleet
from tests.matrix.matrices import MATRICES
from tests.matrix.matrix import FAILS, Cell, Matrix, Outcome
from tests.matrix.results import is_done, last_results, record, write_page
from tests.own_servers import own_servers

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / ".matrix" / "results.jsonl"
PAGE = REPOSITORY / "docs" / "matrix.md"


def main() -> int:
    """0 when every cell holds or is refused by name, 1 when one fails."""
    options = _options()
    chosen = [matrix for matrix in MATRICES if not options.names or matrix.name in options.names]
    if options.table:
        write_page(PAGE, MATRICES, last_results(RESULTS))
        return 0
    commit, failed = _commit(), 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # servers are stopped then, too
    with own_servers("matrix-") as fleet:
        for matrix in chosen:
            failed += sum(_play(fleet, matrix, cell, commit, options) for cell in _left(matrix, commit, options))
            matrix.close()
    write_page(PAGE, MATRICES, last_results(RESULTS))
    return 1 if failed else 0


def _left(matrix: Matrix, commit: str, options: argparse.Namespace) -> Iterator[Cell]:
    """Cells that match, and that no run at this commit and seed has finished."""
    results = last_results(RESULTS)
    for cell in matrix.cells:
        done = is_done(results.get((matrix.name, cell.name)), commit, options.seed)
        if (options.fresh or not done) and options.only in cell.name:
            yield cell


def _play(fleet: Fleet, matrix: Matrix, cell: Cell, commit: str, options: argparse.Namespace) -> bool:
    """Whether the cell failed."""
    began = time.monotonic()
    try:
        outcome = cell.play(fleet, options.seed)
    except Exception as error:
        traceback.print_exc()
        outcome = Outcome(FAILS, f"{type(error).__name__}: {error}"[:300])
    seconds = time.monotonic() - began
    print(f"{matrix.name} / {cell.name}: {outcome.verdict} ({seconds:.1f} s) {outcome.note}", flush=True)
    run = {"commit": commit, "date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}", "seed": options.seed}
    record(RESULTS, matrix.name, cell.name, outcome, run)
    return outcome.verdict == FAILS


def _commit() -> str:
    """The commit that is played, with a plus where files differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":!docs")
    return git("rev-parse", "--short=8", "HEAD") + ("+" if changed else "")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make matrix", description=__doc__)
    parser.add_argument("names", nargs="*", help="which matrices; all by default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="cells whose name holds this")
    parser.add_argument("--fresh", action="store_true", help="play cells again that are done")
    parser.add_argument("--table", action="store_true", help="write docs/matrix.md from the results that are there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
