"""`python -m tests.chaos --rounds N --seed S --from K`: play rounds, note what came of each, exit 1 on a violation."""

import argparse
import os
import shutil
import signal
import sys
import traceback
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from demo.fleet import Fleet
from tests.chaos.draw import SOURCES, draw
from tests.chaos.grounds import GROUNDS
from tests.chaos.network import Network
from tests.chaos.plan import Plan
from tests.chaos.report import keep, rounds_kept, written
from tests.chaos.rounds import Result, play
from tests.own_servers import own_servers

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / ".chaos"
RESULTS = FOLDER / "results.jsonl"
TABLE = REPOSITORY / "docs" / "chaos.md"


def main() -> int:
    """0 when no round found anything, 1 for violations, 2 when the harness itself failed."""
    options = _options()
    if options.table:
        TABLE.write_text(written(TABLE.read_text(), rounds_kept(RESULTS)))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # servers are stopped then, too
    worst = 0
    with own_servers("chaos-") as fleet, closing(Network(fleet)) as network:
        for number in range(options.first, options.first + options.rounds):
            plan = draw(options.seed, number, tuple(options.faults or ()), options.source, options.ground)
            plan = plan if options.margin is None else replace(plan, margin=options.margin)
            worst = max(worst, _round(fleet, network, plan, keep_it=_is_drawn(options)))
            if worst and options.stop:
                break
    return worst


def _is_drawn(options: argparse.Namespace) -> bool:
    """Whether nothing but the seed and the number say what the round is."""
    chosen = options.faults or options.source or options.ground or options.margin is not None
    return not chosen and not os.environ.get("SYNC_TEST_GUARDS_OFF")


def _round(fleet: Fleet, network: Network, plan: Plan, *, keep_it: bool) -> int:
    print("\n".join(plan.lines()), flush=True)
    folder = FOLDER / "logs" / f"{plan.seed}-{plan.number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        result = play(fleet, network, plan, folder)
    except Exception:
        traceback.print_exc()
        fleet.start()  # whatever was left down
        return 2
    if keep_it:
        keep(RESULTS, result)
    _tell(result, folder)
    if not result.violations:
        shutil.rmtree(folder)
    return 1 if result.violations else 0


def _tell(result: Result, folder: Path) -> None:
    points = ", ".join(f"{point} {times}" for point, times in sorted(result.crash_points.items()))
    print(
        f"  {result.commits} commits, {len(result.struck)} faults, died at: {points or 'no boundary'},"
        f" {result.seconds:.1f} s: {len(result.violations) or 'no'} violations"
    )
    for violation in result.violations[:20]:
        print(f"  {violation:.1000}")
    if result.violations:
        print(f"  again: make chaos ROUNDS=1 SEED={result.plan.seed} FROM={result.plan.number}; logs in {folder}")
    sys.stdout.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first round's number")
    parser.add_argument("--faults", nargs="*", help="instead of those that are drawn; such rounds are not kept")
    parser.add_argument("--source", choices=SOURCES, default="", help="instead of the one that is drawn")
    parser.add_argument("--ground", choices=tuple(GROUNDS), default="", help="instead of the one that is drawn")
    parser.add_argument("--margin", type=float, help="of the watermark, in seconds, instead of the one drawn")
    parser.add_argument("--stop", action="store_true", help="at the first round that finds anything")
    parser.add_argument("--table", action="store_true", help="write docs/chaos.md from the rounds that were kept")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
