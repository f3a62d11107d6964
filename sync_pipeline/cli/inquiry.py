"""`sync-pipeline why …`: what people ask about one object."""

from __future__ import annotations

from typing import Annotated

import typer

from sync_pipeline.cli import tables
from sync_pipeline.cli.opening import Format, Output, opened, show, spelled
from sync_pipeline.inquiry.why import Answer
from sync_pipeline.inquiry.why import why as ask
from sync_pipeline.lane import Lane

Name = Annotated[str, typer.Argument(help="The entity.")]
Key = Annotated[str, typer.Argument(help="The key.")]

_SINKS = {"relational": "row", "search": "document", "media": "files"}


def why(name: Name, key: Key, output: Format = Output.TEXT) -> None:
    """Why an object is, or is not, in each sink."""
    with opened(name, everything=False) as (stores, entities):
        lane = Lane.open(entities[0], stores)
        (text,) = spelled(lane, [key])
        answer = ask(lane, text)
    show(answer.as_dict(), output, lambda: _told(answer))


def _told(answer: Answer) -> None:
    tables.say(answer.verdict)
    for sink, said in answer.sinks.items():
        tables.say(f"  {_SINKS[sink]}: {said}")
    tables.say(f"  state: {answer.facts.state}")
    if answer.to_do:
        tables.say(f"To do: {answer.to_do}")
