"""Dead letters as people read them in the UI: causes with counts and examples, and what to run."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from sync_pipeline.ledger.queue_reads import DeadLetterCause
from sync_pipeline.queue.dead_letters import PARKED, remedy

_CAUSES, _LONGEST = 20, 160


def dead_letter_page(entity: str, causes: Iterable[DeadLetterCause]) -> str:
    """Markdown of an entity's causes, as `dead_letters.overview` gives them, the most frequent first."""
    causes = list(causes)
    shown = causes[:_CAUSES]
    lines = ["| cause | rows | since | keys | for example |", "|---|---|---|---|---|", *map(_row, shown)]
    if len(causes) > len(shown):
        lines.append(f"\n… and {len(causes) - len(shown)} more causes: `sync-pipeline dead-letters list {entity}`")
    return "\n".join([*lines, "", *_to_do(entity, [cause for cause in shown if cause.state == PARKED])])


def _row(cause: DeadLetterCause) -> str:
    what = f"{cause.step}: {cause.error}" + ("" if cause.state == PARKED else f" ({cause.state})")
    keys = ", ".join(f"`{_cell(key)}`" for key in cause.keys)
    return f"| {what} | {cause.rows:,} | {cause.first_at:%Y-%m-%d %H:%M} | {keys} | {_cell(cause.message)} |"


def _to_do(entity: str, causes: list[DeadLetterCause]) -> Iterator[str]:
    if not causes:
        return
    yield "**To do**\n"
    for cause in causes:
        yield f"- {cause.step}: {cause.error}: {remedy(cause.step, cause.error)}."
    key, step = causes[0].keys[0], causes[0].step
    yield "\n```"
    yield f"sync-pipeline dead-letters show {entity} {shlex.quote(key)}   # all of one"
    yield f"sync-pipeline dead-letters replay {entity} --step {step}   # once it is mended"
    yield f"sync-pipeline dead-letters discard {entity} --key {shlex.quote(key)} --reason '…'   # nobody needs it"
    yield "```"


def _cell(text: str) -> str:
    """A value in a table: in one line, and with no bars."""
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
