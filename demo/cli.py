"""`sync-pipeline demo …`: servers to try the pipeline on, a monolith full of content, and people who edit it."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Annotated, Literal, ParamSpec

import typer
from rich.console import Console

from demo.errors import DemoError

# Imports of the servers wait for a command: their packages are an extra, and a missing one is told in a sentence.

app = typer.Typer(no_args_is_help=True, help="Servers, content and editors to try the pipeline on, here.")
P = ParamSpec("P")


def tells(command: Callable[P, None]) -> Callable[P, None]:
    """Turn what the machine lacks into one sentence and exit code 2."""

    @functools.wraps(command)
    def told(*args: P.args, **kwargs: P.kwargs) -> None:
        from demo.machine import check_extra

        try:
            check_extra()
            command(*args, **kwargs)
        except DemoError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from error

    return told


class Clock:
    """Says what came about, and when."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()

    def __call__(self, line: str) -> None:
        """Print a line with the seconds since the start."""
        self._console.print(f"{time.monotonic() - self._began:6.1f} s  {line}", soft_wrap=True)


@app.command()
@tells
def up() -> None:
    """Start the servers and wait until they are healthy; what runs already is left alone."""
    from demo.fleet import up as start
    from demo.home import Home

    home = Home()
    start(home)
    typer.echo(f'The demo is up in {home.root}. For its environment: eval "$(sync-pipeline demo env)"')


@app.command()
@tells
def down(
    keep: Annotated[bool, typer.Option("--keep-data", help="Keep what the servers wrote for the next up.")] = False,
    wipe: Annotated[bool, typer.Option("--wipe", help="Remove the downloaded jars and the ports too.")] = False,
) -> None:
    """Stop the servers and remove what they wrote; the downloaded jars stay."""
    from demo.fleet import down as stop
    from demo.home import Home

    home = Home()
    stop(home, keep_rows=keep and not wipe)
    if wipe:
        home.remove()
    typer.echo("The demo is down.")


@app.command()
@tells
def env() -> None:
    """Print the environment for the engine and Dagster, for a shell to evaluate."""
    from demo.environment import exports
    from demo.fleet import running
    from demo.home import Home

    typer.echo(exports(running(Home()).addresses()))


@app.command("load")
@tells
def fill(
    contents: Annotated[int, typer.Option(min=1, help="Rows of content.")],
    media: Annotated[int, typer.Option(min=0, help="Files in the legacy bucket.")],
    poison: Annotated[int, typer.Option(min=0, help="Rows that no adapter takes.")] = 0,
    seed: Annotated[int, typer.Option(help="The same seed makes the same content.")] = 1,
) -> None:
    """Fill the monolith with content and files."""
    from demo.fleet import LEGACY_BUCKET, running
    from demo.home import Home
    from demo.load import load

    fleet = running(Home())
    admin_url = fleet.addresses().monolith.admin_url
    client = fleet.objects.client()
    done = load(admin_url, client, LEGACY_BUCKET, contents=contents, files=media, poison=poison, seed=seed)
    typer.echo(f"Loaded {done.contents} contents from id {done.first_id} on, and {done.files} files.")


@app.command()
@tells
def edit(
    rate: Annotated[float, typer.Option(min=0.1, help="Committed transactions a second.")],
    seconds: Annotated[float, typer.Option(min=0.1, help="How long.")],
    workers: Annotated[int, typer.Option(min=1, max=100, help="Connections side by side.")] = 8,
    poison: Annotated[int, typer.Option(min=0, help="New rows among them that no adapter takes.")] = 0,
    seed: Annotated[int, typer.Option(help="Another seed, other edits.")] = 1,
) -> None:
    """Edit the monolith as its editors would; ends early, and in order, on Ctrl-C or SIGTERM."""
    from demo.edit import Editors
    from demo.fleet import LEGACY_BUCKET, running
    from demo.home import Home
    from demo.signals import on_signal

    fleet = running(Home())
    admin_url = fleet.addresses().monolith.admin_url
    client = fleet.objects.client()
    editors = Editors(admin_url, client, LEGACY_BUCKET, rate, seconds, workers=workers, poison=poison, seed=seed)
    with on_signal(editors.halt):
        tally = editors.run()
    typer.echo(tally.line())


