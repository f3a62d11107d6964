"""Reports as people read them: tables, and a sentence where something is to be done."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sync_pipeline.model.findings import KNOWN, FindingKind
from sync_pipeline.model.notices import Notice, worst
from sync_pipeline.model.reasons import Reason
from sync_pipeline.reconcile.verdict import Verdict

# reports that hold none of these do not wait for them
if TYPE_CHECKING:
    from sync_pipeline.batch.order import Outcome
    from sync_pipeline.ledger.queue_reads import QueueCause, QueueRecord
    from sync_pipeline.operate.repair import Step
    from sync_pipeline.queue.due import QueueOverview
    from sync_pipeline.rebuild.rebuild import Rebuilt
    from sync_pipeline.run.backfill import Filled

_PIPE_COLUMNS = 160
_SAMPLES = 20
_NAMED = 3
_FILLED = ("rows", "written", "parked", "files", "file_bytes")
_STYLES = {"clean": "green", "ok": "green", "drift": "red", "error": "red", "unknown": "yellow", "warning": "yellow"}


def console() -> Console:
    """Standard output; wide where it is no terminal, so that nothing is cut."""
    width = None if sys.stdout.isatty() else _PIPE_COLUMNS
    return Console(width=width, highlight=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1) -> None:
    """Print rows under column names; all but the first `left` columns stand to the right."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for n, column in enumerate(columns):
        grid.add_column(column, justify="left" if n < left else "right", overflow="fold")
    for row in rows:
        grid.add_row(*(_cell(value) for value in row))
    console().print(grid)


def say(sentence: str, style: str = "") -> None:
    """Print a sentence, never cut."""
    console().print(Text(sentence, style), soft_wrap=True)


def outcomes(totals: Mapping[str, Outcome], refused: Mapping[str, int] | None = None) -> None:
    """Show what syncs did, by entity, and which entities have dead letters: `refused` counts those of all runs."""
    names = ("keys", "read", "written", "deleted", "documents", "files", "file_bytes", "parked", "waiting")
    heads = ("entity", "keys", "rows read", "written", "deleted", "documents", "files", "bytes", "parked", "put off")
    table(heads, [(entity, *(getattr(total, name) for name in names)) for entity, total in totals.items()])
    for entity, total in totals.items():
        _say_parked(entity, (refused or {}).get(entity, total.parked))
        if total.documents_owed:
            say(
                f"{total.documents_owed:,} documents of {entity} are owed:"
                f" sync-pipeline sync {entity} --until-caught-up",
                "yellow",
            )


def filled(report: Mapping[str, list[Filled]]) -> None:
    """What backfills did by entity; by partition only where that fits on a screen."""
    heads = ("rows", "written", "parked", "files", "bytes")
    sums = {entity: _sums(parts) for entity, parts in report.items()}
    table(("entity", "partitions", *heads), [(e, len(parts), *sums[e]) for e, parts in report.items()])
    for entity, parts in report.items():
        if 1 < len(parts) <= _SAMPLES:
            table((f"{entity}, partition", *heads), [tuple(asdict(part).values()) for part in parts])
        _say_parked(entity, sums[entity][2])


def _sums(parts: Sequence[Filled]) -> tuple[int, ...]:
    return tuple(sum(getattr(part, name) for part in parts) for name in _FILLED)


def verdicts(found: Sequence[Verdict], status: str) -> None:
    """Mismatches by entity, sink and kind; some of them by key; the verdict."""
    rows = []
    for verdict in found:
        report = verdict.as_dict()
        rows += [
            (verdict.entity, sink, verdict.compared, *(report[sink][k] for k in FindingKind)) for sink in verdict.sinks
        ]
    table(("entity", "sink", "rows compared", *FindingKind), rows, left=2)
    samples = [(verdict.entity, f) for verdict in found for f in sorted(verdict.findings)]
    if samples:
        lines = [(entity, f.sink, f.kind, f.key, f.message) for entity, f in samples[:_SAMPLES]]
        table(("entity", "sink", "kind", "key", "how"), lines, left=5)
        if len(samples) > _SAMPLES:
            say(f"… and {len(samples) - _SAMPLES:,} more; --format json gives up to 100 an entity.")
    for verdict in found:
        for sink in verdict.not_verifiable:
            say(f"{verdict.entity}: {sink} cannot be asked what it holds, and is not covered.", "yellow")
        history(verdict.entity, verdict.unfilled)
        former_digests(verdict.entity, verdict.former_digests)
        if verdict.overdue:
            say(f"{verdict.overdue:,} rows of {verdict.entity} have been owed for longer than SYNC_DUE_LIMIT_SECONDS.")
    say(f"Verdict: {status}", _STYLES[status])


