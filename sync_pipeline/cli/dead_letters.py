"""`sync-pipeline dead-letters …`: rows that were refused, by cause and one by one; tried again, or discarded."""

from __future__ import annotations

import getpass
import re
import socket
import time
from collections.abc import Mapping
from functools import partial
from typing import Annotated

import typer

from sync_pipeline.cli import tables
from sync_pipeline.cli.common import All, AnyName, Format, Output, opened, show, spelled
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import SettingError
from sync_pipeline.ledger import queue_reads
from sync_pipeline.ledger.ledger import migrate
from sync_pipeline.ledger.queue_reads import DeadLetter
from sync_pipeline.model.reasons import DEAD_LETTERS, Reason
from sync_pipeline.queue import dead_letters
from sync_pipeline.queue.dead_letters import DeadLetterFilter, DeadLetterNow, DeadLetterOverview
from sync_pipeline.run import live
from sync_pipeline.stores.stores import Stores

app = typer.Typer(no_args_is_help=True, help="Rows that were refused: by cause, one by one; tried again, or discarded.")

Keys = Annotated[list[str] | None, typer.Option("--key", help="Only this key; may be given several times.")]
Step = Annotated[str | None, typer.Option(help=f"Only of step {', '.join(dead_letters.REMEDIES)}.", show_default=False)]
Error = Annotated[str | None, typer.Option(help="Only of this error, such as ArrowInvalid.", show_default=False)]
Older = Annotated[str | None, typer.Option("--older-than", help="First refused so long ago: 90s, 30m, 12h, 7d.")]
Discarded = Annotated[bool, typer.Option("--discarded", help="Only those that were discarded.")]
Name = Annotated[str, typer.Argument(help="The entity.")]

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_PATIENCE_SECONDS = 30.0
_LOOK_SECONDS = 0.1


@app.command("list")
def listing(
    name: AnyName = None,
    everything: All = False,
    key: Keys = None,
    step: Step = None,
    error: Error = None,
    older: Older = None,
    discarded: Discarded = False,
    limit: Annotated[int, typer.Option(min=0, help="Letters shown of each entity.")] = 20,
    output: Format = Output.TEXT,
) -> None:
    """Dead letters by cause, with examples, and the oldest of them."""
    reasons = (Reason.DISCARDED,) if discarded else DEAD_LETTERS
    seconds = _seconds(older)
    with opened(name, everything or not name) as (stores, entities):
        report = {
            e.name: _overview(stores, DeadLetterFilter(e.name, key or (), step, error, seconds, reasons), limit)
            for e in entities
        }
    show({name: each.as_dict() for name, each in report.items()}, output, partial(_listed, report))


def _overview(stores: Stores, chosen: DeadLetterFilter, limit: int) -> DeadLetterOverview:
    migrate(stores)
    with stores.target() as cursor:
        return dead_letters.overview(cursor, chosen, limit)


def _listed(report: Mapping[str, DeadLetterOverview]) -> None:
    causes = [(entity, cause) for entity, found in report.items() for cause in found.causes]
    if not causes:
        tables.say("No dead letters.")
        return
    heads = ("entity", "state", "step", "error", "rows", "attempts", "since", "keys", "for example")
    names = ("state", "step", "error", "rows", "attempts", "first_at")
    rows = [(e, *(getattr(c, name) for name in names), ", ".join(c.keys), c.message) for e, c in causes]
    tables.table(heads, rows, left=9)
    shown = [record for found in report.values() for record in found.dead_letters]
    tables.table(("entity", "key", "state", "next try", "message"), map(_line, shown), left=5)
    total = sum(cause.rows for _, cause in causes)
    if total > len(shown):
        tables.say(f"{len(shown):,} of {total:,}; --limit shows more, --step, --error, --older-than and --key choose.")
    if any(found.parked for found in report.values()):
        tables.say("show ENTITY KEY tells all of one; replay tries again what is mended; discard sets aside for good.")


def _line(record: DeadLetter) -> tuple[object, ...]:
    if record.state == Reason.DISCARDED:
        message = f"{record.discarded_why} ({record.discarded_by}, {record.discarded_at:%Y-%m-%d})"
        return record.entity, record.key, record.state, "when its row changes", message
    return record.entity, record.key, record.state, record.next_at or "on replay", record.message


@app.command("show")
def showing(name: Name, key: Annotated[str, typer.Argument(help="The key.")], output: Format = Output.TEXT) -> None:
    """All that is known of one: why, since when, what the monolith holds now, and what to do."""
    with opened(name, everything=False) as (stores, entities):
        context = EntityContext.open(entities[0], stores)
        (text,) = spelled(context, [key])
        with stores.target() as cursor:
            record = dead_letters.find(cursor, name, text)
        if record is None:
            raise SettingError(f"{name} {text} is no dead letter: sync-pipeline why {name} {text} says where it stands")
        found = dead_letters.with_row_now(context, record)
    show(found.as_dict(), output, partial(_shown, found))