@app.command()
@tells
def lag(
    seconds: Annotated[float, typer.Option(min=0.0, help="How long to watch; 0: until Ctrl-C.")] = 0.0,
    wait: Annotated[float, typer.Option(min=0.0, help="How long to wait at the end for what is under way.")] = 10.0,
) -> None:
    """Measure how long edits take to show in the new tables, from commit to commit."""
    from threading import Event

    from demo.fleet import running
    from demo.home import Home
    from demo.lag import Observer
    from demo.signals import on_signal

    at = running(Home()).addresses()
    enough = Event()
    with on_signal(enough.set), Observer(at.monolith.admin_url, at.catalog_url) as observer:
        enough.wait(seconds or None)
        typer.echo(observer.finish(wait).line())


@app.command("run")
@tells
def run_all(
    contents: Annotated[int, typer.Option(min=1, help="Rows of content.")] = 20_000,
    media: Annotated[int, typer.Option(min=0, help="Files in the legacy bucket.")] = 2_000,
    rate: Annotated[float, typer.Option(min=0.1, help="Transactions a second of the editors.")] = 55.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long editors work at least.")] = 60.0,
    lag_limit: Annotated[
        float, typer.Option(min=0.1, help="What the lag's 95th percentile must be under, in s.")
    ] = 5.0,
) -> None:
    """Play the whole move once, from nothing to a verdict, and leave nothing running."""
    from demo.fleet import down as stop
    from demo.fleet import up as start
    from demo.home import Home
    from demo.run.screen import faults, screen
    from demo.run.story import Plan, play
    from demo.signals import ending_on_signal

    console = Console(width=100, highlight=False)
    say = Clock(console)
    home = Home()
    with ending_on_signal():
        try:
            stop(home)
            fleet = start(home)
            say("PostgreSQL twice, Elasticsearch and S3 are up")
            played = play(fleet, Plan(contents, media, rate, seconds), say)
        finally:
            stop(home)
    wrong = faults(played, lag_limit)
    console.print(screen(played, wrong))
    raise typer.Exit(1 if wrong else 0)


@app.command()
@tells
def dev(
    contents: Annotated[int, typer.Option(min=1, help="Rows of content, the first time.")] = 5_000,
    media: Annotated[int, typer.Option(min=0, help="Files in the legacy bucket, the first time.")] = 500,
    rate: Annotated[float, typer.Option(min=0.1, help="Transactions a second of the editors.")] = 5.0,
) -> None:
    """Servers, editors and Dagster, to work and to look around in, until Ctrl-C."""
    from demo.fleet import down as stop
    from demo.fleet import up as start
    from demo.home import Home
    from demo.run.dev import work
    from demo.signals import ending_on_signal

    say = Clock(Console(width=100, highlight=False))
    home = Home()
    with ending_on_signal():
        try:
            work(start(home), contents, media, rate, say)
        finally:
            stop(home, keep_rows=True)


@app.command(context_settings={"ignore_unknown_options": True})
@tells
def psql(
    side: Annotated[Literal["legacy", "new"], typer.Argument(help="The monolith, as its owner; or the new side.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="For psql itself, such as -c 'SELECT 1'.")] = None,
) -> None:
    """PostgreSQL's own client at one of the databases; SQL may come by standard input."""
    from demo.fleet import running
    from demo.home import Home
    from demo.machine import postgres_program

    at = running(Home()).addresses()
    program = str(postgres_program("psql"))
    os.execv(program, [program, at.monolith.admin_url if side == "legacy" else at.catalog_url, *(arguments or [])])


@app.command()
@tells
def status() -> None:
    """Show the servers and how much is in them."""
    from demo.fleet import Fleet
    from demo.home import Home
    from demo.status import count_lines, server_lines

    home = Home()
    if not home.has_ports():
        raise DemoError("No demo here. Start one with: sync-pipeline demo up")
    fleet = Fleet(home)
    typer.echo("\n".join(server_lines(fleet)))
    if fleet.legacy.healthy() and fleet.target.healthy():
        typer.echo("\n".join(count_lines(fleet.addresses())))
