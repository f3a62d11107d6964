"""`sync-pipeline why …` and `sync-pipeline history …`: what people ask about one object."""

from __future__ import annotations

from typing import Annotated

import typer

from sync_pipeline.cli import tables
from sync_pipeline.cli.common import Format, Output, opened, show, spelled
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.explain.history import Happening, Story
from sync_pipeline.explain.history import history as tell
from sync_pipeline.explain.why import Answer, explain
from sync_pipeline.explain.why import why as ask

Name = Annotated[str, typer.Argument(help="The entity.")]
Key = Annotated[str, typer.Argument(help="The key.")]


def why(name: Name, key: Key, output: Format = Output.TEXT) -> None:
    """Why an object is, or is not, in each sink."""
    with opened(name, everything=False) as (stores, entities):
        context = EntityContext.open(entities[0], stores)
        (text,) = spelled(context, [key])
        answer = ask(context, text)
    show(answer.as_dict(), output, lambda: _print(answer))


def _print(answer: Answer) -> None:
    tables.say(answer.verdict)
    for sink, message in answer.sinks.items():
        tables.say(f"  {answer.nouns[sink]}: {message}")
    tables.say(f"  state: {answer.facts.state}")
    if answer.to_do:
        tables.say(f"To do: {answer.to_do}")


def history(
    name: Name,
    key: Key,
    limit: Annotated[int, typer.Option(min=1, help="Lines shown, the newest.")] = 50,
    output: Format = Output.TEXT,
) -> None:
    """The story of an object: what batches did with it, and what was exceptional."""
    with opened(name, everything=False) as (stores, entities):
        context = EntityContext.open(entities[0], stores)
        (text,) = spelled(context, [key])
        story = tell(context, text, limit)
        answer = explain(context, story.facts)
    show({**story.as_dict(), "now": answer.verdict}, output, lambda: _narrated(story, answer))


def _narrated(story: Story, answer: Answer) -> None:
    heads = ("at", "revision", "what", "by", "of the monolith")
    rows = [
        (f"{h.at:%Y-%m-%d %H:%M:%S.%f}"[:-3], str(h.revision or ""), h.what, _by(h), h.position)
        for h in story.happenings
    ]
    if rows:
        tables.table(heads, rows, left=5)
    if not story.whole:
        tables.say("What was before is not in the log: older than SYNC_HISTORY_DAYS, or from before there was one.")
    tables.say(f"Now: {answer.verdict}")


def _by(happening: Happening) -> str:
    return f"{happening.cause}, {happening.worker}" if happening.cause else ""