def _shown(found: DeadLetterNow) -> None:
    row = found.dead_letter
    by = f" by {row.sink}" if row.sink else ""
    tables.say(f"{row.entity} {row.key} is {row.state}: refused at step {row.step}{by}, {row.error}")
    tables.say(f"  {row.message}")
    times = f"first {row.first_at:%Y-%m-%d %H:%M:%S}, last {row.last_at:%Y-%m-%d %H:%M:%S}"
    tables.say(f"Attempts: {row.attempts:,}; {times}; next: {row.next_at or 'when its row changes, or on replay'}.")
    if row.state == Reason.DISCARDED:
        tables.say(f"Discarded by {row.discarded_by} at {row.discarded_at:%Y-%m-%d %H:%M:%S}: {row.discarded_why}")
    if row.undone_at:
        tables.say(f"Put back as it was before, at {row.undone_at:%Y-%m-%d %H:%M:%S}: row, files and document.")
    tables.say(f"In the monolith: {_in_the_monolith(found)}")
    if found.row:
        tables.table(("column", "value now"), found.row.items(), left=2)
    tables.say(f"To do: {found.remedy}; then sync-pipeline dead-letters replay {row.entity} --key {row.key}")


def _in_the_monolith(found: DeadLetterNow) -> str:
    if not found.readable:
        return "there, and still not readable."
    if found.row is None:
        return "gone."
    if found.changed is None:
        return "there."
    return "there, and changed since it was refused." if found.changed else "there, as it was refused."


@app.command()
def replay(
    name: AnyName = None,
    everything: All = False,
    key: Keys = None,
    step: Step = None,
    error: Error = None,
    older: Older = None,
    discarded: Discarded = False,
    output: Format = Output.TEXT,
) -> None:
    """Try them again now. Discarded ones only where --key or --discarded asks for them."""
    reasons = (Reason.DISCARDED,) if discarded else DEAD_LETTERS if key else (Reason.REJECTED,)
    seconds = _seconds(older)
    report = {}
    with opened(name, everything) as (stores, entities):
        for entity in entities:
            context = EntityContext.open(entity, stores)
            chosen = DeadLetterFilter(entity.name, spelled(context, key), step, error, seconds, reasons)
            report[entity.name] = _replayed(context, dead_letters.replay(context, chosen))
    heads = ("entity", "replayed", "through", "parked again")
    show(report, output, lambda: tables.table(heads, [(n, *row.values()) for n, row in report.items()]))


def _replayed(context: EntityContext, keys: list[str]) -> dict[str, int]:
    """Work until none of them is due, whoever follows takes some of them, and whatever else is owed meanwhile."""
    left, limit = len(keys) + 1, 0.0
    while still := _to_be_tried(context, keys):
        if still < left:
            left, limit = still, time.monotonic() + _PATIENCE_SECONDS
        if time.monotonic() > limit:
            break
        if not live.work(context, lambda *_: None):
            time.sleep(_LOOK_SECONDS)  # another process works on the rest, and only the table shows its progress
    with context.stores.target() as cursor:
        chosen = DeadLetterFilter(context.entity.name, keys)
        parked = dead_letters.overview(cursor, chosen, 0).parked if keys else 0
    return {"replayed": len(keys), "through": len(keys) - parked, "parked": parked}


def _to_be_tried(context: EntityContext, keys: list[str]) -> int:
    with context.stores.target() as cursor:
        return queue_reads.being_tried(cursor, context.entity.name, keys)


@app.command()
def discard(
    name: Name,
    why: Annotated[str, typer.Option("--reason", help="Why nobody needs them; it is kept.")],
    key: Keys = None,
    step: Step = None,
    error: Error = None,
    older: Older = None,
    by: Annotated[str, typer.Option(help="Who says so.", show_default="you, at this machine")] = "",
    output: Format = Output.TEXT,
) -> None:
    """Set them aside for good: not tried again until their legacy rows change. A replay takes it back."""
    if not (key or step or error or older):
        raise SettingError("say which: --key, --step, --error or --older-than")
    if not why.strip():
        raise SettingError("--reason must say why")
    seconds = _seconds(older)
    with opened(name, everything=False) as (stores, entities):
        context = EntityContext.open(entities[0], stores)
        chosen = DeadLetterFilter(name, spelled(context, key), step, error, seconds, (Reason.REJECTED,))
        keys = dead_letters.discard(context, chosen, by or _who(), why.strip())
        with stores.target() as cursor:
            left = dead_letters.overview(cursor, chosen, 0).parked
    report = {name: {"discarded": len(keys), "left": left}}
    show(report, output, partial(_discarded, name, keys, left))


def _discarded(name: str, keys: list[str], left: int) -> None:
    tables.say(
        f"{len(keys):,} rows of {name} are discarded; sync-pipeline dead-letters replay {name} --discarded undoes it."
    )
    if left:
        tables.say(
            f"{left:,} were refused by an earlier version, which did not note the row: replay them first.", "yellow"
        )


def _seconds(age: str | None) -> float | None:
    if age is None:
        return None
    read = re.fullmatch(r"(\d+)([smhd])", age)
    if not read:
        raise SettingError(f"--older-than {age!r}: write a whole number and s, m, h or d, such as 12h")
    return float(read[1]) * _UNITS[read[2]]


def _who() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"
