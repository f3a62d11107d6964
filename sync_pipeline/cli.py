"""The command line. Exit codes: 0 clean, 1 drift, 2 unknown or error."""

from __future__ import annotations

import json
import signal
import sys
import threading
from dataclasses import asdict
from importlib.metadata import entry_points
from typing import Annotated

import typer

from sync_pipeline import due as owed
from sync_pipeline import live
from sync_pipeline.backfill import backfill as fill
from sync_pipeline.entity import Entity, load_entities, pick
from sync_pipeline.errors import SettingError, StoppedError, SyncError
from sync_pipeline.follower import Follower
from sync_pipeline.lane import Lane
from sync_pipeline.pipeline import Order, Outcome, sync_keys
from sync_pipeline.reconcile.reconcile import reconcile as compare
from sync_pipeline.reconcile.verdict import overall
from sync_pipeline.repair import repair as mend
from sync_pipeline.settings import Settings
from sync_pipeline.status import status_of
from sync_pipeline.stores import Stores

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
due_app = typer.Typer(no_args_is_help=True, help="What is owed: parked rows, documents, files, sweep findings.")
app.add_typer(due_app, name="due")

Name = Annotated[str | None, typer.Argument(help="The entity.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="Every entity.")]
Format = Annotated[str, typer.Option("--format", help="text or json")]


@app.callback()
def sync_pipeline() -> None:
    """Keep a new read side in step with a legacy monolith, and prove it."""


@app.command()
def sync(
    name: Name = None,
    everything: All = False,
    key: Annotated[list[str] | None, typer.Option(help="Only this key; may be given several times.")] = None,
    until_caught_up: Annotated[bool, typer.Option(help="Stop when all that is committed now is over.")] = False,
    follow: Annotated[bool, typer.Option(help="Go on until interrupted.")] = False,
    output: Format = "text",
) -> None:
    """Apply what changed in the monolith."""
    stores, entities = _open(name, everything)
    totals: dict[str, Outcome] = {entity.name: Outcome() for entity in entities}
    if key:
        if len(entities) != 1:
            raise SettingError("--key goes with one entity")
        lane = Lane.open(entities[0], stores)
        _add(totals[lane.entity.name], sync_keys(lane, lane.origin.key.parse(key), Order()))
    else:
        _follow(stores, entities, totals, until_caught_up=until_caught_up or not follow)
    _print({entity: asdict(outcome) for entity, outcome in totals.items()}, output)


@app.command()
def backfill(
    name: Name = None,
    everything: All = False,
    partition: Annotated[list[str] | None, typer.Option(help="Only this partition.")] = None,
    output: Format = "text",
) -> None:
    """Fill history, by partition."""
    stores, entities = _open(name, everything)
    report = {}
    for entity in entities:
        lane = Lane.open(entity, stores)
        report[entity.name] = [asdict(fill(lane, part)) for part in partition or entity.partitions.names()]
    _print(report, output)


@app.command()
def status(name: Name = None, output: Format = "text") -> None:
    """Where each entity stands."""
    stores, entities = _open(name, everything=True)
    _print({entity.name: status_of(stores, entity.name) for entity in entities}, output)


@app.command()
def reconcile(name: Name = None, everything: All = False, output: Format = "text") -> None:
    """Compare every row, document and file of both sides. Exit 0 clean, 1 drift, 2 unknown."""
    stores, entities = _open(name, everything)
    verdicts = [compare(Lane.open(entity, stores)) for entity in entities]
    word = overall(verdicts)
    _print({"verdict": word, "entities": {verdict.entity: verdict.as_dict() for verdict in verdicts}}, output)
    raise typer.Exit({"clean": 0, "drift": 1, "unknown": 2}[word])


@app.command()
def repair(
    name: Annotated[str, typer.Argument(help="The entity.")],
    key: Annotated[list[str] | None, typer.Option(help="Only this key, whether it drifts or not.")] = None,
    output: Format = "text",
) -> None:
    """Write again what reconciliation finds drifting."""
    stores, entities = _open(name, everything=False)
    lane = Lane.open(entities[0], stores)
    if key:
        outcomes = [sync_keys(lane, lane.origin.key.parse(key), Order(force=True))]
    else:
        outcomes = mend(lane, compare(lane).findings)
    total = Outcome()
    for outcome in outcomes:
        _add(total, outcome)
    _print({name: asdict(total)}, output)


@due_app.command("list")
def due_list(name: Name = None, output: Format = "text") -> None:
    """Everything that is owed, the most urgent first."""
    stores, entities = _open(name, everything=True)
    with stores.target() as cursor:
        _print({entity.name: owed.listed(cursor, entity.name) for entity in entities}, output)


@due_app.command("replay")
def due_replay(
    name: Name = None, key: Annotated[str | None, typer.Option(help="Only this key.")] = None, output: Format = "text"
) -> None:
    """Make what waits due at once, and do it."""
    stores, entities = _open(name, everything=True)
    report = {}
    for entity in entities:
        lane = Lane.open(entity, stores)
        with stores.target() as cursor:
            report[entity.name] = owed.replay(cursor, entity.name, key)
        while live.work(lane, lambda *_: None):
            pass
    _print(report, output)


def main() -> None:
    """Run a command; what went wrong on purpose is one message and exit 2."""
    for point in entry_points(group="sync_pipeline.commands"):
        app.add_typer(point.load(), name=point.name)
    try:
        app()
    except SyncError as error:
        typer.echo(f"{type(error).__name__.removesuffix('Error')}: {error}", err=True)
        sys.exit(2)


def _open(name: str | None, everything: bool) -> tuple[Stores, list[Entity]]:
    settings = Settings.from_env()
    if not name and not everything:
        raise SettingError("name an entity, or say --all")
    return Stores(settings), pick(load_entities(settings.entities), [name] if name else [])


def _follow(stores: Stores, entities: list[Entity], totals: dict[str, Outcome], *, until_caught_up: bool) -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    follower = Follower(entities, stores, lambda entity, outcome: _add(totals[entity], outcome))
    if until_caught_up:
        lanes = [Lane.open(entity, stores) for entity in entities]
        threading.Thread(target=_watch, args=(lanes, follower, stop), daemon=True).start()
    follower.run(stop)
    if follower.failures:
        raise StoppedError(*(f"entity {name}: {error}" for name, error in follower.failures.items()))


def _watch(lanes: list[Lane], follower: Follower, stop: threading.Event) -> None:
    since = live.mark(lanes)
    while not stop.wait(0.2):
        if all(lane.entity.name in follower.failures or live.caught_up(lane, since) for lane in lanes):
            stop.set()


def _add(total: Outcome, part: Outcome) -> None:
    for field in ("keys", "read", "written", "deleted", "parked", "waiting", "documents", "files", "file_bytes"):
        setattr(total, field, getattr(total, field) + getattr(part, field))


def _print(report: object, output: str) -> None:
    if output == "json":
        typer.echo(json.dumps(report, default=str))
    else:
        typer.echo(json.dumps(report, default=str, indent=2))