def steps(found: Sequence[Step]) -> None:
    """What a repair would do: how much in each place, then the first steps."""
    from sync_pipeline.operate.repair import count

    if not found:
        say("There is nothing to repair.")
        return
    table(("place", "action", "how many"), [(*named, n) for named, n in count(found).items()], left=2)
    lines = [(step.place, step.key, step.action, step.reason) for step in found[:_SAMPLES]]
    table(("place", "key", "action", "reason"), lines, left=4)
    if len(found) > _SAMPLES:
        say(f"… and {len(found) - _SAMPLES:,} more; --format json gives up to 100.")


def left_alone(found: Sequence[Step]) -> None:
    """What a repair has left because it may belong to another."""
    from sync_pipeline.operate.repair import Action

    left = [step for step in found if step.action is Action.LEAVE and step.kind not in KNOWN]
    if left:
        say(f"{len(left):,} left alone, for example {left[0].place}, {left[0].key}: {left[0].reason}.", "yellow")


def statuses(report: Mapping[str, Mapping[str, Any]]) -> None:
    """Where each entity stands, and what somebody should look at."""
    heads = (
        "entity",
        "followed",
        "behind",
        "applied through",
        "oldest open",
        "swept",
        "due",
        "parked",
        "backfill",
        "rows",
    )
    table(heads, [_status_row(entity, found) for entity, found in report.items()])
    for entity, found in report.items():
        events = found.get("events", {})
        if any(events.values()):
            say(f"{entity}: events {', '.join(f'{status} {count:,}' for status, count in events.items())}")
        if rebuild := found.get("rebuild"):
            done = "all rows" if rebuild["filled"] else f"{rebuild['rows']:,} rows"
            since = _instant(rebuild["started_at"])
            say(f"{entity}: {rebuild['name']} is filled beside {rebuild['former']} since {since}: {done}")
        history(entity, found.get("backfill", {}).get("missing", ()))
        former_digests(entity, found.get("former_digests", 0))
        if (sweep := found.get("sweep")) and sweep["state"] != "ended":
            say(f"{entity}: {_sweep_line(sweep)}")
        if (listing := found.get("listing")) and listing["is_rarer"]:
            say(f"{entity}: {_listing_line(listing)}")
        if discarded := found.get("due", {}).get(Reason.DISCARDED):
            say(f"{entity}: {discarded:,} rows are discarded: sync-pipeline dead-letters list {entity} --discarded")
        for alert in found.get("alerts", ()):
            say(f"{entity}: {alert}", "yellow")


def history(entity: str, missing: Sequence[str]) -> None:
    """Say which partitions of a history have never been filled, if any."""
    if missing:
        named = ", ".join(missing[:_NAMED]) + (", …" if len(missing) > _NAMED else "")
        say(
            f"The history of {entity} is not all in ({len(missing):,} partitions are missing: {named}). Sweeps"
            f" leave alone what only it would bring: sync-pipeline backfill {entity}",
            "yellow",
        )


def former_digests(entity: str, rows: int) -> None:
    """Say how many rows bear a former digest, if any."""
    if rows:
        say(
            f"{rows:,} rows of {entity} bear a former digest. Sweeps compare them with the new side and bring them to"
            " the present digest by themselves: no backfill is needed"
        )


def _sweep_line(sweep: Mapping[str, Any]) -> str:
    """How far a sweep is that has not ended, and how fast."""
    since = _instant(sweep["started_at"])
    if sweep["state"] == "held":
        return f"the brake holds the sweep of {since}: {sweep['gone']:,} of {sweep['compared'] + sweep['gone']:,} gone"
    pace = f", {sweep['keys_a_second']:,} a second" if sweep["keys_a_second"] else ""
    who = f"by {sweep['owner']}" if sweep["at_work"] else "resting"
    rebased = f", {sweep['rebased']:,} brought to the present digest" if sweep["rebased"] else ""
    return (
        f"sweep since {since}, {who}: {sweep['phase']}, {sweep['compared']:,} of about {sweep['about']:,} keys{pace};"
        f" {sweep['changed']:,} differ, {sweep['gone']:,} gone{rebased}"
    )


def _listing_line(listing: Mapping[str, Any]) -> str:
    """How often sweeps list the legacy bucket, where not each of them does."""
    return (
        f"the legacy bucket is listed each {listing['every_seconds'] / 60:,.0f} min at its present size"
        f" ({_duration(listing['seconds'])} a listing), last at {_instant(listing['listed_at'])}"
    )


