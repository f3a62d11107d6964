"""`sync-pipeline drain`: is everything over that the monolith's writers committed before they were fenced off?"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import typer

from sync_pipeline.cli.common import All, Format, Name, Output, opened, show
from sync_pipeline.cli.following import Totals, drained
from sync_pipeline.cli.tables import say, table
from sync_pipeline.model.reasons import PARKED, SET_ASIDE
from sync_pipeline.operate.drain import Drained
from sync_pipeline.operate.fence import Holder

_EXIT = {"drained": 0, "parked": 1, "open fence": 1, "unknown": 2}
_INTERRUPTED = 130
_STYLES = {"drained": "green", "parked": "red", "open fence": "red", "unknown": "yellow"}


def drain(
    name: Name = None,
    everything: All = False,
    timeout: Annotated[float, typer.Option("--timeout", help="Give up after so many seconds.")] = 600.0,
    output: Format = Output.TEXT,
) -> None:
    """When the monolith's writers are fenced off: bring over all they committed. Exit 0 only if all of it is in."""
    with opened(name, everything) as (stores, entities):
        found = drained(stores, entities, Totals(entities), timeout)
    if found is None:
        raise typer.Exit(_INTERRUPTED)
    show({**asdict(found), "verdict": found.verdict}, output, partial(_print, found))
    raise typer.Exit(_EXIT[found.verdict])


def _print(found: Drained) -> None:
    say(f"Fence: {found.fence.at:%Y-%m-%d %H:%M:%S.%f} (the monolith's clock), log position {found.fence.lsn}")
    if found.waited_for:
        heads = ("open at the fence", "role", "application", "state", "for", "wrote", "now", "statement")
        still = {holder.name for holder in found.still_open}
        table(heads, [_holder(holder, holder.name in still) for holder in found.waited_for], left=8)
    for holder in found.still_open:
        if holder.name not in {waited.name for waited in found.waited_for}:
            say(f"{holder.who} ({holder.role}) was prepared meanwhile, and is open.", "yellow")
    table(
        ("entity", "applied through", "swept", "owed", "parked"),
        [_entity(entity, status) for entity, status in found.entities.items()],
    )
    if found.parked:
        columns = ("entity", "reason", "key", "error", "message")
        table(columns, [[getattr(row, column) for column in columns] for row in found.parked], left=5)
    for sentence in _sentences(found):
        say(sentence, "yellow")
    say(f"Verdict: {found.verdict}", _STYLES[found.verdict])


def _holder(holder: Holder, is_open: bool) -> tuple[object, ...]:
    seconds = "" if holder.seconds is None else f"{holder.seconds:.0f} s"
    wrote = "yes" if holder.has_written else "not yet"
    now = "still open" if is_open else "ended"
    return (holder.who, holder.role, holder.application, holder.state, seconds, wrote, now, holder.statement)


def _entity(entity: str, status: dict[str, Any]) -> tuple[object, ...]:
    owed = {reason: count for reason, count in status["due"].items() if reason not in SET_ASIDE}
    parked = sum(status["due"].get(reason, 0) for reason in PARKED)
    queued = ", ".join(f"{reason} {count:,}" for reason, count in sorted(owed.items()))
    return (entity, status["applied_through"], status["swept_at"], queued or 0, parked)


def _sentences(found: Drained) -> list[str]:
    """What is not as it should be, and what to do."""
    if found.still_open:
        return [
            f"{len(found.still_open)} transactions are still open: whatever they write is not in. End them, and again."
        ]
    if found.through is None:
        held = [f"{name}: {_why(status)}" for name, status in found.entities.items() if _why(status)]
        return ["Not all that was committed before the fence is known to be in, in time.", *held]
    since = [
        f"Written after the fence: {queued}. Somebody is not fenced off; find who, and drain again."
        for queued in found.written_since
    ]
    parked = ["Rows are parked, and not in: sync-pipeline due list, sync-pipeline dead-letters list."]
    return since + (parked if found.parked else [])


def _why(status: dict[str, Any]) -> str:
    holder = f"{status['window_holder']} is open, and began after the fence" if status["window_holder"] else ""
    return "; ".join(filter(None, [holder, *status["alerts"]]))