def _status_row(entity: str, found: Mapping[str, Any]) -> tuple[object, ...]:
    if not found:
        return (entity, "never ran", *[""] * 8)
    due, fill = dict(found["due"]), found["backfill"]
    parked = due.pop(Reason.REJECTED, 0)
    due.pop(Reason.DISCARDED, None)
    return (
        entity,
        "yes" if found["followed"] else "no",
        _duration(found["lag_seconds"]),
        _instant(found["applied_through"]),
        _duration(found["window_seconds"]),
        _instant(found["swept_at"]),
        ", ".join(f"{reason} {count:,}" for reason, count in sorted(due.items())) or 0,
        parked,
        f"{fill['done']} of {fill['declared']}",
        fill["rows"],
    )


def rebuilt(found: Sequence[Rebuilt]) -> None:
    """What rebuilds did; where one was not swapped, why."""
    heads = ("entity", "new", "former", "rows read", "compared", "carried over", "differ")
    rows = [(r.entity, r.name, r.former, r.rows, r.compared, r.carried_over, len(r.findings)) for r in found]
    table(heads, rows, left=3)
    samples = [(grid.entity, f.kind, f.key, f.detail) for grid in found for f in sorted(grid.findings)]
    if samples:
        table(("entity", "kind", "key", "how"), samples[:_SAMPLES], left=4)
    for grid in found:
        if grid.findings:
            say(
                f"Readers of {grid.entity} stay with {grid.former}: {grid.name} differs from the ledger. Mend it, then"
                f" sync-pipeline rebuild {grid.kind} {grid.entity} again; or rebuild abandon {grid.entity}.",
                "red",
            )
        else:
            say(f"{grid.former} is kept: sync-pipeline rebuild clear {grid.entity} deletes it.")


def owed(report: Mapping[str, QueueOverview]) -> None:
    """What is owed: by cause, then the most urgent of it."""
    causes = [(entity, cause) for entity, found in report.items() for cause in found.causes]
    if not causes:
        say("Nothing is owed.")
        return
    names = ("reason", "step", "error", "keys", "attempts", "first_at", "next_at", "message")
    heads = ("entity", "reason", "step", "error", "keys", "attempts", "since", "next try", "for example")
    table(heads, [(entity, *_waits(cause, names)) for entity, cause in causes], left=9)
    fields = ("reason", "key", "error", "attempts", "next_at", "message")
    lines = [(e, *_waits(r, fields)) for e, found in report.items() for r in found.records]
    table(("entity", "reason", "key", "error", "attempts", "next try", "message"), lines, left=7)
    total = sum(found.total for found in report.values())
    if total > len(lines):
        say(f"{len(lines):,} of {total:,} records; --limit shows more, --reason and --key choose.")


def _waits(record: QueueCause | QueueRecord, names: Iterable[str]) -> list[object]:
    """Fields of a record; one that has no next time waits for its row to change, or for a replay."""
    return [(record.next_at or "on replay") if name == "next_at" else getattr(record, name) for name in names]


def notices(found: Sequence[Notice]) -> None:
    """What a preflight saw, and what to do about it."""
    grid = Table.grid(padding=(0, 2))
    for _ in range(3):
        grid.add_column(overflow="fold")
    for notice in found:
        grid.add_row(Text(notice.level, _STYLES[notice.level]), notice.about, Text(notice.what))
    console().print(grid)
    remedies = [notice for notice in found if notice.remedy]
    if remedies:
        say("\nTo do:")
    for notice in remedies:
        say(f"  {notice.about}: {notice.what}\n    {notice.remedy}")
    status = worst(list(found))
    say(f"\nPreflight: {status}", _STYLES[status])


def _say_parked(entity: str, parked: int) -> None:
    if parked:
        say(f"Rows of {entity} are parked: sync-pipeline dead-letters list {entity}", "yellow")


def _cell(value: object) -> Text:
    if isinstance(value, dt.datetime):
        return Text(_instant(value))
    if isinstance(value, bool) or not isinstance(value, int):
        return Text("" if value is None else str(value))
    return Text(f"{value:,}", "" if value else "dim")


def _instant(value: dt.datetime | None) -> str:
    return value.strftime("%Y-%m-%d %H:%M:%S") if value else "never"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.1f} s" if seconds < 120 else str(dt.timedelta(seconds=int(seconds)))
